"""A task knows whether it was cancelled or only awaited something that was."""

import asyncio

from flujo.application.core.cancellation import is_cancelled


async def test_a_cancellation_of_an_awaited_future_is_not_the_tasks() -> None:
    """Nobody cancelled the task that awaits a cancelled future."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    seen: list[bool] = []

    try:
        await future
    except asyncio.CancelledError:
        seen.append(is_cancelled())
        if seen[-1]:
            raise

    assert seen == [False]


async def test_a_task_that_somebody_cancelled_knows_it() -> None:
    """It knows until the cancellation is taken back."""
    seen: list[bool] = []

    async def wait() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append(is_cancelled())

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert (seen, task.cancelled()) == ([True], True)
