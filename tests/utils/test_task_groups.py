"""Groups of tasks in an agent do not make its run take itself for cancelled."""

import asyncio
from typing import Any

import pytest

from flujo import Flujo, Step


async def _fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("wrong")


async def _fails_in_group(data: str) -> str:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fail())
    return data


async def _catches(data: str) -> str:
    try:
        return await _fails_in_group(data)
    except* ValueError:
        pass
    return "caught"


async def _fails_in_body(data: str) -> str:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fail())
        await asyncio.sleep(10)
    return data


@pytest.mark.parametrize("agent", [_fails_in_group, _fails_in_body])
async def test_a_group_that_fails_fails_its_step(agent: Any) -> None:
    """As any error does; the fallback runs, and the task is not left cancelled."""
    result = await Flujo(Step("group", agent).fallback(Step("rescue", lambda data: "saved"))).run_async("go")

    assert (result.status, result.output) == ("completed", "saved")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_group_whose_errors_are_caught_is_no_error() -> None:
    """The agent answers."""
    assert (await Flujo(Step("group", _catches)).run_async("go")).output == "caught"


async def test_a_group_in_a_run_that_is_cancelled_ends_it() -> None:
    """The cancellation is somebody's, and stays."""

    async def wait(data: str) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(10))
        return data

    run = asyncio.create_task(Flujo(Step("wait", wait)).run_async("go"))
    await asyncio.sleep(0.01)
    run.cancel()

    with pytest.raises(asyncio.CancelledError):
        await run
