"""The manager runs a run's steps in order, and checks the limits after each of them."""

from decimal import Decimal
from typing import Any

import pytest

from flujo import (
    ExecutionFrame,
    ExecutorCore,
    Pipeline,
    PipelineContext,
    Step,
    StepResult,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.application.core.execution_manager import ExecutionManager
from flujo.application.core.frame import RunControl, RunScope
from flujo.application.core.state_manager import StateManager
from flujo.application.core.step_coordinator import StepCoordinator
from flujo.application.core.usage_governor import UsageGovernor
from flujo.utils.clock import SYSTEM_CLOCK
from tests.integration.paid import paid_step


def _no_context(data: Any, inherited: Any) -> Any:
    raise AssertionError("no sub-pipeline runs here")


class LoggedGovernor(UsageGovernor):
    """A governor that logs when it is charged and asked."""

    def __init__(self, limits: UsageLimits | None, log: list[str]) -> None:
        super().__init__(limits, label="the run", on_breach=lambda message: None)
        self.log = log

    async def add_usage(self, cost: Decimal, tokens: int) -> None:
        self.log.append("charged")
        await super().add_usage(cost, tokens)

    def breach(self) -> str | None:
        breach = super().breach()
        self.log.append("asked" if breach is None else "breached")
        return breach


def _fail(data: Any) -> Any:
    raise ValueError("broken")


def _managed(
    pipeline: Pipeline[Any, Any], limits: UsageLimits | None = None
) -> tuple[ExecutionManager, ExecutionFrame[Any], list[str]]:
    """Return a manager of a pipeline, the frame of a run, and the log of its governor."""
    control, context, log = RunControl(), PipelineContext(initial_prompt="x"), list[str]()
    governor = LoggedGovernor(limits, log)
    scope = RunScope("r1", context, control, StateManager(), _no_context, SYSTEM_CLOCK)
    frame = ExecutionFrame(pipeline, "x", context, scope, governor)
    return ExecutionManager(StepCoordinator(ExecutorCore(), pipeline), governor), frame, log


async def test_the_governor_is_asked_right_after_every_step() -> None:
    """Each step's charges are checked before the next step starts."""
    manager, frame, log = _managed(paid_step("one", 0.01) >> Step("free", str) >> paid_step("two", 0.01))

    await manager.execute_steps(frame)

    assert log == ["charged", "asked", "asked", "charged", "asked"]


async def test_a_breach_is_found_by_asking() -> None:
    """The manager relies on no signal: a governor that says that its limit is passed ends the run."""
    limits = UsageLimits(total_cost_usd_limit=0.015)
    manager, frame, log = _managed(paid_step("one", 0.01) >> paid_step("two", 0.01) >> paid_step("three", 1), limits)

    with pytest.raises(UsageLimitExceededError, match=r"the run passed its limit of \$0.015: \$0.02 spent") as error:
        await manager.execute_steps(frame)
    result = error.value.result
    assert [step.name for step in result.step_history] == ["one", "two"]
    assert (result.status, result.run_id, result.total_cost) == ("stopped", "r1", Decimal("0.02"))
    assert log[-1] == "breached"


async def test_a_failed_step_is_checked_like_any_other() -> None:
    """A breach by a step that failed is a breach."""

    class CostlyError(Exception):
        cost_usd = 1

    async def fail(data: Any) -> Any:
        raise CostlyError

    manager, frame, _ = _managed(Pipeline.from_step(Step("fail", fail)), UsageLimits(total_cost_usd_limit=0.5))

    with pytest.raises(UsageLimitExceededError) as error:
        await manager.execute_steps(frame)
    assert [step.name for step in error.value.result.step_history] == ["fail"]


async def test_each_step_works_on_the_output_of_the_one_before() -> None:
    """The run's input goes to the first step, and the last step's output is the run's."""
    manager, frame, _ = _managed(Step("wrap", lambda data: [data]) >> Step("count", len))

    result = await manager.execute_steps(frame)

    assert (result.output, result.status) == (1, "completed")
    assert [step.output for step in result.step_history] == [["x"], 1]


async def test_equal_results_are_all_kept() -> None:
    """A history has one entry for every step that ran, even if they cannot be told apart."""
    step = paid_step("same", 0.01)
    manager, frame, _ = _managed(Pipeline(steps=[step, step, step]))

    result = await manager.execute_steps(frame)

    assert len(result.step_history) == 3
    assert result.total_cost == Decimal("0.03")


async def test_nothing_runs_after_a_step_that_failed() -> None:
    """The failed step is the last one in the history."""
    manager, frame, _ = _managed(Step("fail", _fail) >> paid_step("never", 1))

    result = await manager.execute_steps(frame)

    assert (result.status, result.output) == ("failed", None)
    assert [step.name for step in result.step_history] == ["fail"]


async def test_a_mistake_of_the_workflow_keeps_what_ran_before() -> None:
    """A run that ends in an exception still has the results of the steps that had ended."""
    manager, frame, _ = _managed(paid_step("one", 0.01) >> Step[Any, Any]("nobody") >> paid_step("never", 1))

    with pytest.raises(Exception, match="has no agent"):
        await manager.execute_steps(frame)
    result = manager.unfinished(frame, "failed")

    assert (result.status, result.total_cost) == ("failed", Decimal("0.01"))
    assert [step.name for step in result.step_history] == ["one"]


@pytest.mark.parametrize(
    ("finished", "running", "where"),
    [
        (0, None, "cancelled before its first step, after 0 finished steps"),
        (0, "one", "cancelled in step 'one', after 0 finished steps"),
        (1, None, "cancelled between two steps, after 1 finished step"),
        (1, "two", "cancelled in step 'two', after 1 finished step"),
        (2, None, "cancelled after its last step, after 2 finished steps"),
    ],
)
def test_the_position_of_a_run_in_words(finished: int, running: str | None, where: str) -> None:
    """Whoever cancels a run is told where it stood."""
    manager, frame, _ = _managed(paid_step("one") >> paid_step("two"))
    manager.history.extend(StepResult(f"s{number}") for number in range(finished))
    manager.running = None if running is None else Step(running, str)
    frame.scope.control.in_flight.extend(["'b' at 1/branch:b/0", "'a' at 0"])

    assert manager.describe_position(frame) == (
        f"flujo run r1 was {where} and $0 spent; calls in flight: 'a' at 0, 'b' at 1/branch:b/0"
    )
