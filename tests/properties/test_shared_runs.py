"""Random workflows of several runs at once under random limits and budgets: the bill never passes any of them.

By default 150 worlds of up to four runs; `--long` tries 5,000 other ones. A world that fails is named by its seed.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from flujo import Amounts, Budget, Flujo, InMemoryBackend, Step, UsageLimits
from flujo.domain.metering import Bound, FixedCall, Meter
from flujo.domain.results import UNCERTAIN, StepResult
from tests.integration.paid import ended, leaves

pytestmark = pytest.mark.timeout(3600)

_NAMES = ("a", "b")


class _LostError(Exception):
    """The call ended without an answer."""


@dataclass
class _Level:
    """A limit somewhere, and what was billed under it."""

    limit: Decimal
    billed: Decimal = Decimal(0)


@dataclass
class _World:
    chance: random.Random
    levels: list[_Level] = field(default_factory=list[_Level])
    bill: Decimal = Decimal(0)
    passed: list[str] = field(default_factory=list[str])

    def usd(self, most: int) -> Decimal:
        return Decimal(self.chance.randint(0, most)) / 100

    def level(self, most: int) -> _Level:
        self.levels.append(_Level(self.usd(most)))
        return self.levels[-1]

    def step(self, name: str, around: tuple[_Level, ...], depth: int, *, runs_once: bool = True) -> Any:
        """Return a random step; one that runs more than once has no limits, because they count each execution anew."""
        limits = None
        kind = self.chance.choice(["call", "call", "parallel", "map", "sequence"]) if depth else "call"
        if runs_once and kind != "sequence" and self.chance.random() < 0.3:
            own = self.level(150)
            around, limits = (*around, own), UsageLimits(total_cost_usd_limit=own.limit)
        if kind == "parallel":
            names = [f"{name}{number}" for number in range(2)]
            branches = {each: self.step(each, around, depth - 1, runs_once=runs_once) for each in names}
            return Step.parallel(name, branches, usage_limits=limits)
        if kind == "map":
            inner, at_once = self.step(f"{name}i", around, depth - 1, runs_once=False), self.chance.randint(1, 4)
            mapped = Step.map_over(name, inner, max_concurrency=at_once, usage_limits=limits)
            return Step(f"{name}l", _items) >> mapped
        if kind == "sequence":
            first, second = (self.step(f"{name}{part}", around, depth - 1, runs_once=runs_once) for part in "xy")
            return first >> second
        return Step(name, self.agent(around), usage_limits=limits, max_retries=self.chance.randint(0, 1))

    def agent(self, around: tuple[_Level, ...]) -> Any:
        most, turns = self.usd(60), self.chance.randint(0, 4)
        cost, is_lost = most * self.chance.randint(0, 10) / 10, self.chance.random() < 0.15

        async def buy(data: Any, *, meter: Meter) -> str:
            for _ in range(2):
                reservation = await meter.reserve(FixedCall(Bound(most, 1)))
                self.bill += cost
                for level in around:
                    level.billed += cost
                    if level.billed > level.limit:
                        self.passed.append(f"{level.billed} billed under {level.limit}")
                for _ in range(turns):
                    await asyncio.sleep(0)
                if is_lost:
                    raise _LostError
                reservation.settle(cost, 1)
            return "bought"

        return buy


async def _items(data: Any) -> list[int]:
    return [1, 2, 3]


async def _live(seed: int) -> None:
    world = _World(random.Random(seed))
    chance, store = world.chance, InMemoryBackend()
    budgets = {name: world.level(300) for name in _NAMES}
    runs = list[Any]()
    for number in range(chance.randint(1, 4)):
        named = chance.sample(_NAMES, chance.randint(1, 2))
        around = tuple(budgets[name] for name in named)
        limits = None
        if chance.random() < 0.5:
            own = world.level(200)
            around, limits = (*around, own), UsageLimits(total_cost_usd_limit=own.limit)
        step = world.step(f"r{number}", around, depth=2)
        runs.append(
            Flujo(
                step,
                usage_limits=limits,
                budgets=[Budget(name, usd=budgets[name].limit) for name in named],
                state_backend=store,
            ).run_async("go")
        )
    results = await asyncio.wait_for(asyncio.gather(*map(ended, runs)), timeout=60)

    assert world.passed == []
    total = sum((result.total_cost for result in results), Decimal(0))
    assert world.bill <= total
    assert all(result.status in ("completed", "failed", "stopped") for result in results)
    uncertain = sum(map(_uncertain, leaves([step for result in results for step in result.step_history])), Decimal(0))
    if not uncertain:
        assert world.bill == total
    for name in _NAMES:
        if name in {status.name for status in await store.list_budgets()}:
            status = await store.budget_status(name)
            assert status.reserved == Amounts()
            assert budgets[name].billed <= status.spent.usd <= budgets[name].limit


def _uncertain(result: StepResult) -> Decimal:
    cost: Decimal = result.metadata_.get(UNCERTAIN, Decimal(0))
    return cost


def _seeds(config: pytest.Config) -> Iterator[int]:
    is_long = config.getoption("--long")
    first = random.randrange(2**32) if is_long else 0
    return iter(range(first, first + (5_000 if is_long else 150)))


async def test_no_bill_passes_a_limit_or_a_budget(pytestconfig: pytest.Config) -> None:
    """Whatever waits, is refused or lost, in whatever order; at the end nothing is reserved."""
    for seed in _seeds(pytestconfig):
        try:
            await _live(seed)
        except Exception as error:
            error.add_note(f"the world has seed {seed}")
            raise
