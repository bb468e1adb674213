"""A fallback runs when all attempts at a step failed."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from flujo import (
    Flujo,
    InfiniteFallbackError,
    NonRetryableError,
    PausedException,
    PipelineAbortSignal,
    Step,
    StepResult,
    UsageLimitExceededError,
    UsageLimits,
    validator,
)
from flujo.testing import FailingStreamAgent, StubAgent
from tests.application.core.agent_answers import Paid, PaidError


def _fails(name: str = "primary", **options: Any) -> Step[Any, Any]:
    """Return a step that fails for $0.20 and 6 tokens."""
    return Step(name, StubAgent([PaidError("down")] * 8), **options)


def _works(name: str = "rescue", **options: Any) -> Step[Any, Any]:
    """Return a step that gives `saved` for $0.50 and 1 token."""
    return Step(name, StubAgent([Paid("saved", 0.5)] * 8), **options)


async def _run(step: Any, **options: Any) -> StepResult:
    return (await Flujo(step, **options).run_async("go")).step_history[0]


async def test_the_fallback_gives_the_output_and_both_costs_count() -> None:
    """The result has the primary's name, the sum of costs, tokens and attempts, and says what happened."""
    result = await _run(_fails().fallback(_works()))

    assert (result.name, result.success, result.output) == ("primary", True, "saved")
    assert (result.cost, result.token_counts, result.attempts) == (Decimal("0.7"), 7, 3)
    assert result.feedback is None
    assert result.metadata_ == {"fallback_triggered": True, "original_error": "PaidError: down"}


async def test_the_fallback_gets_the_input_of_the_step() -> None:
    """It starts from the input as the primary got it, without feedback."""

    @validator
    def never(output: Any) -> tuple[bool, str | None]:
        return False, "no"

    rescue = StubAgent(["saved"])
    await _run(Step("primary", StubAgent(["a", "b"]), validators=[never]).fallback(Step("rescue", rescue)))

    assert rescue.inputs == ["go"]


async def test_a_step_that_works_does_not_fall_back() -> None:
    """Nothing of the fallback shows in the result."""
    rescue = StubAgent([])

    result = await _run(_works("primary").fallback(Step("rescue", rescue)))

    assert (result.output, result.metadata_, rescue.call_count) == ("saved", {}, 0)


async def test_diagnostics_are_preserved_if_asked_for() -> None:
    """`preserve_fallback_diagnostics` keeps the primary's feedback on the rescued result."""
    result = await _run(_fails(preserve_fallback_diagnostics=True).fallback(_works()))

    assert (result.success, result.feedback) == (True, "PaidError: down")


async def test_both_failures_are_named() -> None:
    """When the fallback fails too, the feedback tells of both, and both are paid for."""
    result = await _run(_fails().fallback(_fails("rescue")))

    assert (result.success, result.name, result.cost) == (False, "primary", Decimal("0.4"))
    assert result.feedback == "PaidError: down; the fallback 'rescue': PaidError: down"
    assert result.metadata_["fallback_triggered"] is True


async def test_fallbacks_form_a_chain() -> None:
    """A fallback may have one of its own; the cost of every link counts."""
    result = await _run(_fails("a").fallback(_fails("b").fallback(_works("c"))))

    assert (result.name, result.output, result.cost) == ("a", "saved", Decimal("0.9"))
    assert [child.name for child in result.step_history] == ["a", "b"]


@pytest.mark.parametrize("error", [NonRetryableError("no such model"), ValueError("no")])
async def test_every_failure_falls_back(error: Exception) -> None:
    """An error that is not retried is rescued like any other."""
    result = await _run(Step("primary", StubAgent([error, error])).fallback(_works()))

    assert result.output == "saved"


@pytest.mark.parametrize(
    ("signal", "status"), [(PipelineAbortSignal("stop"), "aborted"), (PausedException("wait"), "paused")]
)
async def test_what_is_no_failure_does_not_fall_back(signal: Exception, status: str) -> None:
    """A step that aborts the run or waits for a person has not failed."""
    rescue = StubAgent([])

    result = await Flujo(Step("primary", StubAgent([signal])).fallback(Step("rescue", rescue))).run_async("go")

    assert (result.status, rescue.call_count) == (status, 0)


async def test_a_fallback_may_be_any_step_and_stand_anywhere() -> None:
    """Composites fall back and are fallen back on, as argument of the step too."""
    composite = Step.parallel("both", {"a": _fails("a"), "b": _works("b")})
    result = await _run(composite.fallback(_fails("x", fallback_step=_works("y") >> _works("z"))))

    assert (result.name, result.output, result.cost) == ("both", "saved", Decimal("1.9"))


async def test_a_fallback_that_waits_is_resumed_without_paying_the_primary_again() -> None:
    """That the primary failed is remembered with the pause."""
    primary = StubAgent([PaidError("down")] * 8)
    step = Step("primary", primary).fallback(Step.human_in_the_loop("ask", "what now?"))
    runner = Flujo(step)

    paused = await runner.run_async("go")
    result = await runner.resume_async(paused, "go on")

    assert (paused.status, paused.waiting[0].message) == ("paused", "what now?")
    assert (result.output, primary.call_count, result.total_cost) == ("go on", 2, Decimal("0.2"))
    assert result.step_history[0].metadata_["original_error"] == "PaidError: down"


def test_a_cycle_is_refused_when_declared() -> None:
    """A step cannot fall back on itself, over others, or over what contains it."""
    a, b, c = _fails("a"), _fails("b"), _fails("c")
    a.fallback(b.fallback(c))

    for step in (a, b, c, a >> _works(), Step.parallel("all", {"a": a})):
        with pytest.raises(InfiniteFallbackError, match=r"step 'c' cannot fall back on .* leads back to 'c'"):
            c.fallback(step)


def test_fallback_returns_the_step() -> None:
    """It sets the fallback on the step itself, so that declaring it can be chained."""
    step, rescue = _fails(), _works()

    assert step.fallback(rescue) is step
    assert step.fallback_step is rescue


async def test_a_limit_of_the_step_covers_its_fallback() -> None:
    """What the primary and the fallback spend together is held against the limit of the step."""
    step = _fails(usage_limits=UsageLimits(total_cost_usd_limit=0.6)).fallback(_works())

    with pytest.raises(
        UsageLimitExceededError, match=r"step 'primary' passed its limit of \$0.6: \$0.7 spent"
    ) as raised:
        await Flujo(step).run_async("go")

    assert raised.value.result.total_cost == Decimal("0.7")


async def test_no_fallback_starts_after_a_breach() -> None:
    """A primary that fails by passing the limit is not rescued, and its result says nothing of a fallback."""

    class HopelessError(NonRetryableError):
        token_counts = 3

    rescue = StubAgent([])
    step = Step("primary", StubAgent([HopelessError("no")])).fallback(Step("rescue", rescue))

    with pytest.raises(UsageLimitExceededError) as raised:
        await Flujo(step, usage_limits=UsageLimits(total_tokens_limit=2)).run_async("go")

    (primary,) = raised.value.result.step_history
    assert rescue.call_count == 0
    assert (primary.status, primary.feedback, primary.metadata_) == ("failed", "HopelessError: no", {})


async def test_a_fallback_of_the_last_step_streams() -> None:
    """Its chunks are handed out after those that the primary gave before it failed."""

    async def stream(data: Any) -> AsyncIterator[str]:
        yield "saved"

    step = Step("primary", FailingStreamAgent(["lost"], ValueError("cut")), max_retries=0)
    *chunks, result = [item async for item in Flujo(step.fallback(Step("rescue", stream))).run_async("go")]

    assert (chunks, result.output) == (["lost", "saved"], "saved")


async def test_a_fallback_may_update_the_context_on_its_own() -> None:
    """It merges its output by its own `updates_context`, whatever the primary does with an output."""
    rescue = Step("rescue", StubAgent([{"scratchpad": {"a": 1}}]), updates_context=True)
    step = _fails().fallback(rescue)

    result = await Flujo(step).run_async("go")

    context: Any = result.final_pipeline_context
    assert result.success
    assert context.scratchpad == {"a": 1}
