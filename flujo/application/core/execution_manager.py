"""A run: its steps in order, its limits after each of them, and its result."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from flujo.application.core.frame import Earlier, ExecutionFrame
from flujo.application.core.outcome import describe_error, pipeline_result
from flujo.application.core.sequence import SequenceCheckpoint
from flujo.application.core.step_coordinator import StepCoordinator
from flujo.application.core.usage_governor import UsageGovernor
from flujo.domain.models import StepPath
from flujo.domain.money import add_usd, format_usd
from flujo.domain.pipeline import BaseStep, Pipeline
from flujo.domain.results import PipelineResult, RunStatus, StepResult, Waiting, total_usage
from flujo.exceptions import FlujoError, UsageLimitExceededError
from flujo.utils.copying import copy_value


@dataclass(slots=True, frozen=True)
class ResumePoint:
    """Where a paused run stands, kept in its result.

    Attributes:
        pipeline: What was run.
        data: Its input.
        context: The context as the run left it.
        checkpoints: Where the unfinished steps stand, by path.
        waiting: The steps that wait.
        cost: US dollars spent so far.
        tokens: Tokens spent so far.
    """

    pipeline: Pipeline[Any, Any]
    data: Any
    context: BaseModel
    checkpoints: dict[StepPath, Any]
    waiting: tuple[Waiting, ...]
    cost: Decimal
    tokens: int


@dataclass(slots=True)
class ExecutionManager:
    """Runs the steps of one pipeline for one run.

    Attributes:
        coordinator: Runs each step.
        governor: Counts what the run spends.
        history: The results of the steps that have ended.
        running: The step that has started and not ended; `None` before, between and after steps.
    """

    coordinator: StepCoordinator
    governor: UsageGovernor
    history: list[StepResult] = field(default_factory=list[StepResult])
    running: BaseStep[Any, Any] | None = None

    async def execute_steps(self, run: ExecutionFrame[Any]) -> PipelineResult[Any]:
        """Run the steps in order until one does not complete.

        Args:
            run: The frame of the whole run; its data is the input of the first step.

        Raises:
            UsageLimitExceededError: A limit was passed, at whatever depth; the history is in its `result`.
        """
        first, data, history = 0, run.data, self.history
        if (left := run.checkpoint(SequenceCheckpoint)) is not None:
            first, data = left.position, copy_value(left.data)
            history.extend(left.history)
        run.earlier = Earlier(history)
        steps, control = self.coordinator.pipeline.steps, run.scope.control
        status: RunStatus = "completed"
        for position in range(first, len(steps)):
            self.running = steps[position]
            result = await self.coordinator.execute_step(position, data, run)
            self.running = None
            history.append(result)
            self._check_limits(run)
            if result.status != "completed":
                status = result.status
                if status == "paused":
                    run.save(SequenceCheckpoint(position, data, tuple(history[:-1])))
            data = result.output
            if control.halt is not None:
                status = control.halt.status
            if status != "completed":
                break
        return self._result(run, status, data)

    def unfinished(self, run: ExecutionFrame[Any], status: RunStatus) -> PipelineResult[Any]:
        """Return what a run came to that ended in an exception: the steps that had ended."""
        return self._result(run, status, None)

    def failed(self, run: ExecutionFrame[Any], error: FlujoError) -> PipelineResult[Any] | None:
        """Return what a run came to that an error has ended, with all that was charged; `None` if no step started."""
        if self.running is None and not self.history:
            return None
        if self.running is not None:
            unstarted = StepResult(self.running.name, success=False, attempts=0, feedback=describe_error(error))
            _, result = run.scope.control.unfinished.get(error, (None, unstarted))
            self.history.append(result)
            cost, tokens = total_usage(self.history)
            if unseen := add_usd(self.governor.total_cost, cost.copy_negate()):
                result.cost = add_usd(result.cost, unseen)
            result.token_counts += self.governor.total_tokens - tokens
        return self.unfinished(run, "failed")

    def describe_position(self, run: ExecutionFrame[Any]) -> str:
        """Return where a cancelled run stood, in one line."""
        where = "before its first step" if not self.history else "between two steps"
        if self.running is not None:
            where = f"in {self.running.describe()}"
        elif len(self.history) == len(self.coordinator.pipeline.steps):
            where = "after its last step"
        steps = "1 finished step" if len(self.history) == 1 else f"{len(self.history)} finished steps"
        in_flight = sorted(run.scope.control.in_flight, key=lambda call: call.rpartition(" at ")[2])
        calls = ", ".join(in_flight) or "none"
        return (
            f"flujo run {run.scope.run_id} was cancelled {where}, after {steps} "
            f"and {format_usd(self.governor.total_cost)} spent; calls in flight: {calls}"
        )

    def _check_limits(self, run: ExecutionFrame[Any]) -> None:
        """Raise if a limit was passed, with the step that broke it in the history."""
        halt = run.scope.control.halt
        if halt is not None and halt.status == "stopped":
            raise UsageLimitExceededError(halt.reason, self._result(run, "stopped", None), budget=halt.budget)
        if (breach := self.governor.breach()) is not None:
            raise UsageLimitExceededError(breach, self._result(run, "stopped", None))

    def _result(self, run: ExecutionFrame[Any], status: RunStatus, output: Any) -> PipelineResult[Any]:
        if status != "paused":
            return pipeline_result(run.scope.run_id, status, output, self.history, run.context, ())
        pipeline = self.coordinator.pipeline
        waiting = run.scope.control.waiting
        if run.scope.durable is not None:  # the store knows where it stands, and the result may go anywhere
            return pipeline_result(run.scope.run_id, status, output, self.history, run.context, waiting)
        point = ResumePoint(
            pipeline,
            run.data,
            run.context,
            run.scope.journal.left,
            tuple(waiting),
            self.governor.total_cost,
            self.governor.total_tokens,
        )
        return pipeline_result(run.scope.run_id, status, output, self.history, run.context, waiting, point)
