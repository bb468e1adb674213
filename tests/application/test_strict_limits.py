"""Strict limits refuse, before a run begins, what nobody knows the cost of."""

from decimal import Decimal
from typing import Any

import pytest

from flujo import Flujo, Step, UnboundedCallError, UsageLimitExceededError, UsageLimits
from flujo.domain.metering import Meter
from tests.integration.paid import Paid, paid_step

_STRICT = UsageLimits(total_cost_usd_limit=1, strict=True)


async def _shout(text: str) -> str:
    return text.upper()


async def _metered(text: str, *, meter: Meter) -> str:
    return text


async def test_an_agent_that_may_report_any_cost_is_refused() -> None:
    """The error names the step and says what to do, and no step has begun."""
    calls = list[str]()

    async def note(text: str) -> str:
        calls.append(text)
        return text

    runner = Flujo(Step("note", note) >> Step.parallel("both", {"a": paid_step("dear", 0.1)}), usage_limits=_STRICT)

    with pytest.raises(UnboundedCallError, match=r"step 'dear' is under a strict limit.*max_cost_usd"):
        await runner.run_async("x")

    assert calls == []


@pytest.mark.parametrize(
    "step",
    [
        Step("shout", _shout),
        Step("metered", _metered),
        paid_step("bounded", 0.1, max_cost_usd=0.2),
        Step.human_in_the_loop("ask"),
    ],
    ids=["reports nothing", "metered", "bounded", "a person"],
)
async def test_what_is_bounded_runs(step: Any) -> None:
    """Agents that say what they cost at the most, reserve it, or report no cost pass."""
    result = await Flujo(step, usage_limits=_STRICT).run_async("x")

    assert result.status in ("completed", "paused")


async def test_a_strict_limit_of_a_step_is_for_what_is_within_it() -> None:
    """Other steps may report what they like."""
    strict = Step.loop_until("loop", paid_step("within", 0.1), lambda output, context: True, usage_limits=_STRICT)

    with pytest.raises(UnboundedCallError, match="step 'within'"):
        await Flujo(strict).run_async("x")
    result = await Flujo(paid_step("beside", 0.1) >> Step("shout", _shout, usage_limits=_STRICT)).run_async("x")

    assert result.total_cost == Decimal("0.1")


async def test_an_attempt_that_passes_its_bound_is_counted_as_it_is() -> None:
    """A bound that was wrong is a breach like any other: the truth counts."""

    async def lie(text: str) -> Paid:
        return Paid(text, 2)

    runner = Flujo(Step("lie", lie, max_cost_usd=0.5, max_retries=0), usage_limits=_STRICT)
    with pytest.raises(UsageLimitExceededError, match=r"the run passed its limit of \$1: \$2 spent"):
        await runner.run_async("x")
