"""Python function calls per step: a measure of speed that repeats exactly, on any machine.

A coroutine that goes on after an `await` counts as called again, and so do the callbacks of the event loop;
calls of C functions do not count. What a run costs once drops out, because only the difference
between a run of 2N steps and one of N counts. Garbage collection is off, because it may call Python code at any time.
"""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import FrameType

from flujo.bench.scenarios import Scenario

STEPS = 200
"""Steps of the shorter one of the two runs."""


def calls_per_step(scenario: Scenario) -> float:
    """Return how many Python functions one more step of a scenario calls; from plain code."""
    with _without_garbage_collection():
        shorter, longer = (_calls_of_run(scenario.prepare(size).flujo) for size in (STEPS, 2 * STEPS))
    return (longer - shorter) / STEPS


def _calls_of_run(run: Callable[[], Awaitable[object]]) -> int:
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    async def profiled() -> None:
        await run()  # what only the first run does, such as its checks, is not a cost of every run
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            await run()
        finally:
            sys.setprofile(before)

    asyncio.run(profiled())
    return calls


@contextmanager
def _without_garbage_collection() -> Generator[None, None, None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
