"""A run: its steps in order, its limits after each of them, and its result."""

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.outcome import pipeline_result
from flujo.application.core.sequence import SequenceCheckpoint
from flujo.application.core.step_coordinator import StepCoordinator
from flujo.application.core.usage_governor import UsageGovernor
from flujo.domain.models import StepPath
from flujo.domain.money import format_usd
from flujo.domain.pipeline import Pipeline
from flujo.domain.results import PipelineResult, RunStatus, StepResult, Waiting
from flujo.exceptions import UsageLimitExceededError


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


@dataclass(slots=True, frozen=True)
class ExecutionManager:
    """Runs the steps of one pipeline for one run."""

    coordinator: StepCoordinator
    governor: UsageGovernor

    async def execute_steps(self, run: ExecutionFrame[Any]) -> PipelineResult[Any]:
        """Run the steps in order until one does not complete.

        Args:
            run: The frame of the whole run; its data is the input of the first step.

        Raises:
            UsageLimitExceededError: A limit was passed, at whatever depth; the history is in its `result`.
            asyncio.CancelledError: The task was cancelled; its notes say where the run stood.
        """
        start = run.checkpoint(SequenceCheckpoint) or SequenceCheckpoint(0, run.data, ())
        history, data = list(start.history), start.data
        control = run.scope.control
        status: RunStatus = "completed"
        for position in range(start.position, len(self.coordinator.pipeline.steps)):
            try:
                result = await self.coordinator.execute_step(position, data, run)
            except asyncio.CancelledError as cancelled:
                self._note_position(cancelled, run, position, history)
                raise
            history.append(result)
            self._check_limits(run, history)
            if result.status != "completed":
                status = result.status
                if status == "paused":
                    run.save(SequenceCheckpoint(position, data, tuple(history[:-1])))
            data = result.output
            if control.halt is not None:
                status = control.halt.status
            if status != "completed":
                break
        return self._result(run, history, status, data)

    def _check_limits(self, run: ExecutionFrame[Any], history: list[StepResult]) -> None:
        """Raise if a limit was passed, with the step that broke it in the history."""
        halt = run.scope.control.halt
        breach = halt.reason if halt and halt.status == "stopped" else self.governor.breach()
        if breach is not None:
            raise UsageLimitExceededError(breach, self._result(run, history, "stopped", None))

    def _result(
        self, run: ExecutionFrame[Any], history: list[StepResult], status: RunStatus, output: Any
    ) -> PipelineResult[Any]:
        waiting = sorted(run.scope.control.waiting, key=lambda asked: asked.path)
        point = self._resume_point(run, waiting)
        return pipeline_result(run.scope.run_id, status, output, history, run.context, waiting, point)

    def _resume_point(self, run: ExecutionFrame[Any], waiting: list[Waiting]) -> ResumePoint:
        return ResumePoint(
            self.coordinator.pipeline,
            run.data,
            run.context,
            run.scope.journal.left,
            tuple(waiting),
            self.governor.total_cost,
            self.governor.total_tokens,
        )

    def _note_position(
        self,
        cancelled: asyncio.CancelledError,
        run: ExecutionFrame[Any],
        position: int,
        history: list[StepResult],
    ) -> None:
        """Say on the cancellation where the run stood, for whoever gets to see it."""
        step = self.coordinator.pipeline.steps[position]
        calls = ", ".join(run.scope.control.in_flight) or "none"
        cancelled.add_note(
            f"flujo run {run.scope.run_id} was cancelled in {step.describe()} after {len(history)} finished steps "
            f"and {format_usd(self.governor.total_cost)} spent; calls in flight: {calls}"
        )
