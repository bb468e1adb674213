"""What a run costs never passes what it was said to cost at the most, whatever its agents do."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from flujo import BaseStep, Flujo, PipelineResult, RefinementCheck, Step, UsageLimitExceededError, UsageLimits
from flujo.domain.metering import Bound, FixedCall, Meter

AnyStep = BaseStep[Any, Any]
Build = Callable[["Chance"], AnyStep]
"""Makes a step whose agents do what chance says."""

_MOST_CENTS = 6


@dataclass
class Priced:
    """An answer that reports its cost, and fails as an error that does."""

    output: Any
    cost_usd: Decimal


class DearError(Exception):
    def __init__(self, cost: Decimal) -> None:
        super().__init__("failed after it was paid for")
        self.cost_usd = cost


class Chance:
    """What agents do, picked by a seed.

    Args:
        seed: Another one, another course of the run.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def cents(self, most: int) -> Decimal:
        """Return an amount up to so many cents, often all of it."""
        return Decimal(max(self._random.randint(0, most), self._random.randint(0, most))) / 100

    def holds(self) -> bool:
        """Toss a coin."""
        return self._random.random() < 0.5

    def number(self, most: int) -> int:
        """Return a number from 0 up to this one."""
        return self._random.randint(0, most)


def _cents(number: int) -> Decimal:
    return Decimal(number) / 100


def _limits(cents: int | None, mode: Any) -> UsageLimits | None:
    return None if cents is None else UsageLimits(total_cost_usd_limit=_cents(cents), mode=mode)


maybe_limits = st.builds(_limits, st.none() | st.integers(1, 30), st.sampled_from(["hard", "hard", "after"]))


def _reporting(most: int, retries: int, *, is_bounded: bool) -> Build:
    """Make a step whose agent reports what it cost, whether it answers or fails."""

    def build(chance: Chance) -> AnyStep:
        async def report(data: Any) -> Any:
            cost = chance.cents(most)
            if chance.number(3) == 0:
                raise DearError(cost)
            if chance.number(3) == 0:
                raise ValueError("failed, and nobody knows what it cost")
            return Priced(data, cost)

        return Step("reporting", report, max_retries=retries, max_cost_usd=_cents(most) if is_bounded else None)

    return build


def _metered(most: int, calls: int, retries: int, limits: UsageLimits | None) -> Build:
    """Make a step whose agent reserves each of its calls, and ends them in every way there is."""

    def build(chance: Chance) -> AnyStep:
        async def reserve(data: Any, *, meter: Meter) -> Any:
            for _ in range(calls):
                held = await meter.reserve(FixedCall(Bound(_cents(most), 1)))
                match chance.number(3):
                    case 0:
                        held.lose()
                    case 1:
                        held.release()
                    case _:
                        held.settle(chance.cents(most), 1)
            if chance.number(3) == 0:
                raise ValueError("failed")
            return data

        return Step("metered", reserve, max_retries=retries, usage_limits=limits)

    return build


def _free(chance: Chance) -> AnyStep:
    async def answer(data: Any) -> str:
        if chance.number(5) == 0:
            raise ValueError("failed")
        return str(data)

    return Step("free", answer, max_retries=1)


cents, retries = st.integers(0, _MOST_CENTS), st.integers(0, 2)
leaves: st.SearchStrategy[Build] = st.one_of(
    st.builds(_reporting, cents, retries, is_bounded=st.sampled_from([True] * 5 + [False])),
    st.builds(_metered, cents, st.integers(1, 3), retries, maybe_limits),
    st.just(_free),
)


def _sequence(first: Build, second: Build) -> Build:
    return lambda chance: first(chance) >> second(chance)


def _fallback(step: Build, other: Build) -> Build:
    return lambda chance: (step(chance) >> _free(chance)).fallback(other(chance))


def _branch(first: Build, second: Build, limits: UsageLimits | None) -> Build:
    def build(chance: Chance) -> AnyStep:
        def choose(data: Any, context: Any) -> bool:
            return chance.holds()

        branches = {True: first(chance), False: second(chance)}
        return Step.branch_on("branch", choose, branches, usage_limits=limits)

    return build


def _parallel(first: Build, second: Build, limits: UsageLimits | None) -> Build:
    return lambda chance: Step.parallel("all", {"a": first(chance), "b": second(chance)}, usage_limits=limits)


def _router(first: Build, second: Build) -> Build:
    def build(chance: Chance) -> AnyStep:
        async def route(data: Any) -> list[str]:
            return [name for name in ("a", "b") if chance.holds()]

        return Step.dynamic_parallel_branch("route", route, {"a": first(chance), "b": second(chance)})

    return build


def _loop(body: Build, max_loops: int, limits: UsageLimits | None) -> Build:
    def build(chance: Chance) -> AnyStep:
        def ends(data: Any, context: Any) -> bool:
            return chance.number(3) == 0

        return Step.loop_until("loop", body(chance), ends, max_loops, usage_limits=limits)

    return build


def _refine(generator: Build, max_refinements: int) -> Build:
    def build(chance: Chance) -> AnyStep:
        async def criticise(draft: Any) -> RefinementCheck:
            return RefinementCheck(is_complete=chance.number(3) == 0)

        return Step.refine_until("refine", generator(chance), Step("critic", criticise), max_refinements)

    return build


def _map(body: Build, items: int, limits: UsageLimits | None) -> Build:
    def build(chance: Chance) -> AnyStep:
        async def spread(data: Any) -> list[int]:
            return list(range(chance.number(items + 1)))  # one too many is refused

        return Step("spread", spread) >> Step.map_over("each", body(chance), max_items=items, usage_limits=limits)

    return build


def _inside(step: Build) -> Build:
    return lambda chance: Step.cached((step(chance) >> _free(chance)).as_step("sub"))


def _composites(inner: st.SearchStrategy[Build]) -> st.SearchStrategy[Build]:
    few = st.integers(1, 3)
    return st.one_of(
        st.builds(_sequence, inner, inner),
        st.builds(_fallback, inner, inner),
        st.builds(_branch, inner, inner, maybe_limits),
        st.builds(_parallel, inner, inner, maybe_limits),
        st.builds(_router, inner, inner),
        st.builds(_loop, inner, few, maybe_limits),
        st.builds(_refine, inner, few),
        st.builds(_map, inner, few, maybe_limits),
        st.builds(_inside, inner),
    )


def _spent(runner: Flujo[Any, Any]) -> Decimal:
    ended: PipelineResult[Any] | None
    try:
        ended = runner.run("go")
    except UsageLimitExceededError as stopped:
        ended = stopped.result
    assert ended is not None, "a run that a limit stopped has a result"
    return ended.total_cost


@given(st.recursive(leaves, _composites, max_leaves=6), maybe_limits, st.integers(0, 2**32))
def test_a_run_never_costs_more_than_its_ceiling(build: Build, limits: UsageLimits | None, seed: int) -> None:
    """Every kind of step, with retries, fallbacks and limits; what has no ceiling makes no claim."""
    runner = Flujo(build(Chance(seed)), usage_limits=limits)

    ceiling = runner.cost_ceiling()
    spent = _spent(runner)

    event("unbounded" if ceiling.usd is None else "met" if spent == ceiling.usd else "below")
    assert ceiling.usd is None or spent <= ceiling.usd
    assert (ceiling.usd is None) == bool(ceiling.unbounded)
