"""What `run_async` returns: awaited, iterated over, made a task of, dropped, cancelled."""

import asyncio
import gc
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from flujo import Flujo, PipelineResult, PipelineRun, Step, UsageLimits
from flujo.testing import FailingStreamAgent, StubAgent, gather_result
from tests.integration.paid import Paid


async def _spell(data: str) -> AsyncIterator[str]:
    for letter in data:
        yield letter


def _speller() -> Flujo[str, Any]:
    return Flujo(Step("spell", _spell))


def _echo() -> Flujo[Any, Any]:
    async def echo(data: Any) -> Any:
        await asyncio.sleep(0)
        return data

    return Flujo(Step("echo", echo))


class Blocked:
    """An agent that answers when it is let, and says when it has started and ended."""

    def __init__(self) -> None:
        self.started, self.let, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(self, data: Any) -> Any:
        self.started.set()
        try:
            await self.let.wait()
        finally:
            self.ended.set()
        return data


class BlockedStream(Blocked):
    """A stream that gives one chunk and then waits to be let."""

    async def stream(self, data: Any) -> AsyncIterator[Any]:
        yield "first"
        await self.run(data)
        yield "second"


def _last(items: list[Any]) -> PipelineResult[Any]:
    """Return the last item of an iteration, which is a result."""
    last: PipelineResult[Any] = items[-1]
    assert isinstance(last, PipelineResult)
    return last


def _only_this_task() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


# One object, several uses


async def _by_await(run: PipelineRun[Any]) -> PipelineResult[Any]:
    return await run


async def _by_task(run: PipelineRun[Any]) -> PipelineResult[Any]:
    return await asyncio.create_task(run)


async def _by_gather(run: PipelineRun[Any]) -> PipelineResult[Any]:
    (result,) = await asyncio.gather(run)
    return result


async def _by_wait_for(run: PipelineRun[Any]) -> PipelineResult[Any]:
    return await asyncio.wait_for(run, 60)


async def _by_ensure_future(run: PipelineRun[Any]) -> PipelineResult[Any]:
    return await asyncio.ensure_future(run)


async def _by_task_group(run: PipelineRun[Any]) -> PipelineResult[Any]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run)
    return task.result()


async def _by_shield(run: PipelineRun[Any]) -> PipelineResult[Any]:
    return await asyncio.shield(run)


async def _by_iteration(run: PipelineRun[Any]) -> PipelineResult[Any]:
    return _last([item async for item in run])


USES = [_by_await, _by_task, _by_gather, _by_wait_for, _by_ensure_future, _by_task_group, _by_shield, _by_iteration]
Use = Callable[[PipelineRun[Any]], Awaitable[PipelineResult[Any]]]


@pytest.mark.parametrize("use", USES)
async def test_a_run_is_used_like_a_coroutine(use: Use) -> None:
    """Whatever takes a coroutine takes a run, and an `async for` does."""
    result = await use(_echo().run_async("hello"))

    assert (result.output, result.status) == ("hello", "completed")


def test_asyncio_run_takes_a_run() -> None:
    """A script may hand a run to `asyncio.run`."""
    result: PipelineResult[Any] = asyncio.run(_echo().run_async("hello"))

    assert result.output == "hello"


@pytest.mark.parametrize("second", [use for use in USES if use is not _by_task_group])  # it would raise a group
@pytest.mark.parametrize("first", [_by_await, _by_task, _by_iteration])
async def test_a_run_is_used_once(first: Use, second: Use) -> None:
    """A second use is refused with what to do, and calls no agent."""
    agent = StubAgent(["once"])
    run = Flujo(Step("ask", agent)).run_async("x")
    await first(run)

    with pytest.raises(RuntimeError, match="started already; call run_async again"):
        await second(run)
    assert agent.call_count == 1


async def test_two_tasks_cannot_share_a_run() -> None:
    """A second task is refused while the first one runs, and does not disturb it."""
    agent = Blocked()
    run = Flujo(Step("block", agent)).run_async("x")
    first, second = asyncio.create_task(run), asyncio.create_task(run)
    await agent.started.wait()

    with pytest.raises(RuntimeError, match="started already"):
        await second
    agent.let.set()
    assert (await first).output == "x"


def test_a_run_that_is_never_started_is_dropped_without_a_warning() -> None:
    """Nothing has started, so nothing is said."""
    agent = StubAgent([])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        runner = Flujo(Step("ask", agent))
        dropped = runner.run_async("x")
        del dropped
        runner.stream_async("x")
        aiter(runner.run_async("x"))
        runner.run_async("x").close()
        gc.collect()

    assert [str(each.message) for each in said] == []
    assert agent.call_count == 0


async def test_a_task_that_is_cancelled_before_it_starts_calls_nobody() -> None:
    """A run whose task never got its turn ends without a warning."""
    agent = StubAgent([])
    task = asyncio.create_task(Flujo(Step("ask", agent)).run_async("x"))

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert agent.call_count == 0


async def test_a_closed_run_cannot_be_used() -> None:
    """`close` on a run that has not started ends it."""
    run = _echo().run_async("x")
    run.close()

    with pytest.raises(RuntimeError, match="started already"):
        await run


# Iteration


@pytest.mark.parametrize("start", ["run_async", "stream_async"])
async def test_iteration_gives_chunks_and_then_one_result(start: str) -> None:
    """The chunks of a streaming last step come in order, then exactly one result."""
    items = [item async for item in getattr(_speller(), start)("abc")]

    assert items[:-1] == ["a", "b", "c"]
    assert _last(items).output == "abc"


@pytest.mark.parametrize("start", ["run_async", "stream_async"])
async def test_a_run_without_a_stream_gives_its_result_only(start: str) -> None:
    """A pipeline whose last step does not stream gives one item."""
    items = [item async for item in getattr(_echo(), start)("abc")]

    assert [item.output for item in items] == ["abc"]


async def test_an_awaited_run_joins_its_stream() -> None:
    """Nobody has to iterate to run a streaming step."""
    result: PipelineResult[Any] = await _speller().run_async("abc")

    assert result.output == "abc"


async def test_chunks_come_as_they_are_produced() -> None:
    """The first chunk is there while the agent still works on the second."""
    agent = BlockedStream()
    items = Flujo(Step("stream", agent)).stream_async("x")

    assert await anext(items) == "first"
    await agent.started.wait()
    assert not agent.ended.is_set()
    agent.let.set()
    assert await anext(items) == "second"
    assert (await anext(items)).output == "firstsecond"
    with pytest.raises(StopAsyncIteration):
        await anext(items)


async def test_a_slow_consumer_slows_the_agent_down() -> None:
    """Chunks do not pile up: the agent is at most a few chunks ahead."""
    made: list[int] = []

    async def count(data: Any) -> AsyncIterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    items = Flujo(Step("count", count)).run_async("x")
    ahead = [len(made) - item async for item in items if isinstance(item, int)]

    assert len(ahead) == 100
    assert max(ahead) <= 4


async def test_no_chunk_is_lost_at_the_end() -> None:
    """Chunks that the agent gave in its last moment still come before the result."""
    for length in range(12):
        items = [item async for item in _speller().run_async("x" * length)]

        assert items[:-1] == ["x"] * length


async def test_no_chunk_is_lost_on_a_slow_consumer() -> None:
    """A consumer that comes back after the run has ended still gets every chunk, and then the result."""
    for turns in range(12):
        items: list[Any] = []
        async for item in _speller().run_async("abc"):
            items.append(item)
            for _ in range(turns):
                await asyncio.sleep(0)

        assert items[:-1] == ["a", "b", "c"], turns
        assert _last(items).output == "abc"


async def test_a_stream_that_fails_ends_the_iteration_with_a_failed_result() -> None:
    """The chunks so far come, then the result says why."""
    agent = FailingStreamAgent(["a", "b"], ConnectionError("cut"))

    items = [item async for item in Flujo(Step("stream", agent, max_retries=0)).run_async("x")]

    assert items[:-1] == ["a", "b"]
    assert items[-1].status == "failed"
    assert "cut" in items[-1].step_history[0].feedback


async def test_gather_result_is_the_last_item() -> None:
    """The testing tool runs to the end, chunks and all."""
    assert (await gather_result(_speller(), "abc")).output == "abc"


# Leaving early


async def _close(items: AsyncGenerator[Any, None], agent: Blocked) -> None:
    await anext(items)
    await items.aclose()


async def _close_by_context(items: AsyncGenerator[Any, None], agent: Blocked) -> None:
    async with aclosing(items):
        async for _ in items:
            await agent.started.wait()
            break


async def _raise(items: AsyncGenerator[Any, None], agent: Blocked) -> None:
    try:
        async with aclosing(items):
            async for _ in items:
                raise LookupError("the consumer failed")
    except LookupError:
        return


@pytest.mark.parametrize("leave", [_close, _close_by_context, _raise])
async def test_leaving_the_iteration_ends_the_run(
    leave: Callable[[AsyncGenerator[Any, None], Blocked], Awaitable[None]],
) -> None:
    """A consumer that closes the iteration ends the agent's call, and no task is left."""
    agent = BlockedStream()

    await leave(Flujo(Step("stream", agent)).stream_async("x"), agent)

    assert agent.ended.is_set() or not agent.started.is_set()
    assert _only_this_task()


async def test_breaking_out_of_the_iteration_ends_the_run() -> None:
    """A plain `break` ends the agent's call as soon as the loop gets its turn."""
    agent = BlockedStream()

    async for _ in Flujo(Step("stream", agent)).run_async("x"):
        await agent.started.wait()
        break
    await agent.ended.wait()

    for _ in range(3):
        await asyncio.sleep(0)
    assert _only_this_task()


async def test_an_iteration_that_never_began_leaves_nothing() -> None:
    """Closing an iteration before its first item starts nothing."""
    agent = BlockedStream()
    items = Flujo(Step("stream", agent)).stream_async("x")

    await items.aclose()

    assert not agent.started.is_set()
    assert _only_this_task()


async def test_an_error_after_the_consumer_has_left_bothers_nobody() -> None:
    """A run that ends in an error while it is being cancelled leaves no exception that was never retrieved."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, failure: failures.append(failure))

    async def stubborn(data: Any) -> AsyncIterator[Any]:
        yield "first"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield Paid("last", 5)

    runner = Flujo(Step("stubborn", stubborn), usage_limits=UsageLimits(total_cost_usd_limit=1))
    items = runner.stream_async("x")
    await anext(items)

    await items.aclose()
    del items, runner
    gc.collect()

    assert failures == []
    assert _only_this_task()


# Cancelling


@pytest.mark.parametrize("use", USES)
async def test_cancelling_whoever_awaits_cancels_the_run(use: Use) -> None:
    """The agent's call is cancelled, and the cancellation says where the run stood."""
    agent = Blocked()
    waiter = asyncio.ensure_future(use((Flujo(Step("block", agent))).run_async("x", run_id="r1")))
    await agent.started.wait()

    waiter.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await waiter
    if use is _by_shield:
        assert not agent.ended.is_set()
        agent.let.set()
        await agent.ended.wait()
        return
    assert agent.ended.is_set()
    assert _only_this_task()
    if use not in (_by_gather, _by_task_group, _by_wait_for):  # these may raise a cancellation of their own
        assert cancelled.value.__notes__ == [
            "flujo run r1 was cancelled in step 'block', after 0 finished steps and $0 spent; "
            "calls in flight: 'block' at 0"
        ]


async def test_a_timeout_around_a_run_cancels_it() -> None:
    """`asyncio.timeout` ends the run, and raises its `TimeoutError`."""
    agent = Blocked()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await Flujo(Step("block", agent)).run_async("x")
    assert _only_this_task()


async def test_a_run_goes_on_if_its_agent_refuses_to_be_cancelled() -> None:
    """An agent that swallows one cancellation ends its call, and the run, at the next."""
    started, again = asyncio.Event(), asyncio.Event()

    async def stubborn(data: Any) -> Any:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            again.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(Flujo(Step("stubborn", stubborn)).run_async("x"))
    await started.wait()

    task.cancel()
    await again.wait()
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
