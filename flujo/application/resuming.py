"""What a paused run asks, and which answer it takes."""

import reprlib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from flujo.application.core.execution_manager import ResumePoint
from flujo.domain.models import StepPath
from flujo.domain.pipeline import Pipeline
from flujo.domain.results import PipelineResult, Waiting
from flujo.exceptions import AnswerRejectedError, StateError
from flujo.utils.narrowing import is_dict


def resume_point(paused: PipelineResult[Any], pipeline: Pipeline[Any, Any]) -> ResumePoint:
    """Return where a paused run of a pipeline stands.

    Raises:
        StateError: It is no paused run, a copy that does not know, or a run of another pipeline.
    """
    if not isinstance(paused, PipelineResult):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise StateError(f"{reprlib.repr(paused)} is no PipelineResult; resume takes the result of a paused run")
    point = paused.resume_point
    if not isinstance(point, ResumePoint):
        if paused.status == "paused":
            raise StateError(
                f"this copy of run {paused.run_id} does not know where it stands; resume the original result"
            )
        raise StateError(f"run {paused.run_id} does not wait for an answer: it is {paused.status}")
    if [step.name for step in point.pipeline.walk()] != [step.name for step in pipeline.walk()]:
        raise StateError(f"run {paused.run_id} is of another pipeline; resume it with the runner that paused it")
    return point


def asked_step(waiting: Sequence[Waiting], path: Sequence[str] | None) -> Waiting:
    """Return the waiting step that is answered.

    Args:
        waiting: All that wait.
        path: Which one; `None` if there is only one.

    Raises:
        StateError: Several wait and `path` does not say which one is answered.
        AnswerRejectedError: Nobody waits at `path`.
    """
    places = ", ".join(repr(asked.path) for asked in waiting)
    if path is None:
        if len(waiting) != 1:
            raise StateError(f"{len(waiting)} steps wait, at {places}; say with path= which one is answered")
        return waiting[0]
    wanted: StepPath = tuple(path)
    for asked in waiting:
        if asked.path == wanted:
            return asked
    raise AnswerRejectedError(f"nobody waits at {path!r}; waiting: {places}")


def accepted_answer(asked: Waiting, answer: Any) -> Any:
    """Return an answer as the `input_schema` of the waiting step reads it.

    Raises:
        AnswerRejectedError: It does not fit.
    """
    if asked.input_schema is None:
        return answer
    try:
        return TypeAdapter(asked.input_schema).validate_python(answer)
    except ValidationError as error:
        problems = "; ".join(
            ".".join(map(str, problem["loc"])) + (": " if problem["loc"] else "") + problem["msg"]
            for problem in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise AnswerRejectedError(f"the answer does not fit step {asked.step_name!r}: {problems}") from None


def mark_pause(context: BaseModel, waiting: Sequence[Waiting]) -> None:
    """Say in the scratchpad, if there is one, what a paused run asks."""
    scratchpad = getattr(context, "scratchpad", None)  # a context may be any model
    if is_dict(scratchpad):
        scratchpad["status"] = "paused"
        scratchpad["pause_message"] = "\n".join(asked.message for asked in waiting)


def clear_pause(context: BaseModel) -> None:
    """Take out of the scratchpad, if there is one, what `mark_pause` said in it."""
    scratchpad = getattr(context, "scratchpad", None)  # a context may be any model
    if is_dict(scratchpad):
        scratchpad.pop("status", None)
        scratchpad.pop("pause_message", None)
