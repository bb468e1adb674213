"""How hard the tests try: `--long` looks for rare failures, without it a run is short and repeatable."""

import signal

import pytest
from hypothesis import settings

from tests.postgres import database, postgres, postgres_dsn
from tests.providers.server import provider

__all__ = ["database", "postgres", "postgres_dsn", "provider"]  # fixtures of all tests

_LONG_TIMEOUT_S = 3600

settings.register_profile("ci", max_examples=50, derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("long", max_examples=5000, deadline=None, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--long`."""
    parser.addoption(
        "--long",
        action="store_true",
        help="try many random examples in property tests, other ones each time",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the Hypothesis profile, and let processes that tests start be interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what a shell starts in the background ignores it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.load_profile("long" if config.getoption("--long") else "ci")


@pytest.hookimpl(trylast=True)  # Hypothesis marks its tests in a hook of the same name
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give long property tests the time they need."""
    if not config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("hypothesis") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_LONG_TIMEOUT_S))
