"""What a step came to: of its children, of an error, of its output."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flujo.application.core.context import update_context
from flujo.application.core.frame import ExecutionFrame
from flujo.domain.pipeline import Pipeline
from flujo.domain.results import PipelineResult, RunStatus, StepResult, StepStatus, Waiting, total_usage
from flujo.domain.step import AgentStep
from flujo.exceptions import ContextUpdateError, FlujoError
from flujo.utils.narrowing import is_mapping

ReturnT = TypeVar("ReturnT")


def conclude(
    frame: ExecutionFrame[Any],
    output: Any = None,
    *,
    status: StepStatus = "completed",
    feedback: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> StepResult:
    """Return the result of a frame's step, with the children it ran and the sum of what they cost."""
    history = frame.history or []
    cost, tokens = total_usage(history)
    return StepResult(
        frame.step.name,
        output,
        status=status,
        attempts=frame.attempts,
        token_counts=tokens,
        cost=cost,
        feedback=feedback,
        metadata_=frame.metadata if metadata is None else metadata,
        step_history=history,
    )


def end_with(
    frame: ExecutionFrame[Any],
    child: StepResult,
    output: Any = None,
    *,
    metadata: dict[str, Any] | None = None,
) -> StepResult:
    """Return the result of a step that cannot go on, because this child did not complete."""
    return conclude(frame, output, status=child.status, feedback=blame(child), metadata=metadata)


def halted(frame: ExecutionFrame[Any], output: Any = None) -> StepResult:
    """Return the result of a step that had more to do when its run was stopped."""
    halt = frame.scope.control.halt
    assert halt is not None, "only a stopped run leaves a step unfinished"
    return conclude(frame, output, status=halt.status, feedback=halt.reason)


def leave_unfinished(frame: ExecutionFrame[Any], error: BaseException) -> None:
    """Keep what a step came to that an error comes out of which ends the run; what was paid is never lost."""
    unfinished = frame.scope.control.unfinished
    path, result = unfinished.get(error, (None, None))
    if path == frame.path:
        return  # the step itself has kept it
    if result is not None:
        if isinstance(frame.step, Pipeline) and len(frame.step.steps) == 1:
            return  # it is its step
        frame.history = [*(frame.history or ()), result]
    feedback = describe_error(error)
    unfinished[error] = frame.path, conclude(frame, status="failed", feedback=feedback)


def blame(child: StepResult) -> str | None:
    """Return a child's feedback as its parent's: with the child's name, unless it waits for a person."""
    if child.status == "paused":
        return child.feedback
    return f"step {child.name!r}: {child.feedback}"


class UserFunctionError(Exception):
    """What a mapper, a condition or a merge function of the user's raised; the message says which of them it was."""


def call_user(role: str, function: Callable[..., ReturnT], *arguments: Any) -> ReturnT:
    """Call a function of the user's that is no agent.

    Args:
        role: What the user gave it as, such as `iteration_input_mapper`.
        function: What to call.
        *arguments: What it gets.

    Raises:
        UserFunctionError: It raised an error that is not flujo's own.
    """
    try:
        return function(*arguments)
    except FlujoError:
        raise  # a mistake in the workflow, or a wish to abort the run
    except Exception as error:
        raise UserFunctionError(f"{role}: {describe_error(error)}") from error


def describe_error(error: BaseException) -> str:
    """Return an exception as feedback, in one line: its type and message, and what a group of them holds."""
    if isinstance(error, UserFunctionError):
        return str(error)
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe_error(inner) for inner in error.exceptions)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType, reportUnknownMemberType]  # a group of any exceptions
    message = error_message(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def error_message(error: BaseException) -> str:
    """Return the message of an exception, in one line; that of pydantic names each value that does not fit."""
    if isinstance(error, ValidationError):
        return "; ".join(
            ".".join(map(str, (error.title, *problem["loc"]))) + f": {problem['msg']}"
            for problem in error.errors(include_url=False, include_context=False, include_input=False)
        )
    try:
        return " ".join(str(error).split())
    except Exception as unprintable:  # the exception is of the user's
        return f"its message cannot be shown ({type(unprintable).__name__})"


def keep_output(step: AgentStep[Any, Any], context: BaseModel, result: StepResult) -> None:
    """Merge the output of a step into a context; what does not fit fails the result and changes nothing."""
    try:
        update_context(context, _context_changes(step, result.output))
    except ContextUpdateError as error:
        result.status, result.feedback = "failed", error_message(error)


def _context_changes(step: AgentStep[Any, Any], output: Any) -> Mapping[str, Any]:
    if is_mapping(output):
        return output
    if isinstance(output, BaseModel):
        return {**{name: getattr(output, name) for name in type(output).model_fields}, **(output.model_extra or {})}
    if is_dataclass(output) and not isinstance(output, type):
        return {each.name: getattr(output, each.name) for each in fields(output)}
    raise ContextUpdateError(
        f"step {step.name!r} updates the context, but gave {type(output).__name__}; give a dict, a model or a dataclass"
    )


def pipeline_result(
    run_id: str,
    status: RunStatus,
    output: Any,
    history: Sequence[StepResult],
    context: BaseModel,
    waiting: Sequence[Waiting],
    resume_point: object = None,
) -> PipelineResult[Any]:
    """Return what a pipeline came to: the sum of its steps, and an output if it completed."""
    cost, tokens = total_usage(history)
    return PipelineResult(  # the bare class, because one made of a parametrised class cannot be pickled
        run_id=run_id,
        status=status,
        output=output if status == "completed" else None,
        step_history=list(history),
        total_cost=cost,
        total_tokens=tokens,
        final_pipeline_context=context,
        waiting=list(waiting) if status == "paused" else [],
        resume_point=resume_point if status == "paused" else None,
    )
