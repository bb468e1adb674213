"""What `run_async` returns: awaited, made a task of, dropped, cancelled."""

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flujo import Flujo, PipelineResult, PipelineRun, Step
from flujo.testing import StubAgent
from tests.integration.blocking import Blocked, is_only_task


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
    assert is_only_task()
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
    assert is_only_task()


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
