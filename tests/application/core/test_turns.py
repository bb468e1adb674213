"""A run whose steps never wait leaves other tasks of the event loop their turns."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flujo import BaseStep, Flujo, InMemoryBackend, Pipeline, Step
from tests.steps.workflows import plain

AnyStep = BaseStep[Any, Any]

_NEVER = 1_000

BUSY: dict[str, Callable[[AnyStep], AnyStep]] = {
    "sequence": lambda step: Pipeline(steps=[step] * _NEVER),
    "loop": lambda step: Step.loop_until("loop", step, lambda output, context: False, max_loops=_NEVER),
    "map": lambda step: Step.map_over("map", step, max_concurrency=2).use_input("items"),
    "parallel": lambda step: Step.parallel("parallel", {str(i): step for i in range(_NEVER)}, max_concurrency=1),
}


@pytest.mark.parametrize("is_stored", [False, True], ids=["in memory", "stored"])
@pytest.mark.parametrize("kind", BUSY)
async def test_a_run_that_never_waits_can_be_cancelled(kind: str, *, is_stored: bool) -> None:
    """What cancels it comes to its turn, and the run ends there."""
    calls: list[int] = []
    started = asyncio.Event()

    def count(data: Any) -> Any:
        calls.append(1)
        started.set()
        return data

    flujo = Flujo(BUSY[kind](plain("count", count)), state_backend=InMemoryBackend() if is_stored else None)
    run = asyncio.create_task(flujo.run_async({"items": range(_NEVER)}))
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert 0 < len(calls) < _NEVER / 2


async def test_other_tasks_have_their_turns_in_proportion() -> None:
    """A hundred steps are one turn, so that yielding costs next to nothing."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await Flujo(Pipeline(steps=[plain("busy")] * _NEVER)).run_async(1)
    task.cancel()

    assert _NEVER / 100 <= turns <= _NEVER / 100 + 3
