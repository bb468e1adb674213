"""A run may be cancelled at any await, and nothing of it is left."""

import asyncio
import contextlib
import gc
import warnings
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.building import build
from tests.properties.generator import Kinds, programs, schedules
from tests.properties.programs import Program
from tests.properties.running import in_world, runner_of
from tests.properties.world import WORLD


async def _cancelled_after(run: Any, rounds: int) -> str:
    """Cancel a run after so many rounds of the event loop, and return what came of it."""
    task = asyncio.ensure_future(run)
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError as cancelled:
        return "\n".join(["cancelled", *getattr(cancelled, "__notes__", [])])
    return "finished"


async def _leftovers(run: Any, rounds: int) -> tuple[str, list[str]]:
    """Cancel a run; return what came of it and what is left: tasks, calls, and complaints of the event loop."""
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, problem: complaints.append(str(problem["message"])))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.freeze()  # what is there already need not be looked at by the collection below, which makes it cheap
        ending = await _cancelled_after(run, rounds)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        del run
        gc.collect()
        gc.unfreeze()
    begun = [event.agent for event in WORLD.get().events if event.kind == "begin"]
    ended = [event.agent for event in WORLD.get().events if event.kind != "begin"]
    calls = [f"call of {name}" for name in begun if begun.count(name) != ended.count(name)]
    left = [f"task {task.get_coro()!r}" for task in tasks]
    return ending, [*left, *calls, *complaints, *(str(warning.message) for warning in caught)]


_ROUNDS = st.integers(0, 150)


@given(programs(Kinds(most_waits=4)), schedules, _ROUNDS)
def test_a_cancelled_run_leaves_nothing_behind(program: Program, picks: list[int], rounds: int) -> None:
    """No task goes on, no coroutine was never awaited, no call is left open, and the error says where the run stood."""

    async def work() -> tuple[str, list[str]]:
        return await _leftovers(runner_of(build(program.root), program).run_async(program.data), rounds)

    (ending, left), world = in_world(work(), picks)

    assert left == []
    if ending.startswith("cancelled") and world.events:
        assert "was cancelled in" in ending


@given(programs(Kinds(most_waits=4)), schedules, _ROUNDS)
def test_a_cancelled_iteration_leaves_nothing_behind(program: Program, picks: list[int], rounds: int) -> None:
    """The same holds for a run that is iterated over, by a consumer that closes what it iterates over."""
    runner = runner_of(build(program.root), program)

    async def iterate() -> None:
        async with contextlib.aclosing(aiter(runner.run_async(program.data))) as items:
            async for _ in items:
                await WORLD.get().turnstile.wait()

    (_, left), _ = in_world(_leftovers(iterate(), rounds), picks)

    assert left == []
