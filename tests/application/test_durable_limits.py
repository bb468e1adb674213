"""Limits of a step hold for the whole run, however often it goes on."""

from collections.abc import Iterable
from typing import Any

import pytest

from flujo import (
    Flujo,
    Step,
    UsageLimitExceededError,
    UsageLimits,
    ValidationResult,
)
from flujo.state.backend import StateBackend
from flujo.testing import StubAgent
from tests.integration.paid import Paid


class _KilledError(BaseException):
    """Stands for the end of the process."""


class _CostlyError(ValueError):
    cost_usd, token_counts = 0.8, 1


class _IsGood:
    name = "is good"

    async def validate(self, output: Any, context: Any = None) -> ValidationResult:
        return ValidationResult(is_valid=output == "good", feedback="not good", validator_name=self.name)


def _trying(
    answers: Iterable[Any], backend: StateBackend, limit_usd: float, max_retries: int = 1
) -> tuple[StubAgent, Flujo[Any, Any]]:
    """Return an agent, and a runner with one step that may spend so much."""
    agent = StubAgent(answers)
    step = Step("try", agent, validators=[_IsGood()], max_retries=max_retries)
    limits = UsageLimits(total_cost_usd_limit=limit_usd)
    within = Step.loop_until("loop", step, lambda output, context: True, max_loops=1, usage_limits=limits)
    return agent, Flujo(within, state_backend=backend)


async def test_attempts_before_a_crash_count(backend: StateBackend) -> None:
    """A step that was killed between two attempts may spend what the first one left, as if it had not been killed."""
    _, killed = _trying([Paid("bad", 0.6), _KilledError()], backend, 1)
    with pytest.raises(_KilledError):
        await killed.run_async("x", run_id="run")
    _, going_on = _trying([Paid("good", 0.6)], backend, 1)

    with pytest.raises(UsageLimitExceededError, match=r"step 'loop' passed its limit of \$1: \$1.2 spent") as error:
        await going_on.run_async("x", run_id="run")

    assert error.value.result.total_cost_usd == 1.2


async def test_what_a_step_spent_in_vain_counts(backend: StateBackend) -> None:
    """A step that failed, and has spent more than it may by now, calls nobody; a larger limit lets it go on."""
    _, failing = _trying([Paid("bad", 0.6)], backend, 1, max_retries=0)
    assert (await failing.run_async("x", run_id="run")).status == "failed"
    poorer, refused = _trying([], backend, 0.5)
    richer, going_on = _trying([Paid("good", 0.6)], backend, 2)

    with pytest.raises(UsageLimitExceededError, match=r"step 'loop' passed its limit of \$0.5: \$0.6 spent"):
        await refused.run_async("x", run_id="run")
    result = await going_on.run_async("x", run_id="run")

    assert (result.status, result.total_cost_usd) == ("completed", 1.2)
    assert (poorer.call_count, richer.call_count) == (0, 1)


async def test_limits_of_other_steps_are_their_own(backend: StateBackend) -> None:
    """What one step spent in vain takes nothing from the limit of another."""
    limit = UsageLimits(total_cost_usd_limit=1)

    def runner(*answers: Any) -> Flujo[Any, Any]:
        steps = [
            Step(name, StubAgent(script), max_retries=0, usage_limits=limit)
            for name, script in zip("ab", answers, strict=True)
        ]
        return Flujo(steps[0] >> steps[1], state_backend=backend)

    assert (await runner([_CostlyError()], []).run_async("x", run_id="run")).status == "failed"

    result = await runner([Paid("one", 0.2)], [Paid("two", 0.9)]).run_async("x", run_id="run")

    assert result.status == "completed"
