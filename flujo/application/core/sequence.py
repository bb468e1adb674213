"""Steps in order, each working on the output of the one before."""

from dataclasses import dataclass
from typing import Any

from flujo.application.core.frame import Earlier, ExecutionFrame
from flujo.application.core.outcome import conclude, end_with, halted
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.pipeline import BaseStep, Pipeline
from flujo.domain.results import StepResult
from flujo.utils.copying import copy_value


@dataclass(slots=True, frozen=True)
class SequenceCheckpoint:
    """Where steps in order stood: the position of the unfinished one, its input, and what ran before it."""

    position: int
    data: Any
    history: tuple[StepResult, ...]


@ExecutorCore.handles(Pipeline)
async def _handle_pipeline_step(
    core: ExecutorCore, pipeline: Pipeline[Any, Any], frame: ExecutionFrame[Any]
) -> StepResult:
    """Run the steps; a pipeline of one step is that step, unless limits, a fallback or a key make it one of its own."""
    if len(pipeline.steps) == 1 and not pipeline.is_guarded:
        return await core.execute(frame.child(pipeline.steps[0], frame.data, at="0", on_chunk=frame.on_chunk))
    return await run_in_order(core, pipeline.steps, frame)


async def run_in_order(
    core: ExecutorCore, steps: tuple[BaseStep[Any, Any], ...], frame: ExecutionFrame[Any]
) -> StepResult:
    """Run steps as the children of a frame until one does not complete; the output is the last one's."""
    last = len(steps) - 1
    first, data, history = 0, frame.data, list[StepResult]()
    if (left := frame.checkpoint(SequenceCheckpoint)) is not None:
        first, data, history = left.position, copy_value(left.data), list(left.history)
    frame.history = history
    frame.earlier = Earlier(history, frame.earlier)
    for position in range(first, len(steps)):
        on_chunk = frame.on_chunk if position == last else None
        result = await core.execute(frame.child(steps[position], data, at=str(position), on_chunk=on_chunk))
        history.append(result)
        if result.status != "completed":
            if result.status == "paused":
                frame.save(SequenceCheckpoint(position, data, tuple(history[:-1])))
            return end_with(frame, result)
        data = result.output
        if frame.scope.control.halt is not None and position < last:
            return halted(frame, data)
    return conclude(frame, data)
