"""pytest finds flujo's fixtures as soon as flujo is installed."""

import pytest

pytest_plugins = ["pytester"]

_TESTS = """
from flujo import Flujo, InMemoryCache, Step
from flujo.testing import FailingCache, ManualClock, StubAgent

def test_clock(manual_clock):
    assert isinstance(manual_clock, ManualClock)
    assert manual_clock.monotonic() == 0
    manual_clock.advance(5)

def test_another_clock(manual_clock):
    assert manual_clock.monotonic() == 0

def test_cache(failing_cache):
    assert isinstance(failing_cache, FailingCache)
    assert failing_cache.failing == set()
    failing_cache.failing.add("get")
    assert Flujo(Step.cached(Step("ask", StubAgent(["a"])), failing_cache)).run("x").output == "a"
"""


def test_fixtures_are_there_without_an_import(pytester: pytest.Pytester) -> None:
    """A test asks for a fixture by name, and each test gets its own."""
    pytester.makepyfile(_TESTS)

    result = pytester.runpytest_inprocess("-p", "no:asyncio", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=3)


def test_fixtures_are_listed(pytester: pytest.Pytester) -> None:
    """`pytest --fixtures` shows what each fixture is for."""
    result = pytester.runpytest_inprocess("--fixtures", "-p", "no:asyncio", "-p", "no:cacheprovider")

    result.stdout.fnmatch_lines(["failing_cache*", "*works until*", "manual_clock*", "*only moves*"])
