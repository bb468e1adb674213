"""What `run_async` returns, iterated over and left early."""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from flujo import Flujo, PipelineResult, Step, UsageLimits
from flujo.testing import FailingStreamAgent, gather_result
from tests.integration.blocking import Blocked, BlockedStream, is_only_task
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


def _last(items: list[Any]) -> PipelineResult[Any]:
    """Return the last item of an iteration, which is a result."""
    last: PipelineResult[Any] = items[-1]
    assert isinstance(last, PipelineResult)
    return last


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
    assert is_only_task()


async def test_breaking_out_of_the_iteration_ends_the_run() -> None:
    """A plain `break` ends the agent's call as soon as the loop gets its turn."""
    agent = BlockedStream()

    async for _ in Flujo(Step("stream", agent)).run_async("x"):
        await agent.started.wait()
        break
    await agent.ended.wait()

    for _ in range(3):
        await asyncio.sleep(0)
    assert is_only_task()


async def test_an_iteration_that_never_began_leaves_nothing() -> None:
    """Closing an iteration before its first item starts nothing."""
    agent = BlockedStream()
    items = Flujo(Step("stream", agent)).stream_async("x")

    await items.aclose()

    assert not agent.started.is_set()
    assert is_only_task()


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
    assert is_only_task()
