"""Streaming agents: chunks as they come, one output in the end, and generators that are closed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from flujo import Flujo, PipelineResult, Step, UsageLimitExceededError, UsageLimits, validator
from flujo.testing import FailingStreamAgent, ManualClock, StubAgent, gather_result
from tests.application.core.agent_answers import Paid, PaidError


def _streamer(*chunks: Any) -> Callable[[Any], AsyncIterator[Any]]:
    async def stream(data: Any) -> AsyncIterator[Any]:
        for chunk in chunks:
            yield chunk

    return stream


async def _iterate(runner: Flujo[Any, Any]) -> list[Any]:
    return [item async for item in runner.stream_async("go")]


@pytest.mark.parametrize(
    ("chunks", "output"),
    [
        (("a", "b"), "ab"),
        ((b"a", b"b"), b"ab"),
        (("a", 1), ["a", 1]),
        ((["x"],), [["x"]]),
        (("",), ""),
        ((), []),
        ((SimpleNamespace(output="a", token_counts=1), SimpleNamespace(output="b", token_counts=1)), "ab"),
    ],
)
async def test_chunks_become_one_output(chunks: tuple[Any, ...], output: Any) -> None:
    """Strings and bytes are joined, and chunks of any other kind are a list."""
    result = await Flujo(Step("stream", _streamer(*chunks))).run_async("go")

    assert result.output == output


async def test_chunks_are_handed_out_as_they_are_produced() -> None:
    """The agent does not run ahead of its consumer by more than one chunk, and the result comes last, once."""
    produced: list[int] = []

    async def stream(data: Any) -> AsyncIterator[str]:
        for number in range(5):
            produced.append(number)
            yield str(number)

    ahead: list[int] = []
    items: list[Any] = []
    async for item in Flujo(Step("stream", stream)).run_async("go"):
        ahead.append(len(produced) - len(items))
        items.append(item)

    assert items[:-1] == ["0", "1", "2", "3", "4"]
    assert isinstance(items[-1], PipelineResult)
    assert max(ahead) <= 3


async def test_only_the_last_step_hands_out_chunks() -> None:
    """What an earlier step streams is the input of the next, and a run without streams gives its result alone."""
    last = StubAgent(["end"])

    *none, _ = await _iterate(Flujo(Step("first", _streamer("a", "b")) >> Step("last", last)))
    *chunks, _ = await _iterate(Flujo(Step("first", _streamer("a", "b")) >> Step("last", _streamer("c"))))

    assert (none, last.inputs, chunks) == ([], ["ab"], ["c"])


@pytest.mark.parametrize("is_iterated", [True, False])
async def test_a_stream_that_fails_is_a_failed_attempt(is_iterated: bool) -> None:  # noqa: FBT001  # a case
    """Chunks before the failure were handed out; the step fails, and the consumer gets the result all the same."""
    step = Step("stream", FailingStreamAgent(["a", "b"], PaidError("cut")), max_retries=0)
    runner = Flujo(step)

    *chunks, result = await _iterate(runner) if is_iterated else [await runner.run_async("go")]

    assert chunks == (["a", "b"] if is_iterated else [])
    assert (result.status, result.total_cost) == ("failed", Decimal("0.1"))
    assert result.step_history[0].feedback == "PaidError: cut"


async def test_the_cost_of_chunks_before_a_failure_counts() -> None:
    """Chunks that report a cost are paid for, however the stream ends."""
    chunks = [SimpleNamespace(output="a", cost_usd=0.25, token_counts=2)]
    step = Step("stream", FailingStreamAgent(chunks, ValueError("cut")), max_retries=1)

    result = await gather_result(Flujo(step), "go")

    assert (result.total_cost, result.total_tokens) == (Decimal("0.5"), 4)


async def test_a_refused_stream_is_streamed_again() -> None:
    """Every attempt hands out its chunks."""
    outputs: list[str] = []

    @validator
    def second(output: str) -> tuple[bool, str | None]:
        outputs.append(output)
        return len(outputs) == 2, None

    *chunks, result = await _iterate(Flujo(Step("stream", _streamer("a", "b"), validators=[second])))

    assert (chunks, result.output, result.step_history[0].attempts) == (["a", "b", "a", "b"], "ab", 2)


class _Iterable:
    """Streams by being iterable; what it is iterated with is a generator."""

    def __init__(self, closed: asyncio.Event) -> None:
        self._closed = closed

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            for _ in range(10):
                yield "a"
        finally:
            await asyncio.sleep(0)
            self._closed.set()


class _IterableAgent:
    def __init__(self, closed: asyncio.Event) -> None:
        self._closed = closed

    def stream(self, data: Any) -> Any:
        return _Iterable(self._closed)


class _GeneratorAgent:
    def __init__(self, closed: asyncio.Event) -> None:
        self._closed = closed

    def stream(self, data: Any) -> Any:
        return aiter(_Iterable(self._closed))


@pytest.mark.parametrize("kind", [_IterableAgent, _GeneratorAgent])
@pytest.mark.parametrize("limits", [None, UsageLimits(total_tokens_limit=1)])
async def test_a_consumer_that_leaves_early_closes_the_agents_generator(
    kind: Callable[[asyncio.Event], Any], limits: UsageLimits | None
) -> None:
    """What the agent does in its `finally` has run to its end when the iteration is closed."""
    closed = asyncio.Event()

    iteration: Any = Flujo(Step("stream", kind(closed)), usage_limits=limits).stream_async("go")
    first = await anext(iteration)
    await iteration.aclose()

    assert first == "a"
    assert closed.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_time_of_a_slow_consumer_is_not_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout of a step bounds how long its agent takes, not how long its chunks lie about."""
    clock = ManualClock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.monotonic)
    step = Step("stream", _streamer(*"abcdef"), timeout_s=60, max_retries=0)

    items: list[Any] = []
    async for item in Flujo(step).run_async("go"):
        clock.advance(61)
        items.append(item)

    assert items[:-1] == list("abcdef")
    assert items[-1].output == "abcdef"


async def test_the_time_of_the_agent_counts_between_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that takes its time over every chunk has the timeout for all of them together."""
    clock = ManualClock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.monotonic)

    async def dawdle(data: Any) -> AsyncIterator[str]:
        for chunk in "abcdef":
            clock.advance(25)
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # a timer that is due fires in between
            yield chunk

    *chunks, result = await _iterate(Flujo(Step("stream", dawdle, timeout_s=60, max_retries=0)))

    assert chunks == ["a", "b"]
    assert result.step_history[0].feedback == "timed out after 60 s"


async def test_a_chunk_with_a_wrong_cost_closes_the_generator_and_fails_the_step() -> None:
    """The stream is not read on after a report that is no amount."""
    ended = asyncio.Event()

    async def stream(data: Any) -> AsyncIterator[Any]:
        try:
            yield SimpleNamespace(output="a", cost_usd=-1)
            yield "never"
        finally:
            ended.set()

    *chunks, result = await _iterate(Flujo(Step("stream", stream, max_retries=5)))

    assert (chunks, result.status, result.step_history[0].attempts) == ([], "failed", 1)
    assert ended.is_set()


async def test_the_cost_of_chunks_before_a_cancellation_counts() -> None:
    """What a cancelled run says it spent includes the chunks that had come."""
    began = asyncio.Event()

    async def stream(data: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(output="a", cost_usd=0.25)
        began.set()
        await asyncio.get_running_loop().create_future()

    run = asyncio.create_task(Flujo(Step("stream", stream)).run_async("go"))
    await began.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await run

    assert "$0.25 spent" in raised.value.__notes__[0]


async def test_a_breach_cuts_a_stream_short() -> None:
    """A stream in a branch ends when a sibling passes the limit, and its generator is closed."""
    began, closed = asyncio.Event(), asyncio.Event()

    async def stream(data: Any) -> AsyncIterator[Any]:
        try:
            yield SimpleNamespace(output="a", token_counts=1)
            began.set()
            await asyncio.get_running_loop().create_future()
        finally:
            closed.set()

    async def spend(data: Any) -> Any:
        await began.wait()
        return SimpleNamespace(output="b", token_counts=9)

    branches = {"stream": Step("stream", stream), "spend": Step("spend", spend)}
    with pytest.raises(UsageLimitExceededError) as raised:
        await Flujo(Step.parallel("both", branches), usage_limits=UsageLimits(total_tokens_limit=5)).run_async("go")

    assert closed.is_set()
    assert raised.value.result.total_tokens == 10
    assert [result.status for result in raised.value.result.step_history[0].step_history] == ["stopped", "completed"]


async def test_a_stream_of_no_chunks_is_not_tried_again() -> None:
    """What `stream` gives has to be an iterator; the error says what to write."""

    class Answers:
        async def stream(self, data: str) -> str:
            return "abc"

    agent: Any = Answers()
    result = await Flujo(Step("ask", agent, max_retries=5)).run_async("hi")

    assert result.step_history[0].attempts == 1
    assert "the stream is 'abc'; write `async def stream(self, data)`" in str(result.step_history[0].feedback)


async def test_a_plain_generator_is_closed_and_gives_turns() -> None:
    """A stream that a timeout cuts short between two chunks ends, and what came of it is paid."""
    ended: list[str] = []

    class Endless:
        def stream(self, data: str) -> Iterator[Any]:
            try:
                while True:
                    yield Paid("x", 0.5)
            finally:
                ended.append("ended")

    endless: Any = Endless()
    limits = UsageLimits(total_cost_usd_limit=1000)
    result = await Flujo(Step("ask", endless, timeout_s=0.001, max_retries=0), usage_limits=limits).run_async("hi")

    assert (result.step_history[0].feedback, ended) == ("timed out after 0.001 s", ["ended"])
    assert result.total_cost >= 1
