"""Governors count charges exactly, on every level of their tree at once or on none."""

import asyncio
from collections.abc import Callable, Coroutine
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo import UsageLimits
from flujo.application.core.usage_governor import UsageGovernor

CENT = Decimal("0.01")


class GatedGovernor(UsageGovernor):
    """A governor that waits before it counts, as one in another process would; `asked` counts the charges it got."""

    def __init__(self) -> None:
        super().__init__(None, label="the run", on_breach=_ignore)
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()
        self.asked = 0

    async def add_usage(self, cost: Decimal, tokens: int) -> None:
        self.asked += 1
        self.waiting.set()
        await self.gate.wait()
        await super().add_usage(cost, tokens)


def _ignore(message: str) -> None: ...


def _run_governor(limits: UsageLimits | None = None, on_breach: Callable[[str], None] = _ignore) -> UsageGovernor:
    return UsageGovernor(limits, label="the run", on_breach=on_breach)


def _levels(depth: int) -> list[UsageGovernor]:
    """Return nested governors, the run's first: branches, a step with limits, branches, ..."""
    levels = [_run_governor()]
    for level in range(depth):
        above = levels[-1]
        limited = above.child(UsageLimits(), label="a step", cost=Decimal(0), tokens=0)
        levels.append(limited if level % 2 else above.for_branches())
    return levels


def _spent(levels: list[UsageGovernor]) -> set[tuple[Decimal, int]]:
    return {(level.total_cost, level.total_tokens) for level in levels}


def _finishes_at_once(coroutine: Coroutine[Any, Any, object]) -> bool:
    """Tell whether a coroutine ends without waiting for anything, so that nothing can come in between."""
    try:
        coroutine.send(None)
    except StopIteration:
        return True
    coroutine.close()
    return False


async def test_a_charge_reaches_every_level() -> None:
    """A charge counts for the innermost level and all levels above it."""
    levels = _levels(5)

    await levels[-1].add_usage(CENT, 7)

    assert _spent(levels) == {(CENT, 7)}


async def test_a_charge_does_not_reach_the_levels_below() -> None:
    """A level does not count what was spent outside it."""
    levels = _levels(2)

    await levels[0].add_usage(CENT, 7)

    assert _spent(levels[1:]) == {(Decimal(0), 0)}


async def test_a_charge_never_waits() -> None:
    """Within one process a charge is one synchronous stretch, so that no cancellation can lose or halve it."""
    levels = _levels(6)

    assert _finishes_at_once(levels[-1].add_usage(CENT, 1))
    assert _spent(levels) == {(CENT, 1)}


async def test_the_lock_is_held_while_the_levels_above_count() -> None:
    """A second charge does not overtake one that its parent has not counted yet."""
    above = GatedGovernor()
    branches = above.for_branches()
    first = asyncio.create_task(branches.add_usage(CENT, 1))
    await above.waiting.wait()

    assert not _finishes_at_once(branches.add_usage(CENT, 1))
    assert above.asked == 1
    above.gate.set()
    await first
    assert _spent([above, branches]) == {(CENT, 1)}


async def test_charges_that_wait_for_the_lock_are_all_counted() -> None:
    """Charges of branches that come at once are counted one after the other."""
    above = GatedGovernor()
    branches = above.for_branches()
    charges = [asyncio.create_task(branches.add_usage(CENT, 1)) for _ in range(100)]
    await above.waiting.wait()

    above.gate.set()
    await asyncio.gather(*charges)

    assert _spent([above, branches]) == {(Decimal(1), 100)}


@pytest.mark.parametrize("cancelled", [0, 1], ids=["holds the lock", "waits for the lock"])
async def test_a_cancelled_charge_is_on_no_level(cancelled: int) -> None:
    """A charge that is cancelled before it counts counts nowhere, and the others go on."""
    above = GatedGovernor()
    outer = above.for_branches()
    inner = outer.for_branches()
    charges = [asyncio.create_task(inner.add_usage(CENT, 1)) for _ in range(3)]
    await above.waiting.wait()

    charges[cancelled].cancel()
    above.gate.set()
    outcomes = await asyncio.gather(*charges, return_exceptions=True)

    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes].count(True) == 1
    assert _spent([above, outer, inner]) == {(2 * CENT, 2)}


async def test_a_charge_that_fails_above_is_on_no_level() -> None:
    """A level that cannot count keeps all levels from counting."""

    class Broken(UsageGovernor):
        is_away = True

        async def add_usage(self, cost: Decimal, tokens: int) -> None:
            if self.is_away:
                raise ConnectionError("the ledger is away")
            await super().add_usage(cost, tokens)

    above = Broken(None, label="the run", on_breach=_ignore)
    branches = above.for_branches()

    with pytest.raises(ConnectionError):
        await branches.add_usage(CENT, 1)
    assert _spent([above, branches]) == {(Decimal(0), 0)}
    above.is_away = False
    assert _finishes_at_once(branches.add_usage(CENT, 1))  # the lock is free again


@given(st.lists(st.tuples(st.decimals("0", "1000", places=9), st.integers(0, 10**6)), max_size=50))
def test_sums_are_exact(charges: list[tuple[Decimal, int]]) -> None:
    """A total is the exact sum of its charges, whatever their order and size."""
    levels = _levels(3)
    turned = _levels(3)

    for cost, tokens in charges:
        assert _finishes_at_once(levels[-1].add_usage(cost, tokens))
    for cost, tokens in reversed(charges):
        assert _finishes_at_once(turned[-1].add_usage(cost, tokens))

    exact = sum((Fraction(cost) for cost, _ in charges), Fraction(0))
    assert {Fraction(level.total_cost) for level in levels} == {exact}
    assert _spent(levels) == _spent(turned)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (UsageLimits(total_cost_usd_limit=Decimal("0.03")), "the run passed its limit of $0.03: $0.04 spent"),
        (UsageLimits(total_tokens_limit=30), "the run passed its limit of 30 tokens: 40 spent"),
        (UsageLimits(total_cost_usd_limit=Decimal(1), total_tokens_limit=30), "limit of 30 tokens: 40 spent"),
    ],
)
async def test_a_limit_is_breached_when_it_is_passed(limits: UsageLimits, message: str) -> None:
    """What meets a limit is within it; the message says what the limit was and what was spent."""
    told: list[str] = []
    governor = _run_governor(limits, told.append)

    for _ in range(3):
        await governor.add_usage(CENT, 10)
    assert governor.breach() is None
    assert told == []
    await governor.add_usage(CENT, 10)

    breach = governor.breach()
    assert breach is not None
    assert message in breach
    assert told == [breach]


@pytest.mark.parametrize("limits", [UsageLimits(total_cost_usd_limit=Decimal(0)), UsageLimits(total_tokens_limit=0)])
async def test_a_limit_of_nothing_allows_what_is_free(limits: UsageLimits) -> None:
    """Under a limit of 0 the first charge breaks it, and a charge of nothing does not."""
    governor = _run_governor(limits)

    await governor.add_usage(Decimal(0), 0)
    assert governor.breach() is None
    await governor.add_usage(Decimal("1e-12"), 1)

    assert governor.breach() is not None


async def test_ten_thousand_small_charges_make_exactly_a_dollar() -> None:
    """Money does not drift: the limit is met after ten thousand charges, and passed by the next fraction of a cent."""
    governor = _run_governor(UsageLimits(total_cost_usd_limit=1.0))

    for _ in range(10_000):
        await governor.add_usage(Decimal("0.0001"), 0)
    assert governor.total_cost == Decimal(1)
    assert governor.breach() is None
    await governor.add_usage(Decimal("0.0000001"), 0)

    assert governor.breach() == "the run passed its limit of $1: $1.0000001 spent"


async def test_every_level_has_its_own_limit() -> None:
    """The inner level breaks its limit first, and its message names it."""
    told: list[str] = []
    run = _run_governor(UsageLimits(total_cost_usd_limit=Decimal("0.03")), told.append)
    step = run.child(UsageLimits(total_cost_usd_limit=CENT), label="step 'draft'", cost=Decimal(0), tokens=0)

    await step.add_usage(CENT * 2, 0)

    assert told == ["step 'draft' passed its limit of $0.01: $0.02 spent"]
    assert run.breach() is None


async def test_a_level_goes_on_counting_from_where_it_stood() -> None:
    """What was spent before a pause counts, at the level it was spent on only."""
    run = UsageGovernor(None, label="the run", on_breach=_ignore, cost=CENT, tokens=5)
    step = run.child(UsageLimits(total_tokens_limit=5), label="a step", cost=CENT, tokens=5)

    await step.add_usage(CENT, 1)

    assert _spent([run, step]) == {(2 * CENT, 6)}
    assert step.breach() == "a step passed its limit of 5 tokens: 6 spent"


def test_branches_have_no_limit_of_their_own() -> None:
    """The governor that branches share only counts."""
    branches = UsageGovernor(
        UsageLimits(total_tokens_limit=1), label="a step", on_breach=_ignore, tokens=2
    ).for_branches()

    assert branches.breach() is None


@pytest.mark.parametrize(
    "limits",
    [{"total_cost_usd_limit": -1}, {"total_tokens_limit": -1}, {"total_cost_usd_limit": "many"}, {"usd": 1}],
)
def test_limits_are_checked(limits: dict[str, Any]) -> None:
    """A limit is an amount of at least 0, and there are no others."""
    with pytest.raises(ValueError, match="validation error"):
        UsageLimits(**limits)
