"""The attempts at one agent step: call, judge, try again with feedback, and keep what came of it."""

import asyncio
import copy
import inspect
import logging
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from pydantic import BaseModel

from flujo.application.core.agent_call import CutShortError, TimedOutError, ask, within_deadline
from flujo.application.core.attempts import Attempts
from flujo.application.core.cancellation import is_cancelled
from flujo.application.core.context import update_context
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.judgement import Verdict, judge, process
from flujo.application.core.outcome import describe_error, error_message, keep_output
from flujo.application.core.pausing import take_answer, wait_for_person
from flujo.application.core.state_manager import Question
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.agents import AgentCall, has_feedback_field
from flujo.domain.paying_step import PAYING_STEP
from flujo.domain.prompts import PromptTemplate
from flujo.domain.results import StepResult
from flujo.domain.step import AgentStep
from flujo.exceptions import (
    ConfigurationError,
    ContextUpdateError,
    FlujoError,
    InfiniteRedirectError,
    MissingAgentError,
    NonRetryableError,
    PausedException,
    PipelineAbortSignal,
    PricingNotConfiguredError,
    RefusedCallError,
    RetryLaterError,
    UnboundedCallError,
)
from flujo.utils.narrowing import is_dict

_log = logging.getLogger("flujo.steps")


LONGEST_WAIT_S = 300.0
"""The most seconds that one attempt waits after another; a step whose provider asks for more fails at once."""

_FINAL = (NonRetryableError, ContextUpdateError)
"""Failures that another attempt would only repeat."""


class _RefusedError(Exception):
    """The output was judged, and is not good enough."""


@dataclass(slots=True)
class _Turn:
    """What the next attempt starts from: whom it asks, and what was wrong with the one before."""

    call: AgentCall[Any, Any]
    feedback: str | None = None
    had_turns: list[Any] = field(default_factory=list[Any])


@ExecutorCore.handles(AgentStep)
async def _handle_agent_step(core: ExecutorCore, step: AgentStep[Any, Any], frame: ExecutionFrame[Any]) -> StepResult:
    """Try until an answer is accepted, at most `1 + max_retries` times; whatever runs meanwhile is paid by the step."""
    if step.call is None:
        raise MissingAgentError(f"step {step.name!r} has no agent; give it one with Step(name, agent)")
    if (answered := take_answer(frame)) is not None:
        return await _keep(step, frame, answered) if step.updates_context else answered
    task = asyncio.current_task() if frame.scope.control.is_limited else None
    attempts = Attempts(frame, asyncio.get_running_loop(), task)
    around = PAYING_STEP.set(attempts)
    try:
        result = await _attempt(step, step.call, attempts)
    finally:
        PAYING_STEP.reset(around)
        attempts.close()
    if result.status == "failed":
        await _tell_failure_handlers(step)
    return await _keep(step, frame, result) if step.updates_context else result


async def _attempt(step: AgentStep[Any, Any], call: AgentCall[Any, Any], attempts: Attempts) -> StepResult:
    """Return the first answer that is accepted, or how the last attempt ended."""
    frame = attempts.frame
    given, failure = frame.data, None
    if step.processors.prompt_processors:
        given, failure = await _process_input(step, attempts)
        if failure is not None:
            ended = None if isinstance(failure, PausedException) else await _end_at_once(step, attempts, failure)
            return ended or attempts.result(success=False, feedback=_reason(failure))
        if (halt := frame.scope.control.halt) is not None:
            return await _leave(attempts, status=halt.status, feedback=f"not started: {halt.reason}")
    durable, made, why = frame.scope.durable, 0, None
    turn = _Turn(call)
    if durable is not None:
        made, turn.feedback = durable.attempts_before(frame.path)
    for left in reversed(range(max(step.config.max_retries + 1 - made, 1))):
        asked, messages = given, None
        if step.prompt is not None or step.message_history is not None or turn.feedback is not None:
            try:  # each time, so that a run that was killed makes the prompt that it would have made
                asked, messages = _asked(step, frame, turn, given)
            except NonRetryableError as error:
                why = describe_error(error)
                break
        if not (step.is_judged and attempts.recall_answer(messages)):
            answer = await ask(turn.call, step, attempts, asked, turn.feedback, messages)
            attempts.add(answer)
            failure = answer.failure
        if failure is None and step.is_judged:
            await attempts.keep_answer(messages)
            failure = await _judge(step, attempts, turn)
        if failure is None:
            if messages is not None:
                assert step.message_history is not None, "a conversation has its place"
                update_context(frame.context, {step.message_history: messages})
            return attempts.result()
        if (ended := await _end_at_once(step, attempts, failure)) is not None:
            return ended
        why = _reason(failure)
        if isinstance(failure, _FINAL):
            break
        if left and isinstance(failure, RetryLaterError) and failure.after_s > LONGEST_WAIT_S:
            wait = f"{failure.after_s:g} s, and none waits more than {LONGEST_WAIT_S:g} s"
            why = f"{why}; the next attempt would wait {wait}"
            break
        if durable is not None and left:  # what the last one comes to is stored as the step's own end
            await durable.spend(frame.path, attempts.spent(turn.feedback))
            if attempts.metered is not None:
                attempts.metered.note_stored()
        if (halt := frame.scope.control.halt) is not None:
            feedback = f"{why}; {halt.reason}"
            if left:
                return await _leave(attempts, status=halt.status, feedback=feedback)
            return attempts.result(status=halt.status, feedback=feedback)
        if left and isinstance(failure, RetryLaterError):
            await within_deadline(frame.scope.control, asyncio.sleep(failure.after_s))
    return attempts.result(success=False, feedback=why)


def _asked(
    step: AgentStep[Any, Any], frame: ExecutionFrame[Any], turn: _Turn, given: Any
) -> tuple[Any, list[Any] | None]:
    """Return what an attempt asks, and the conversation that it goes on with.

    Raises:
        NonRetryableError: The prompt cannot be made.
    """
    data = given if step.prompt is None else _rendered(step.prompt, frame, given)
    asked = data if turn.feedback is None else _with_feedback(data, turn)
    return asked, None if step.message_history is None else list(getattr(frame.context, step.message_history))


async def _process_input(step: AgentStep[Any, Any], attempts: Attempts) -> tuple[Any, BaseException | None]:
    """Return the input as the prompt processors leave it, or why they do not."""
    frame = attempts.frame

    async def process_all() -> Any:
        data = frame.data
        for processor in step.processors.prompt_processors:
            data = await process(processor, data, frame.context)
        return data

    try:
        data, failure = await within_deadline(frame.scope.control, process_all()), None
    except Exception as error:  # processors are code of the user's
        _log.debug("a prompt processor of step %r raised", step.name, exc_info=error)
        data, failure = None, error
    finally:
        attempts.end_calls()
    attempts.begin()
    return data, failure


def _rendered(prompt: PromptTemplate, frame: ExecutionFrame[Any], data: Any) -> str:
    return prompt.render(data, frame.context, {} if frame.earlier is None else frame.earlier.outputs())


def _reason(failure: BaseException) -> str:
    if isinstance(failure, (TimedOutError, _RefusedError)):
        return str(failure)
    return error_message(failure) if isinstance(failure, ContextUpdateError) else describe_error(failure)


async def _end_at_once(step: AgentStep[Any, Any], attempts: Attempts, failure: BaseException) -> StepResult | None:
    """Return the result of a step that waits, aborts the run or was cut short; `None` if it just failed.

    Raises:
        PricingNotConfiguredError: The failure, if it is one.
        UnboundedCallError: Likewise.
    """
    frame = attempts.frame
    if isinstance(failure, (PricingNotConfiguredError, UnboundedCallError)):
        spent = await _leave(attempts, success=False, feedback=str(failure))
        frame.scope.control.unfinished[failure] = frame.path, spent
        raise failure
    if isinstance(failure, PausedException):
        spent = attempts.result()
        question = Question(failure.message, spent.attempts, spent.cost, spent.token_counts, calls=tuple(spent.calls))
        return wait_for_person(frame, question)
    if isinstance(failure, PipelineAbortSignal):
        frame.scope.control.abort(f"{step.describe()} aborted the run: {failure}")
        return attempts.result(status="aborted", feedback=str(failure))
    if isinstance(failure, CutShortError):
        return await _leave(attempts, status="stopped", feedback=f"cut short: {failure}")
    if isinstance(failure, RefusedCallError) or (attempts.metered is not None and attempts.metered.is_refused):
        return await _leave(attempts, status="stopped", feedback=f"refused: {_refusal(failure, frame)}")
    return None


def _refusal(failure: BaseException, frame: ExecutionFrame[Any]) -> str:
    """Return why a call was refused, which the code that made it may have wrapped in an error of its own."""
    halt = frame.scope.control.halt
    return str(failure) if isinstance(failure, RefusedCallError) or halt is None else halt.reason


async def _leave(attempts: Attempts, **ending: Any) -> StepResult:
    """Return what a step came to that is left in the midst of an attempt, with which a stored run goes on."""
    frame, meter = attempts.frame, attempts.metered
    if (durable := frame.scope.durable) is not None:
        await durable.leave(frame.path, () if meter is None else meter.held())
    return attempts.result(**ending)


async def _judge(step: AgentStep[Any, Any], attempts: Attempts, turn: _Turn) -> BaseException | None:
    """Judge the newest output; return why it is not the step's, and prepare the next turn."""
    frame = attempts.frame
    judged = judge(step, attempts.output, turn.feedback, frame.context)
    try:
        verdict = await within_deadline(frame.scope.control, judged)
        attempts.output = verdict.output
        _persist(step, frame.context, verdict)
    except Exception as error:  # processors, plugins and validators are code of the user's
        _log.debug("judging the output of step %r raised", step.name, exc_info=error)
        return error
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        return RuntimeError("the judgement of the output was cancelled by its own code")
    finally:
        attempts.end_calls()
    if verdict.feedback is None:
        return None
    if not step.is_strict:
        attempts.metadata = {**(attempts.metadata or {}), "failed_validations": verdict.failed}
        return None
    turn.feedback = verdict.feedback
    if verdict.redirect_to is not None:
        try:
            _redirect(step, turn, verdict.redirect_to)
        except FlujoError as mistake:
            spent = attempts.result(success=False, feedback=describe_error(mistake))
            frame.scope.control.unfinished[mistake] = frame.path, spent
            raise
    return _RefusedError(verdict.feedback)


def _redirect(step: AgentStep[Any, Any], turn: _Turn, agent: Any) -> None:
    turn.had_turns = turn.had_turns or [step.agent]
    if any(agent is earlier or _is_same_method(agent, earlier) for earlier in turn.had_turns):
        raise InfiniteRedirectError(f"step {step.name!r}: a plugin redirects to {agent!r}, which already had its turn")
    turn.had_turns.append(agent)
    try:
        turn.call = AgentCall.of(agent, step.name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} (a plugin redirects to it; give redirect_to an agent)") from None


def _is_same_method(agent: Any, earlier: Any) -> bool:
    return isinstance(agent, MethodType) and agent == earlier  # an object makes a new one each time it is asked


def _persist(step: AgentStep[Any, Any], context: BaseModel, verdict: Verdict) -> None:
    """Append feedback and validation results to the context fields that the step names for them."""
    if step.persist_feedback_to_context is not None and verdict.feedback is not None:
        _append(context, step.persist_feedback_to_context, [verdict.feedback])
    if step.persist_validation_results_to is not None and verdict.validations:
        _append(context, step.persist_validation_results_to, verdict.validations)


def _append(context: BaseModel, name: str, items: list[Any]) -> None:
    update_context(context, {name: [*(getattr(context, name, None) or []), *items]})


def _with_feedback(data: Any, turn: _Turn) -> Any:
    """Return the input of an attempt after a refused one: the input, and what was wrong.

    An agent that asks for `feedback` by keyword gets it there; otherwise it goes into a string, a dict, or the field
    `feedback` of a copy of a model or dataclass, and a value of any other type stays as its type demands.
    """
    if "feedback" in turn.call.keywords:
        return data
    if isinstance(data, str):
        return f"{data}\n\nFeedback on the previous answer:\n{turn.feedback}"
    if is_dict(data):
        return {**data, "feedback": turn.feedback}
    return _in_its_field(data, turn.feedback)


def _in_its_field(data: Any, feedback: str | None) -> Any:
    if not has_feedback_field(type(data)):
        return data
    if isinstance(data, BaseModel):
        return data.model_copy(update={"feedback": feedback})
    data = copy.copy(data)
    object.__setattr__(data, "feedback", feedback)  # the copy is nobody's yet, so it may be frozen
    return data


async def _keep(step: AgentStep[Any, Any], frame: ExecutionFrame[Any], result: StepResult) -> StepResult:
    """Merge an accepted output into the context; a step still waiting for its output is left alone."""
    if result.status != "completed":
        return result
    keep_output(step, frame.context, result)
    if not result.success:
        await _tell_failure_handlers(step)
    return result


async def _tell_failure_handlers(step: AgentStep[Any, Any]) -> None:
    for handler in step.failure_handlers:
        try:
            outcome = handler()
            if inspect.isawaitable(outcome):
                await outcome
        except Exception:  # a handler is code of the user's; the step has failed already
            _log.exception("a failure handler of step %r failed", step.name)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            _log.exception("a failure handler of step %r was cancelled by its own code", step.name)
