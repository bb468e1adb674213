"""Bytes that a loop takes for each of its iterations."""

import asyncio
import gc
import tracemalloc

from pydantic import BaseModel, ConfigDict

from flujo.bench.scenarios import Scenario

ITERATIONS = 100_000


class MemoryMeasurement(BaseModel):
    """What a run holds in memory, divided by its steps."""

    model_config = ConfigDict(frozen=True)

    size: int
    """Steps in the run."""
    kept_bytes: float
    """Per step, what lives on with the result of the run, the outputs of the steps included."""
    peak_bytes: float
    """Per step, the most that the run held at any time."""


def measure_memory(scenario: Scenario, size: int = ITERATIONS) -> MemoryMeasurement:
    """Run a scenario once and measure what Python allocates for it; from plain code."""
    return asyncio.run(_measure_memory(scenario, size))


async def _measure_memory(scenario: Scenario, size: int) -> MemoryMeasurement:
    await scenario.prepare(10).flujo()  # fills the caches that any first run fills
    work = scenario.prepare(size)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        result = await work.flujo()
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.success, "a scenario completes"
    return MemoryMeasurement(size=size, kept_bytes=(after - before) / size, peak_bytes=(peak - before) / size)
