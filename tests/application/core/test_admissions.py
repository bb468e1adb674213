"""What calls may cost is set aside before they are made, and never passes a limit."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo import UsageLimits
from flujo.application.core.usage_governor import UsageGovernor
from flujo.domain.metering import Bound, BoundedCall, FixedCall, Reservation
from flujo.domain.money import ZERO
from flujo.exceptions import RefusedCallError
from tests.application.core.bounded_calls import Shrinking, of_units


def _cents(number: int) -> FixedCall:
    return FixedCall(of_units(number))


def _run(limit_cents: int | None = None, breaches: list[str] | None = None) -> UsageGovernor:
    limits = None if limit_cents is None else UsageLimits(total_cost_usd_limit=Decimal(limit_cents) / 100)
    return UsageGovernor(limits, label="the run", on_breach=(list[str]() if breaches is None else breaches).append)


def _below(above: UsageGovernor, limit_cents: int | None, limit_tokens: int | None = None) -> UsageGovernor:
    usd = None if limit_cents is None else Decimal(limit_cents) / 100
    limits = UsageLimits(total_cost_usd_limit=usd, total_tokens_limit=limit_tokens)
    return above.child(limits, label="a step", cost=ZERO, tokens=0)


async def _turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def _later(awaited: Awaitable[Reservation]) -> "asyncio.Future[Reservation]":
    return asyncio.ensure_future(awaited)


async def test_a_call_that_fits_is_admitted_without_waiting() -> None:
    """What it may cost is set aside on every level, and what it did cost takes its place."""
    run = _run(100)
    step = _below(run, 50)

    held = await asyncio.wait_for(step.reserve(_cents(40)), 1)
    assert (run.reserved_cost, step.reserved_cost, step.reserved_tokens) == (Decimal("0.4"), Decimal("0.4"), 40)
    held.settle(Decimal("0.05"), 7)

    assert (run.total_cost, step.total_cost, step.total_tokens) == (Decimal("0.05"), Decimal("0.05"), 7)
    assert (run.reserved_cost, step.reserved_cost, step.reserved_tokens) == (ZERO, ZERO, 0)


async def test_a_call_waits_while_only_reservations_stand_in_its_way() -> None:
    """It is admitted as soon as one of them ends and leaves enough."""
    run = _run(100)
    first, second = await run.reserve(_cents(40)), await run.reserve(_cents(40))
    third = _later(run.reserve(_cents(40)))
    await _turns()
    assert not third.done()

    first.settle(Decimal("0.1"), 10)
    (await asyncio.wait_for(third, 1)).release()
    second.release()

    assert (run.total_cost, run.reserved_cost) == (Decimal("0.1"), ZERO)


async def test_a_call_is_refused_once_what_is_spent_rules_it_out() -> None:
    """The error says what is left where, and what the call may cost; others go on."""
    run = _run(100)
    first, second = await run.reserve(_cents(40)), await run.reserve(_cents(40))
    third = _later(run.reserve(_cents(40)))
    await _turns()

    first.settle(Decimal("0.4"), 40)
    await _turns()
    assert not third.done()
    second.settle(Decimal("0.4"), 40)

    with pytest.raises(RefusedCallError, match=r"the run has \$0.2 left to spend, and the next call may cost \$0.4"):
        await asyncio.wait_for(third, 1)
    (await run.reserve(_cents(20))).settle(Decimal("0.2"), 20)
    assert run.total_cost == 1


async def test_a_call_is_made_smaller_if_money_is_short() -> None:
    """It gets all that is left, but not before others have given back what they do not use."""
    run = _run(100)
    first = await run.reserve(_cents(60))
    short = _later(run.reserve(Shrinking(5, 200)))
    await _turns()
    assert not short.done()

    first.settle(Decimal("0.1"), 10)

    assert (await asyncio.wait_for(short, 1)).bound == of_units(90)


async def test_tokens_are_set_aside_like_dollars() -> None:
    """The scarcer of the two decides, and the error names it."""
    step = _below(_run(100), 100, 30)

    held = await step.reserve(Shrinking(5, 200))
    assert held.bound == of_units(30)
    held.settle(Decimal("0.1"), 28)

    with pytest.raises(RefusedCallError, match="a step has 2 tokens left, and the next call may use 5"):
        await step.reserve(Shrinking(5, 200))


@pytest.mark.parametrize("is_of_step", [False, True], ids=["of the run", "of a step"])
async def test_nobody_overtakes_who_waits_for_the_same_limit(*, is_of_step: bool) -> None:
    """First come first served: a small call does not pass a large one that came before it."""
    run = _below(_run(), 100) if is_of_step else _run(100)
    first = await run.reserve(_cents(80))
    order = list[str]()

    async def come(name: str, call: BoundedCall) -> None:
        held = await run.reserve(call)
        order.append(name)
        held.release()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(come("large", _cents(60)))
        tasks.create_task(come("small", _cents(10)))
        await _turns()
        assert order == []
        first.release()

    assert order == ["large", "small"]


async def test_who_waits_for_one_step_holds_up_no_other() -> None:
    """Where no limit concerns both, a later call is admitted at once."""
    run = _run()
    narrow, wide = _below(run, 50), _below(run, 500)
    await narrow.reserve(_cents(40))
    waiting = _later(narrow.reserve(_cents(40)))
    await _turns()

    await asyncio.wait_for(wide.reserve(_cents(300)), 1)

    assert not waiting.done()
    waiting.cancel()


async def test_who_is_cancelled_leaves_the_queue() -> None:
    """Those behind move up, and what was admitted in the same turn is given back."""
    run = _run(100)
    first = await run.reserve(_cents(80))
    large, small = _later(run.reserve(_cents(60))), _later(run.reserve(_cents(20)))
    await _turns()

    large.cancel()
    (await asyncio.wait_for(small, 1)).release()
    late = _later(run.reserve(_cents(100)))
    await _turns()
    first.release()
    late.cancel()
    await asyncio.wait([late])

    assert run.reserved_cost == 0
    (await run.reserve(_cents(100))).release()


async def test_a_lost_call_is_charged_all_that_was_reserved() -> None:
    """Nobody knows what it cost, so that is kept apart; ending it again does nothing."""
    run = _run(100)

    held = await run.reserve(_cents(40))
    held.lose()
    held.settle(Decimal("0.01"), 1)
    held.release()

    assert (run.total_cost, run.uncertain_cost, run.reserved_cost) == (Decimal("0.4"), Decimal("0.4"), ZERO)


async def test_the_truth_counts_though_it_is_more_than_was_reserved() -> None:
    """A provider that bills more breaches the limit, and what was paid is recorded."""
    breaches = list[str]()
    run = _run(100, breaches)

    (await run.reserve(_cents(40))).settle(Decimal("1.5"), 40)

    assert run.total_cost == Decimal("1.5")
    assert breaches == ["the run passed its limit of $1: $1.5 spent"]


async def test_limits_that_are_checked_afterwards_admit_everything() -> None:
    """With `mode="after"` nothing waits and nothing is refused."""
    limits = UsageLimits(total_cost_usd_limit=0.1, mode="after")
    run = UsageGovernor(limits, label="the run", on_breach=list[str]().append)

    held = [await asyncio.wait_for(run.reserve(_cents(40)), 1) for _ in range(3)]

    assert run.reserved_cost == Decimal("1.2")
    assert [each.bound for each in held] == [of_units(40)] * 3


async def test_nearly_all_of_a_limit_can_be_spent() -> None:
    """Though reservations are ten times what calls cost, at least 95 % of a limit are."""
    run, spent = _run(10_000), list[Decimal]()

    async def work() -> None:
        while True:
            try:
                held = await run.reserve(Shrinking(10, 400))
            except RefusedCallError:
                return
            await _turns(3)
            cost = min(Decimal("0.4"), held.bound.cost)
            held.settle(cost, int(cost * 100))
            spent.append(cost)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(work())

    assert sum(spent) == run.total_cost
    assert Decimal(95) <= run.total_cost <= Decimal(100)


# All trees and all interleavings

_LIMITS = st.none() | st.integers(0, 150)
_TREES = st.lists(st.tuples(st.integers(0, 5), _LIMITS, _LIMITS), min_size=1, max_size=6)
_CALLS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(0, 60),
        st.integers(0, 60),
        st.integers(0, 100),
        st.sampled_from(("settle", "release", "lose", "cancel", "leave")),
        st.lists(st.integers(0, 6), min_size=2, max_size=2),
    ),
    max_size=14,
)
_Ending = Literal["settle", "release", "lose", "cancel", "leave"]
_Call = tuple[int, int, int, int, _Ending, list[int]]


@dataclass
class _Forest:
    """Governors, the run's first, with what is known of their limits."""

    governors: list[UsageGovernor]
    limits: list[tuple[Decimal | None, int | None]]
    parents: list[int]

    @classmethod
    def of(cls, tree: list[tuple[int, int | None, int | None]]) -> "_Forest":
        forest = cls([], [], [])
        for number, (parent, usd, tokens) in enumerate(tree):
            limit = None if usd is None else Decimal(usd) / 100
            limits = UsageLimits(total_cost_usd_limit=limit, total_tokens_limit=tokens)
            if number == 0:
                made = UsageGovernor(limits, label="0", on_breach=_fail)
            else:
                above = forest.governors[parent % number]
                made = above.child(limits, label=str(number), cost=ZERO, tokens=0)
            forest.governors.append(made)
            forest.limits.append((limit, tokens))
            forest.parents.append(parent % number if number else -1)
        return forest

    def check(self) -> None:
        for governor, (usd, tokens) in zip(self.governors, self.limits, strict=True):
            assert governor.reserved_cost >= 0
            assert governor.reserved_tokens >= 0
            assert usd is None or governor.total_cost + governor.reserved_cost <= usd
            assert tokens is None or governor.total_tokens + governor.reserved_tokens <= tokens

    def is_ruled_out(self, number: int, least: Bound) -> bool:
        while number >= 0:
            governor, (usd, tokens) = self.governors[number], self.limits[number]
            if usd is not None and governor.total_cost + least.cost > usd:
                return True
            if tokens is not None and governor.total_tokens + least.tokens > tokens:
                return True
            number = self.parents[number]
        return False


def _fail(message: str) -> None:
    raise AssertionError(message)


@given(_TREES, _CALLS)
def test_no_interleaving_passes_a_limit(tree: list[tuple[int, int | None, int | None]], calls: list[_Call]) -> None:
    """On every level of any tree spent and reserved stay within the limit, and nobody is refused or left without need.

    Calls come, end in every way and are cancelled while they wait, in any order.
    """
    forest = _Forest.of(tree)

    async def make(call: _Call) -> None:
        number, fewest, more, per_cent, ending, (before, during) = call
        number %= len(tree)
        await _turns(before)
        shrinking = Shrinking(fewest, fewest + more)
        try:
            held = await forest.governors[number].reserve(shrinking)
        except RefusedCallError:
            assert forest.is_ruled_out(number, shrinking.least)
            return
        forest.check()
        assert of_units(fewest).cost <= held.bound.cost <= of_units(fewest + more).cost
        try:
            await _turns(during)
        except asyncio.CancelledError:
            held.lose()
            raise
        used = held.bound.tokens * per_cent // 100
        actions: dict[_Ending, Callable[[], None]] = {
            "settle": lambda: held.settle(of_units(used).cost, used),
            "release": held.release,
            "lose": held.lose,
        }
        actions.get(ending, held.lose)()
        forest.check()

    async def run() -> None:
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            for call in calls:
                task = tasks.create_task(make(call))
                if call[4] == "cancel":
                    asyncio.get_running_loop().call_soon(_cancel_later, task, call[5][1])

    asyncio.run(run())

    assert all(governor.reserved_cost == 0 for governor in forest.governors)
    run_total = forest.governors[0].total_cost
    assert all(governor.total_cost <= run_total for governor in forest.governors)


def _cancel_later(task: "asyncio.Task[None]", turns: int) -> None:
    if turns:
        asyncio.get_running_loop().call_soon(_cancel_later, task, turns - 1)
    elif not task.done():
        task.cancel()
