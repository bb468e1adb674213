"""A run that is killed while models are asked never spends more than its limit when it goes on.

By default 30 processes are killed in each store; `--long` kills 300.
"""

import asyncio
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from flujo.agents.prices import reset_prices
from flujo.domain.results import UNCERTAIN
from tests.agents.dying import ask_all, start
from tests.postgres import PostgresServer
from tests.providers.server import Gate, Held, Provider, Slow, Text

pytestmark = pytest.mark.timeout(600)

_ANSWER = Text("word " * 40)  # 50 tokens, $0.005 and a little
_MOST = Decimal("0.012")  # that a request may cost


@pytest.fixture(autouse=True)
def _prices(provider: Provider) -> Iterator[None]:
    provider.price("model", input_usd_per_mtok=10, output_usd_per_mtok=100)
    yield
    reset_prices()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path, postgres: PostgresServer) -> Path | str:
    """Where the runs are stored."""
    return tmp_path / "runs.db" if request.param == "sqlite" else postgres.new_database()


def test_a_call_in_flight_at_a_kill_is_charged_in_full(provider: Provider, database: Path | str) -> None:
    """The step that it was of has it in its cost, marked as uncertain; the provider has billed it."""
    gate = Gate()
    provider.script(Held(_ANSWER, gate))
    process = start(database, provider.base_url, 1, steps=1)
    provider.wait_arrived(2)
    process.kill()
    process.join()
    gate.open()

    result = asyncio.run(ask_all(database, provider.base_url, 1, steps=1))

    assert result.status == "completed"
    both, _ = result.step_history
    uncertain = [branch.metadata_[UNCERTAIN] for branch in both.step_history]
    assert all(Decimal(0) < cost <= _MOST for cost in uncertain)
    assert len(provider.bill) == 5
    answered = sum((billed.cost_usd for billed in provider.bill[2:]), Decimal(0))
    assert result.total_cost == answered + sum(uncertain)


def test_however_often_a_run_is_killed_its_limit_holds(
    provider: Provider, database: Path | str, pytestconfig: pytest.Config
) -> None:
    """The provider's bill never passes the limit, and what flujo counts is never less than the bill."""
    chance = random.Random(5)
    provider.script(Slow(_ANSWER, 0.01))
    limit, steps = 0.6, 60
    for _ in range(300 if pytestconfig.getoption("--long") else 30):
        process = start(database, provider.base_url, limit, steps)
        asked = len(provider.requests) + chance.randint(1, 4)
        while process.is_alive() and len(provider.requests) < asked:
            process.join(0.002)
        process.join(chance.uniform(0, 0.02))
        process.kill()
        process.join()

    result = asyncio.run(ask_all(database, provider.base_url, limit, steps))

    assert provider.total_usd <= Decimal(str(limit))
    assert result.status in ("completed", "stopped")
    assert provider.total_usd <= result.total_cost <= Decimal(str(limit))
    assert any(UNCERTAIN in step.metadata_ for step in result.step_history), "no process was killed within a call"
