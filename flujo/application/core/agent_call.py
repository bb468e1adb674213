"""One call of an agent: its arguments, its deadline, its stream, and the charge for its answer."""

import asyncio
import contextlib
import inspect
import logging
import reprlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Iterator
from time import perf_counter
from types import AsyncGeneratorType
from typing import Any, TypeGuard, TypeVar

from flujo.application.core.attempts import Attempts
from flujo.application.core.call_meter import CallMeter
from flujo.application.core.cancellation import is_cancelled
from flujo.application.core.frame import ExecutionFrame, OnChunk, RunControl
from flujo.domain.agents import AgentCall, Answer, StreamedAnswer, read_answer
from flujo.domain.money import ZERO, add_usd
from flujo.domain.step import AgentStep
from flujo.exceptions import NonRetryableError

T = TypeVar("T")

_log = logging.getLogger("flujo.steps")


class CutShortError(Exception):
    """The call was in flight when a limit was passed."""


class TimedOutError(Exception):
    """The call took longer than its step, or a budget in seconds, allows."""

    def __init__(self, after_s: float) -> None:
        super().__init__(f"timed out after {after_s:g} s")


async def ask(
    call: AgentCall[Any, Any],
    step: AgentStep[Any, Any],
    attempts: Attempts,
    data: Any,
    feedback: str | None,
    messages: list[Any] | None = None,
) -> Answer:
    """Call the agent once and charge what its answer costs; an error comes back as the answer's failure.

    Args:
        call: How the agent is called.
        step: Its step.
        attempts: Those that were made at the step, and where execution stands.
        data: Its input.
        feedback: What was wrong with the attempt before.
        messages: The conversation that it goes on with, which it appends to; `None` if there is none.
    """
    streamed: StreamedAnswer | None = None
    frame = attempts.frame
    control, timeout_s = frame.scope.control, step.config.timeout_s
    meter = attempts.meter if call.is_metered or step.max_cost is not None else None
    if attempts.metered is not None:
        attempts.metered.begin_call()
    is_ending = False
    started = 0.0 if frame.scope.budgets is None and frame.scope.payer is None else perf_counter()
    try:
        if meter is not None and step.max_cost is not None:
            await within_deadline(control, meter.begin(step.max_cost))
            timeout_s = meter.whole_s or timeout_s
        if call.stream is not None and (call.run is None or frame.on_chunk is not None):
            given = call.stream(data, **_keywords(call, call.stream_keywords, step, frame, feedback, meter, messages))
            streamed = StreamedAnswer()
        else:
            assert call.run is not None, "an agent that does not stream runs"
            asked = call.keywords
            keywords = _keywords(call, asked, step, frame, feedback, meter, messages) if asked else {}
            given = call.run(data, **keywords) if asked else call.run(data)
            if call.is_coroutine or inspect.isawaitable(given):
                bounded = given if timeout_s is None else _no_longer_than(asyncio.timeout(timeout_s), timeout_s, given)
                given, is_ending = await await_call(control, bounded)
            if isinstance(given, AsyncGeneratorType):  # of a decorated generator function
                streamed = StreamedAnswer()
        if streamed is None:
            answer = read_answer(given)
        else:
            deadline = asyncio.timeout(timeout_s)
            reading = _consume(given, streamed, frame.on_chunk, deadline)
            _, is_ending = await await_call(control, _no_longer_than(deadline, timeout_s, reading))
            answer = streamed.whole()
    except Exception as error:  # the agent is code of the user's
        _log.debug("an attempt at step %r raised", frame.step.name, exc_info=error)
        answer = _failed(error, streamed)
    except asyncio.CancelledError as cancelled:
        answer = _failed(RuntimeError("the agent was cancelled by its own code"), streamed)
        if is_cancelled():
            control.in_flight.append(_place(frame))
            await _charge(_failed(cancelled.__cause__ or cancelled, streamed), call, attempts, started)
            raise
    if answer.cost or answer.tokens or attempts.metered is not None:
        await _charge(answer, call, attempts, started)
    if is_ending:
        control.in_flight.append(_place(frame))
        raise asyncio.CancelledError
    return answer


async def _charge(answer: Answer, call: AgentCall[Any, Any], attempts: Attempts, started: float) -> None:
    """Charge what a call came to that started at this moment, and leave in the answer what no meter knows of."""
    scope = attempts.frame.scope
    if attempts.metered is not None:
        attempts.metered.end_call(answer, is_metered=call.is_metered)
    if not (answer.cost or answer.tokens):
        return
    if attempts.metered is None and scope.durable is None and scope.budgets is None and scope.payer is None:
        await attempts.frame.usage.add_usage(answer.cost, answer.tokens)
        return
    await attempts.charge(answer.cost, answer.tokens, perf_counter() - started)
    answer.cost, answer.tokens = ZERO, 0


def _place(frame: ExecutionFrame[Any]) -> str:
    return f"{frame.step.name!r} at {'/'.join(frame.path)}"


def _keywords(
    call: AgentCall[Any, Any],
    asked: Collection[str],
    step: AgentStep[Any, Any],
    frame: ExecutionFrame[Any],
    feedback: str | None,
    meter: CallMeter | None,
    messages: list[Any] | None,
) -> dict[str, Any]:
    """Return those of the keyword arguments that the agent asks for; a setting it needs has a value, if only `None`."""
    if not asked:
        return {}
    offered = {
        "context": frame.context,
        "resources": frame.scope.resources,
        "feedback": feedback,
        "meter": meter,
        **({} if messages is None else {"messages": messages}),
        **dict.fromkeys(call.needed_settings),
        **step.settings,
    }
    return {name: offered[name] for name in asked if name in offered}


async def await_call(control: RunControl, answer: Awaitable[T]) -> tuple[T, bool]:
    """Await an answer, no longer than the limits of the run hold.

    Returns:
        The answer, and whether the task was cancelled meanwhile, which what was awaited kept to itself.

    Raises:
        CutShortError: A limit was passed.
        asyncio.CancelledError: The task was cancelled; if what was awaited raised something else, from that.
    """
    is_limited = control.is_limited
    task = control.enter_call() if is_limited else asyncio.current_task()
    assert task is not None, "steps run in tasks"
    cancels_before = task.cancelling()
    try:
        given = await answer
    except asyncio.CancelledError:
        if control.halt is not None and task in control.cut_short and task.cancelling() == cancels_before + 1:
            raise CutShortError(control.halt.reason) from None
        raise
    except Exception as error:  # of the agent's, which has no say in whether the run goes on
        if task.cancelling() > cancels_before + (task in control.cut_short):
            raise asyncio.CancelledError from error
        raise
    finally:
        if is_limited:
            control.leave_call(task)
    return given, task.cancelling() > cancels_before


async def within_deadline(control: RunControl, answer: Awaitable[T]) -> T:
    """Await what is no call of an agent, as `await_call` does; what it gave to a task that is cancelled is dropped."""
    given, is_ending = await await_call(control, answer)
    if is_ending:
        raise asyncio.CancelledError
    return given


async def _no_longer_than(deadline: asyncio.Timeout, after_s: float | None, answer: Awaitable[T]) -> T:
    """Await an answer, no longer than a deadline that has not begun, which passes after so many seconds.

    Raises:
        TimedOutError: It passed.
    """
    try:
        async with deadline:
            return await answer
    except TimeoutError:
        if deadline.expired():
            assert after_s is not None, "only a deadline that there is passes"
            raise TimedOutError(after_s) from None
        raise  # it is the agent's own


async def _consume(stream: Any, streamed: StreamedAnswer, on_chunk: OnChunk | None, deadline: asyncio.Timeout) -> None:
    """Collect the chunks of a stream, and hand them on as they come."""
    given: Any = await stream if inspect.isawaitable(stream) else stream
    chunks = _take_turns(given) if _is_iterator(given) else aiter(given) if _is_async_iterable(given) else None
    if chunks is None:
        raise NonRetryableError(
            f"the stream is {reprlib.repr(given)}; write `async def stream(self, data)` and yield the chunks"
        )
    close: Callable[[], Awaitable[object]] | None = getattr(chunks, "aclose", None)  # only generators have it
    async with contextlib.AsyncExitStack() as stack:
        if close is not None:
            stack.push_async_callback(close)
        async for chunk in chunks:
            output = streamed.add(chunk)
            if on_chunk is not None:
                await _hand_on(output, on_chunk, deadline)


def _is_iterator(stream: object) -> TypeGuard[Iterator[Any]]:
    return isinstance(stream, Iterator)


def _is_async_iterable(stream: object) -> TypeGuard[AsyncIterable[Any]]:
    return isinstance(stream, AsyncIterable)


async def _take_turns(chunks: Iterator[Any]) -> AsyncIterator[Any]:
    """Give the chunks of a plain generator, and a turn to all other tasks after each."""
    with contextlib.ExitStack() as stack:
        if inspect.isgenerator(chunks):
            stack.callback(chunks.close)
        for chunk in chunks:
            yield chunk
            await asyncio.sleep(0)


async def _hand_on(chunk: Any, on_chunk: OnChunk, deadline: asyncio.Timeout) -> None:
    """Give a chunk to its consumer, whose time is not the agent's."""
    ends_at = deadline.when()
    if ends_at is None or deadline.expired():
        await on_chunk(chunk)
        return
    loop = asyncio.get_running_loop()
    left_s = ends_at - loop.time()
    deadline.reschedule(None)
    await on_chunk(chunk)
    deadline.reschedule(loop.time() + left_s)


def _failed(error: BaseException, streamed: StreamedAnswer | None) -> Answer:
    """Return a call that failed, with what it reports to have cost all the same."""
    reported = Answer()
    if hasattr(error, "cost_usd") or hasattr(error, "token_counts"):
        reported = read_answer(error)  # if the report is odd, the error still says more than that
    cost, tokens = (streamed.cost, streamed.tokens) if streamed else (ZERO, 0)
    return Answer(None, add_usd(cost, reported.cost), tokens + reported.tokens, error)
