"""One top-level step: its frame, its chunks, its result."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.pipeline import Pipeline
from flujo.domain.results import StepResult


@dataclass(slots=True, frozen=True)
class StepCoordinator:
    """Runs the top-level steps of one pipeline.

    Only the last step hands out its chunks: what the others stream is input of the next.
    """

    core: ExecutorCore
    pipeline: Pipeline[Any, Any]

    def execute_step(self, position: int, data: Any, run: ExecutionFrame[Any]) -> Awaitable[StepResult]:
        """Run the step at a position of the pipeline.

        Args:
            position: Counts from 0.
            data: The step's input.
            run: The frame of the whole run.
        """
        steps = self.pipeline.steps
        on_chunk = run.on_chunk if position == len(steps) - 1 else None
        return self.core.execute(run.child(steps[position], data, at=str(position), on_chunk=on_chunk))
