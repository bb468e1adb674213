"""Random schedules of calls in random budgets: the tables say what a simple account of every call says.

By default 400 schedules of 80 changes each; `--long` tries 20,000 other ones.
A schedule that fails is named by its seed.
"""

import asyncio
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from flujo import Amounts, Budget, InMemoryBackend
from flujo.state.budgets import BudgetChange, BudgetOutcome, BudgetRequest, Settlement
from flujo.state.ownership import Owner
from flujo.testing import ManualClock
from flujo.testing.conformance import owner_elsewhere

pytestmark = pytest.mark.timeout(3600)

_NAMES = ("a", "b", "c")
_LEASE_S = 100.0
_DAY_S = 86_400


@dataclass
class _Call:
    request: BudgetRequest
    state: str  # waiting, reserved or lost
    place: int
    renewed_at_s: float
    window: int = 0


@dataclass
class _Account:
    """What everybody should agree on, kept as simply as can be."""

    limits: dict[str, Decimal]
    spent: dict[tuple[str, int], Amounts] = field(default_factory=dict[tuple[str, int], Amounts])
    uncertain: dict[tuple[str, int], Amounts] = field(default_factory=dict[tuple[str, int], Amounts])
    calls: dict[str, _Call] = field(default_factory=dict[str, _Call])

    def window(self, name: str, day: int) -> int:
        """Only budget `c` begins anew with each day."""
        return day if name == "c" else 0

    def charge(self, name: str, day: int, used: Amounts, *, is_uncertain: bool = False) -> None:
        key = name, self.window(name, day)
        self.spent[key] = self.spent.get(key, Amounts()) + used
        if is_uncertain:
            self.uncertain[key] = self.uncertain.get(key, Amounts()) + used

    def reserved(self, name: str, day: int) -> Amounts:
        held = [
            call.request.most
            for call in self.calls.values()
            if call.state == "reserved"
            and name in call.request.budgets
            and self.window(name, call.window) == self.window(name, day)
        ]
        return sum(held, Amounts())

    def free(self, name: str, day: int) -> Decimal:
        spent = self.spent.get((name, self.window(name, day)), Amounts()) + self.reserved(name, day)
        return self.limits[name] - spent.usd

    def is_blocked(self, call: _Call) -> bool:
        return any(
            other.state == "waiting"
            and other.place < call.place
            and set(other.request.budgets) & set(call.request.budgets)
            for other in self.calls.values()
        )

    def lose(self, call: _Call) -> None:
        if call.state == "reserved":
            for name in call.request.budgets:
                self.charge(name, call.window, call.request.most, is_uncertain=True)
            call.state = "lost"


class _Schedule:
    """One random schedule."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.store = InMemoryBackend(clock=self.clock, lease_s=_LEASE_S)
        self.owners = [owner_elsewhere() for _ in range(3)]
        self.account = _Account({name: Decimal(self.chance.randint(0, 30)) / 10 for name in _NAMES})
        self.places = 0
        self.now_s = 0.0

    @property
    def day(self) -> int:
        return int(self.now_s // _DAY_S)

    async def run(self) -> None:
        limits = self.account.limits
        await self.store.declare_budgets(
            [Budget(name, usd=limits[name], per="day" if name == "c" else None) for name in _NAMES]
        )
        for _ in range(80):
            await self.chance.choice([self.begin, self.begin, self.again, self.again, self.end, self.end, self.rare])()
            await self.check()

    async def begin(self) -> None:
        budgets = tuple(self.chance.sample(_NAMES, self.chance.randint(1, 3)))
        most = Amounts(Decimal(self.chance.randint(0, 12)) / 10, self.chance.randint(0, 9), 1)
        self.places += 1
        request = BudgetRequest(f"call {self.places}", budgets, most, "run", self.chance.choice(self.owners))
        call = self.account.calls[request.call_id] = _Call(request, "waiting", self.places, self.now_s)
        await self.ask(call, request)

    async def again(self) -> None:
        waiting = [call for call in self.account.calls.values() if call.state == "waiting"]
        if waiting:
            call = self.chance.choice(waiting)
            if self.chance.random() < 0.3:  # it makes do with less
                call.request = replace(call.request, most=replace(call.request.most, usd=call.request.most.usd / 2))
            await self.ask(call, replace(call.request, is_waiting=True))

    async def ask(self, call: _Call, request: BudgetRequest) -> None:
        outcome = await self.store.change_budgets(BudgetChange(request=replace(request, looks_for_dead=False)))
        fits = all(self.account.free(name, self.day) >= request.most.usd for name in request.budgets)
        assert outcome.is_granted == (fits and not self.account.is_blocked(call))
        if outcome.is_granted:
            call.state, call.window = "reserved", self.day

    async def end(self) -> None:
        begun = list(self.account.calls.values())
        if not begun:
            return
        call = self.chance.choice(begun)
        request = call.request
        truth = replace(request.most, usd=request.most.usd * self.chance.choice([0, 1, 2, 3]) / 2)
        used = self.chance.choice([None, Amounts(), truth, truth])
        await self.store.change_budgets(BudgetChange([Settlement(request.budgets, request.call_id, used)]))
        del self.account.calls[request.call_id]
        if call.state == "waiting":
            return
        if call.state == "reserved" and used is None:
            self.account.lose(call)
        elif used is not None:
            if call.state == "lost":
                for name in request.budgets:
                    self.account.charge(name, call.window, Amounts() - request.most, is_uncertain=True)
            for name in request.budgets:
                self.account.charge(name, call.window, used)

    async def rare(self) -> None:
        match self.chance.randint(0, 3):
            case 0:
                used = Amounts(Decimal(self.chance.randint(0, 5)) / 10, 3, 1)
                await self.store.change_budgets(BudgetChange([Settlement(("a", "c"), None, used)]))
                for name in ("a", "c"):
                    self.account.charge(name, self.day, used)
            case 1:
                await self.store.top_up_budget("b", Amounts(usd=Decimal("0.5")))
                self.account.limits["b"] += Decimal("0.5")
            case 2:
                seconds = self.chance.choice([10.0, _DAY_S / 2])
                self.clock.advance(seconds)
                self.now_s += seconds
                for owner in self.owners:
                    await self.store.renew_calls(owner)
            case _:
                await self.bury(self.chance.choice(self.owners))

    async def bury(self, dead: Owner) -> None:
        """Let an owner die; whoever looks, because it has to wait, finds out."""
        for owner in self.owners:
            if owner is not dead:
                await self.store.renew_calls(owner)
        self.clock.advance(_LEASE_S - 1)
        self.now_s += _LEASE_S - 1
        for owner in self.owners:
            if owner is not dead:
                await self.store.renew_calls(owner)
        self.clock.advance(2)
        self.now_s += 2
        looking = BudgetRequest("looking", _NAMES, Amounts(Decimal(10**6)), "run", owner_elsewhere())
        outcome: BudgetOutcome = await self.store.change_budgets(BudgetChange(request=looking))
        assert not outcome.is_granted
        await self.store.change_budgets(BudgetChange([Settlement(_NAMES, "looking", Amounts())]))
        self.owners[self.owners.index(dead)] = owner_elsewhere()
        for call_id, call in list(self.account.calls.items()):
            if call.request.owner is dead:
                self.account.lose(call)
                if call.state == "waiting":
                    del self.account.calls[call_id]

    async def check(self) -> None:
        for name in _NAMES:
            status = await self.store.budget_status(name)
            key = name, self.account.window(name, self.day)
            assert status.limit.usd == self.account.limits[name]
            assert status.spent == self.account.spent.get(key, Amounts())
            assert status.uncertain == self.account.uncertain.get(key, Amounts())
            assert status.reserved == self.account.reserved(name, self.day)


async def test_the_tables_agree_with_a_simple_account(pytestconfig: pytest.Config) -> None:
    """Whatever ends, waits, dies, is topped up or begins anew, in whatever order."""
    is_long = pytestconfig.getoption("--long")
    first = random.randrange(2**32) if is_long else 0
    for seed in range(first, first + (20_000 if is_long else 400)):
        try:
            await _Schedule(seed).run()
        except AssertionError as error:
            error.add_note(f"the schedule has seed {seed}")
            raise
        await asyncio.sleep(0)
