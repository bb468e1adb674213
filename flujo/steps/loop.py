"""A body repeated until a condition holds: the declaration and the handler."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.outcome import call_user, conclude, end_with, halted
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.cost_ceiling import Ceiling
from flujo.domain.models import UsageLimits
from flujo.domain.pipeline import BaseStep, Pipeline, ValidationReport, check_flow
from flujo.domain.results import StepResult
from flujo.steps.checks import check_call, check_count, check_step
from flujo.utils.copying import copy_value

InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT", covariant=True)

_CONDITION = "exit_condition_callable"


class LoopStep(BaseStep[InT, OutT]):
    """Repeats its body until the condition holds.

    Attributes:
        body: What is repeated.
        exit_condition: `(output, context) -> bool`, asked after every iteration.
        max_loops: The most iterations.
        initial_input_mapper: `(input, context) -> input` of the first iteration.
        iteration_input_mapper: `(output, context, iterations done) -> input` of the next iteration.
        output_mapper: `(output, context) -> output` of the step.
    """

    def __init__(
        self,
        name: str,
        loop_body_pipeline: BaseStep[Any, Any],
        *,
        exit_condition_callable: Callable[[Any, Any], bool],
        max_loops: int = 5,
        initial_input_to_loop_body_mapper: Callable[[Any, Any], Any] | None = None,
        iteration_input_mapper: Callable[[Any, Any, int], Any] | None = None,
        loop_output_mapper: Callable[[Any, Any], Any] | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> None:
        super().__init__(name, usage_limits=usage_limits)
        check_step(name, "loop_body_pipeline", loop_body_pipeline)
        check_count(name, "max_loops", max_loops)
        check_call(name, "exit_condition_callable", exit_condition_callable, "output", "context", required=True)
        check_call(
            name,
            "initial_input_to_loop_body_mapper",
            initial_input_to_loop_body_mapper,
            "input",
            "context",
        )
        check_call(name, "iteration_input_mapper", iteration_input_mapper, "output", "context", "i")
        check_call(name, "loop_output_mapper", loop_output_mapper, "output", "context")
        self.body = Pipeline.from_step(loop_body_pipeline)
        self.exit_condition = exit_condition_callable
        self.max_loops = max_loops
        self.initial_input_mapper = initial_input_to_loop_body_mapper
        self.iteration_input_mapper = iteration_input_mapper
        self.output_mapper = loop_output_mapper
        self.input_type = self.body.input_type if initial_input_to_loop_body_mapper is None else Any
        self.output_type = self.body.output_type if loop_output_mapper is None else Any

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return the body."""
        return (("iteration", self.body),)

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return that of all iterations."""
        return Ceiling.sum_of(inner, f"max_loops={self.max_loops}", times=self.max_loops)

    def check(self, report: ValidationReport, context_model: type | None) -> None:
        """Add a body whose output does not fit its own input."""
        if self.iteration_input_mapper is None:
            first, last = self.body.steps[0], self.body.steps[-1]
            check_flow(
                report,
                (f"the body of loop {self.name!r} ({last.describe()})", self.body.output_type),
                (f"its next iteration ({first.describe()})", self.body.input_type),
                self.name,
            )


@dataclass(slots=True, frozen=True)
class _LoopCheckpoint:
    """Where a loop stood: the iterations done, the input of the unfinished one, and their results."""

    done: int
    data: Any
    history: tuple[StepResult, ...]


@ExecutorCore.handles(LoopStep)
async def _handle_loop_step(core: ExecutorCore, step: LoopStep[Any, Any], frame: ExecutionFrame[Any]) -> StepResult:
    context = frame.context
    if (left := frame.checkpoint(_LoopCheckpoint)) is not None:
        done, data, history = left.done, copy_value(left.data), list(left.history)
    else:
        mapper = step.initial_input_mapper
        done, data, history = 0, frame.data, list[StepResult]()
        if mapper is not None:
            data = call_user("initial_input_to_loop_body_mapper", mapper, data, context)
    frame.history = history
    for iteration in range(done + 1, step.max_loops + 1):
        frame.attempts = iteration
        result = await core.execute(frame.child(step.body, data, at=f"iteration:{iteration}"))
        history.append(result)
        output = result.output
        if result.status != "completed":
            if result.status == "paused":
                frame.save(_LoopCheckpoint(iteration - 1, data, tuple(history[:-1])))
            return end_with(frame, result, output)
        answer = call_user(_CONDITION, step.exit_condition, output, context)
        if answer is True or (answer is not False and call_user(_CONDITION, _holds, answer)):
            return _finish(step, frame, output)
        if frame.scope.control.halt is not None:
            return halted(frame, output)
        data = output
        if step.iteration_input_mapper is not None and iteration < step.max_loops:
            data = call_user("iteration_input_mapper", step.iteration_input_mapper, output, context, iteration)
    return conclude(
        frame,
        data if step.iteration_input_mapper is None else history[-1].output,
        status="failed",
        feedback=f"the exit condition did not hold after max_loops={step.max_loops} iterations",
        metadata={"exit_reason": "max_loops"},
    )


def _holds(answer: Any) -> bool:
    """Return whether a condition holds; a coroutine would always count as true."""
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError("it gave a coroutine; it must be a plain function that returns a bool")
    return bool(answer)


def _finish(step: LoopStep[Any, Any], frame: ExecutionFrame[Any], output: Any) -> StepResult:
    if step.output_mapper is not None:
        output = call_user("loop_output_mapper", step.output_mapper, output, frame.context)
    return conclude(frame, output, metadata={"exit_reason": "condition"})
