"""Calls under random trees of limits, in random interleavings: 100,000 schedules, or a million with `--long`.

A schedule drives the coroutines that reserve by hand, one action after the other, and compares every level with the
laws after each of them; no event loop decides anything, so a schedule is known by its seed alone.
`python -m tests.properties.test_admission_schedules SEED` runs one again and prints what happens.
"""

import asyncio
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from flujo import UsageLimits
from flujo.application.core.admissions import HeldReservation
from flujo.application.core.usage_governor import UsageGovernor
from flujo.domain.metering import Bound, BoundedCall, FixedCall
from flujo.domain.money import ZERO
from flujo.exceptions import RefusedCallError
from tests.application.core.bounded_calls import Shrinking, of_units

_SCHEDULES = 100_000
_MOST_SCHEDULES = 1_000_000


@dataclass(slots=True, eq=False)
class _Level:
    """One level of the tree, with what it should have counted."""

    governor: UsageGovernor
    above: "tuple[_Level, ...]"
    usd: Decimal | None
    tokens: int | None
    is_hard: bool
    charged: int = 0

    @property
    def around(self) -> "tuple[_Level, ...]":
        return (self, *self.above)

    def left(self, *, counts_reserved: bool) -> tuple[Decimal | None, int | None]:
        """Return what the limit leaves; `None` is no limit."""
        governor = self.governor
        usd, tokens = governor.total_cost, governor.total_tokens
        if counts_reserved:
            usd, tokens = usd + governor.reserved_cost, tokens + governor.reserved_tokens
        return (None if self.usd is None else self.usd - usd), (None if self.tokens is None else self.tokens - tokens)


@dataclass(slots=True, eq=False)
class _Call:
    """One call: before it asks, while it waits, and while it is in flight."""

    number: int
    call: BoundedCall
    level: _Level
    limited: frozenset[_Level]
    reserving: Generator[Any, None, HeldReservation] | None = None
    waits_for: "asyncio.Future[HeldReservation] | None" = None
    held: HeldReservation | None = None
    is_refused: bool = False
    is_over: bool = False

    @property
    def is_waiting(self) -> bool:
        return self.waits_for is not None and not self.waits_for.done()

    @property
    def is_answered(self) -> bool:
        """Whether it was admitted or refused while it waited, and does not know yet."""
        return self.waits_for is not None and self.waits_for.done()

    def fits(self, *, counts_reserved: bool, bound: Bound | None = None) -> Bound | None:
        """Return what it would get from what is left on all its levels; `None` if it does not fit."""
        lefts = [level.left(counts_reserved=counts_reserved) for level in self.limited]
        usd = min((left for left, _ in lefts if left is not None), default=None)
        tokens = min((left for _, left in lefts if left is not None), default=None)
        if bound is not None:
            return bound if bound.fits(usd, tokens) else None
        return self.call.within(usd, tokens)


@dataclass(slots=True)
class _Schedule:
    """One tree of limits, some calls, and one order in which everything happens."""

    chance: Random
    say: Callable[[str], None] = lambda _: None
    levels: list[_Level] = field(default_factory=list[_Level])
    queue: list[_Call] = field(default_factory=list[_Call])
    in_flight: list[_Call] = field(default_factory=list[_Call])
    breaches: list[str] = field(default_factory=list[str])
    admitted: int = 0
    refused: int = 0

    def run(self) -> None:
        """Run to the end, and compare after each action."""
        self._plant()
        chance = self.chance
        calls = [self._new_call(number) for number in range(chance.randint(2, 8))]
        while calls or self.queue or self.in_flight:
            waiting_before = [call for call in self.queue if call.is_waiting]
            answered = [call for call in self.queue if call.is_answered]
            (kind,) = chance.choices(("ask", "end", "hear", "leave"), (3, 3, 3, 1))
            match kind:
                case "ask" if calls:
                    asked = calls.pop(0)
                    waiting_before.append(asked)
                    self._ask(asked)
                case "end" if self.in_flight:
                    self._end(self.in_flight.pop(chance.randrange(len(self.in_flight))))
                case "hear" if answered:
                    self._hear(chance.choice(answered))
                case "leave" if self.queue:
                    self._leave(chance.choice(self.queue))
                case _:
                    if not calls and not self.in_flight and not answered:
                        assert self.queue == [], "nobody waits for ever"
                    continue
            self._check_limits()
            self._check_turns(waiting_before)
        self._check_end()

    def _plant(self) -> None:
        chance = self.chance
        for number in range(chance.randint(1, 5)):
            usd = None if chance.random() < 0.3 else Decimal(chance.randint(0, 120)) / 100
            tokens = None if chance.random() < 0.5 else chance.randint(0, 120)
            is_hard = chance.random() < 0.9
            limits = UsageLimits(
                total_cost_usd_limit=usd, total_tokens_limit=tokens, mode="hard" if is_hard else "after"
            )
            label = f"level {number}"
            above: tuple[_Level, ...] = ()
            if number == 0:
                governor = UsageGovernor(limits, label=label, on_breach=self.breaches.append)
            else:
                parent = chance.choice(self.levels)
                above = parent.around
                governor = parent.governor.child(limits, label=label, cost=ZERO, tokens=0)
            self.levels.append(_Level(governor, above, usd, tokens, is_hard))
            self.say(f"{label} below {[each.governor.label for each in above]}: ${usd}, {tokens} tokens, {is_hard=}")

    def _new_call(self, number: int) -> _Call:
        chance = self.chance
        most = chance.randint(1, 60)
        call: BoundedCall = (
            FixedCall(of_units(most)) if chance.random() < 0.5 else Shrinking(chance.randint(1, most), most)
        )
        level = chance.choice(self.levels)
        limited = frozenset(
            each for each in level.around if each.is_hard and (each.usd is not None or each.tokens is not None)
        )
        return _Call(number, call, level, limited)

    def _ask(self, call: _Call) -> None:
        self.say(f"{call.number} asks for {call.call} on {call.level.governor.label}")
        call.reserving = call.level.governor.reserve(call.call).__await__()
        self._go_on(call)

    def _go_on(self, call: _Call) -> None:
        """Let a coroutine run to where it waits, or to its end."""
        assert call.reserving is not None, "it has asked"
        try:
            call.waits_for = next(call.reserving)
            self.queue.append(call)
        except StopIteration as ended:
            self._admit(call, ended.value)
        except RefusedCallError:
            self._refuse(call)

    def _admit(self, call: _Call, held: HeldReservation) -> None:
        self.say(f"{call.number} is admitted with {held.bound}")
        call.held = held
        self.in_flight.append(call)
        self.admitted += 1

    def _refuse(self, call: _Call) -> None:
        """Take a refusal; what was spent never gets less, so it has to be right now as well."""
        self.say(f"{call.number} is refused")
        call.is_refused = call.is_over = True
        self.refused += 1
        assert call.fits(counts_reserved=False) is None, f"call {call.number} was refused, but could have been afforded"

    def _hear(self, call: _Call) -> None:
        self.queue.remove(call)
        call.waits_for = None
        self._go_on(call)

    def _leave(self, call: _Call) -> None:
        """Cancel a call that waits, or that was admitted and does not know yet."""
        self.say(f"{call.number} leaves")
        self.queue.remove(call)
        call.waits_for, call.is_over = None, True
        assert call.reserving is not None, "it has asked"
        with pytest.raises(asyncio.CancelledError):
            call.reserving.throw(asyncio.CancelledError())

    def _end(self, call: _Call) -> None:
        held = call.held
        assert held is not None, "it is in flight"
        match self.chance.choice(("settle", "settle", "settle", "release", "lose")):
            case "settle":
                units = self.chance.randint(0, held.bound.tokens)
                self._charge(call, units)
                held.settle(of_units(units).cost, units)
            case "lose":
                self._charge(call, held.bound.tokens)
                held.lose()
            case _:
                self.say(f"{call.number} is released")
                held.release()
        call.is_over = True

    def _charge(self, call: _Call, units: int) -> None:
        self.say(f"{call.number} is charged {units}")
        for level in call.level.around:
            level.charged += units

    def _check_limits(self) -> None:
        """Nothing that is spent and reserved passes a hard limit, on any level."""
        for level in self.levels:
            if level.is_hard:
                usd, tokens = level.left(counts_reserved=True)
                assert usd is None or usd >= 0, f"{level.governor.label} has ${usd} left"
                assert tokens is None or tokens >= 0, f"{level.governor.label} has {tokens} tokens left"

    def _check_turns(self, waiting_before: list[_Call]) -> None:
        """Nobody is overtaken by who came later and shares a limit, and nobody waits who has the turn and fits."""
        blocked = set[_Level]()
        for call in waiting_before:
            if call.is_waiting:
                if blocked.isdisjoint(call.limited):
                    bound = call.fits(counts_reserved=False)
                    assert bound is not None, f"call {call.number} waits for what it can never have"
                    assert call.fits(counts_reserved=True, bound=bound) is None, f"call {call.number} waits, but fits"
                blocked |= call.limited
            elif not call.is_refused and not call.is_over and not (call.waits_for and call.waits_for.exception()):
                assert blocked.isdisjoint(call.limited), f"call {call.number} has overtaken one that came before"

    def _check_end(self) -> None:
        """Every level has counted what the calls below it were charged, and holds nothing any more."""
        for level in self.levels:
            governor = level.governor
            assert (governor.reserved_cost, governor.reserved_tokens) == (ZERO, 0)
            assert (governor.total_cost, governor.total_tokens) == (Decimal(level.charged) / 100, level.charged)


def _run(seed: int, say: Callable[[str], None] = lambda _: None) -> _Schedule:
    schedule = _Schedule(Random(seed), say)
    schedule.run()
    return schedule


@pytest.mark.timeout(1200)
def test_no_order_of_events_breaks_a_law_of_money(pytestconfig: pytest.Config) -> None:
    """Limits hold at every moment, calls are served in turn, and no call is refused or waits that could be made."""
    schedules = _MOST_SCHEDULES if pytestconfig.getoption("--long") else _SCHEDULES

    async def run_all() -> tuple[int, int]:
        admitted = refused = 0
        for seed in range(schedules):
            try:
                ended = _run(seed)
            except AssertionError as error:
                error.add_note(f"python -m tests.properties.test_admission_schedules {seed}  # runs it again")
                raise
            admitted, refused = admitted + ended.admitted, refused + ended.refused
        return admitted, refused

    admitted, refused = asyncio.run(run_all())

    assert admitted > schedules
    assert refused > schedules / 10


if __name__ == "__main__":

    async def _again() -> None:
        _run(int(sys.argv[1]), print)

    asyncio.run(_again())
