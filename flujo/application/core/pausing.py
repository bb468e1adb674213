"""Waiting for a person, and going on with the answer."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.state_manager import Question
from flujo.domain.models import HumanInteraction
from flujo.domain.results import StepResult, Waiting
from flujo.utils.copying import copy_value
from flujo.utils.narrowing import is_list


def wait_for_person(frame: ExecutionFrame[Any], question: Question, input_schema: Any = None) -> StepResult:
    """Let the frame's step wait, and return its result: paused, with the question as feedback."""
    frame.save(question)
    frame.scope.control.waiting.append(
        Waiting(
            path=frame.path,
            step_name=frame.step.name,
            message=question.message,
            input_schema=input_schema,
        )
    )
    result = StepResult(
        frame.step.name,
        status="paused",
        attempts=question.attempts,
        cost=question.cost,
        token_counts=question.tokens,
        feedback=question.message,
    )
    result.add_earlier_calls(question.calls)
    return result


def take_answer(frame: ExecutionFrame[Any], input_schema: Any = None) -> StepResult | None:
    """Return what became of a step that waited: completed by its answer, or waiting still.

    `None` if the step did not wait when the run paused.
    """
    question = frame.checkpoint(Question)
    if question is None:
        return None
    if frame.scope.durable is not None:  # or else the run goes on with what it had spent
        frame.usage.recall(question.cost, question.tokens)
    answers = frame.scope.journal.answers
    if frame.path not in answers:
        return wait_for_person(frame, question, input_schema)
    answer = copy_value(answers.pop(frame.path))
    interaction = HumanInteraction(
        message_to_human=question.message, human_response=copy_value(answer), timestamp=frame.scope.clock.now()
    )
    if frame.scope.durable is None:  # or else the contexts were made with what people have said
        remember([interaction], frame.scope.home)
        if frame.context is not frame.scope.home:
            remember([interaction], frame.context)
    result = StepResult(
        frame.step.name,
        answer,
        attempts=question.attempts,
        cost=question.cost,
        token_counts=question.tokens,
    )
    result.add_earlier_calls(question.calls)
    return result


def remember(interactions: Sequence[HumanInteraction], context: BaseModel) -> None:
    """Add what people have said to the `hitl_history` of a context, if it has one."""
    history = getattr(context, "hitl_history", None)  # a context may be any model
    if is_list(history):
        history.extend(interactions)
