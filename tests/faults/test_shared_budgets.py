"""Eight processes share a budget, and are killed at random; the provider's bill never passes the limit.

By default 24 processes are killed in each store; `--long` kills 240.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from flujo import Amounts, Budget, BudgetStatus
from flujo.agents.prices import reset_prices
from tests.faults.spending import open_store, spend, start
from tests.providers.server import Gate, Held, Provider, Slow, Text

pytestmark = pytest.mark.timeout(600)

_PROCESSES = 8
_ANSWER = Text("word " * 4)  # 5 tokens: $0.0005 and a little for the input
_MOST = Decimal("0.012")  # that a request may cost


@pytest.fixture(autouse=True)
def _prices(provider: Provider) -> Iterator[None]:
    provider.price("model", input_usd_per_mtok=10, output_usd_per_mtok=100)
    yield
    reset_prices()


def _status(database: Path | str, name: str = "team") -> BudgetStatus:
    async def look() -> BudgetStatus:
        store = open_store(database)
        status = await store.budget_status(name)
        await store.close()
        return status

    return asyncio.run(look())


def test_processes_at_once_never_pass_a_budget(provider: Provider, database: Path | str) -> None:
    """Of many requests at once, each of which reserves ten times its cost, as many are made as are affordable."""
    provider.script(Slow(_ANSWER, 0.01))
    budgets = [Budget("team", usd=0.1), Budget("day", usd=10, per="day")]
    ids = [[f"{process}-{number}" for number in range(3)] for process in range(_PROCESSES)]

    processes = [start(database, provider.base_url, budgets, each, 20) for each in ids]
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * _PROCESSES
    for name in ("team", "day"):
        status = _status(database, name)
        assert status.spent.usd == provider.total_usd
        assert status.reserved == status.uncertain == Amounts()
    assert Decimal("0.1") - _MOST <= provider.total_usd <= Decimal("0.1")


def test_a_budget_holds_however_often_its_processes_are_killed(
    provider: Provider, database: Path | str, pytestconfig: pytest.Config
) -> None:
    """At the end every run goes on, and what the budget says was spent is never less than the bill."""
    chance = random.Random(7)
    provider.script(Slow(_ANSWER, 0.01))
    budgets = [Budget("team", usd=0.9)]
    ids = [f"run {number}" for number in range(_PROCESSES)]
    running = {run_id: start(database, provider.base_url, budgets, [run_id], 30) for run_id in ids}
    for _ in range(240 if pytestconfig.getoption("--long") else 24):
        asked = len(provider.requests) + chance.randint(1, 8)
        until_s = time.monotonic() + 5
        while len(provider.requests) < asked and time.monotonic() < until_s:
            time.sleep(0.002)
        run_id = chance.choice(ids)
        running[run_id].kill()
        running[run_id].join()
        assert provider.total_usd <= Decimal("0.9")
        running[run_id] = start(database, provider.base_url, budgets, [run_id], 30)
    for process in running.values():
        process.join()
        assert process.exitcode == 0

    results = asyncio.run(spend(database, provider.base_url, budgets, ids, 30))

    status = _status(database)
    assert provider.total_usd <= status.spent.usd <= Decimal("0.9")
    assert status.reserved == Amounts()
    assert status.uncertain.usd > 0, "no process was killed within a call"
    assert sum(result.total_cost for result in results) == status.spent.usd
    is_done = all(result.status == "completed" for result in results)
    assert is_done or status.left.usd is None or status.left.usd < _MOST


def test_what_dead_processes_had_reserved_holds_nobody_up(provider: Provider, database: Path | str) -> None:
    """Whoever waits for it finds that nobody makes those calls, and goes on with what is left."""
    gate = Gate()
    provider.script(Held(_ANSWER, gate))
    process = start(database, provider.base_url, [Budget("team", usd=0.03)], ["killed"], 2)
    provider.wait_arrived(2)
    process.kill()
    process.join()
    gate.open()
    provider.script(_ANSWER)

    (result,) = asyncio.run(spend(database, provider.base_url, [Budget("team", usd=0.03)], ["alive"], 2))

    assert result.status == "completed"
    status = _status(database)
    assert provider.total_usd <= status.spent.usd <= Decimal("0.03")
    assert status.uncertain.usd > 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_frozen_process_settles_what_it_had_reserved_once_it_goes_on(
    provider: Provider, database: Path | str
) -> None:
    """Its calls stay reserved meanwhile, because it is alive."""
    gate = Gate()
    provider.script(Held(_ANSWER, gate))
    process = start(database, provider.base_url, [Budget("team", usd=1)], ["frozen"], 2)
    provider.wait_arrived(2)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    gate.open()
    reserved = _status(database).reserved
    provider.script(_ANSWER)
    os.kill(process.pid, signal.SIGCONT)
    process.join()

    assert reserved.requests == 2
    status = _status(database)
    assert status.spent.usd == provider.total_usd
    assert status.reserved == status.uncertain == Amounts()
