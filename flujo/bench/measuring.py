"""CPU time per step, of flujo beside plain asyncio and of a user's pipeline.

Both sides run in one process and one event loop, in turns, so that whatever slows the machine slows both;
CPU time does not count the time of other processes, and the median drops what still disturbed one run.
Garbage collection is on, as it is for users; what one run leaves is collected before the next is measured.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field

from flujo.application.runner import Flujo
from flujo.bench.scenarios import SCENARIOS, Scenario
from flujo.domain.results import RunStatus, StepResult
from flujo.exceptions import FlujoError

SIZES = (100, 1_000, 10_000)
"""Steps of each scenario; the cost per step should be the same at all of them."""

REPEATS = 5

_FEWEST_STEPS = 2_000  # in one measurement, which a shorter work is repeated for: clocks are not exact

CpuClock = Callable[[], float]
"""Tells the CPU seconds that the process took so far."""


class BenchmarkError(FlujoError):
    """What should be measured did not run to its end.

    Attributes:
        status: How it ended instead.
    """

    def __init__(self, message: str, *, status: RunStatus) -> None:
        super().__init__(message)
        self.status = status


class Measurement(BaseModel):
    """What one step of a scenario costs."""

    model_config = ConfigDict(frozen=True)

    name: str
    """The scenario."""
    unit: str
    """What counts as one step."""
    size: int
    """Steps in one run."""
    flujo_us: float
    """Microseconds of CPU time per step, the whole run divided by its steps."""
    plain_us: float
    """The same for plain asyncio."""

    @computed_field  # type: ignore[prop-decorator]  # pydantic documents this order of decorators
    @property
    def ratio(self) -> float:
        """How many times plain asyncio's time flujo takes; 0 where plain asyncio took none that the clock sees."""
        return self.flujo_us / self.plain_us if self.plain_us else 0.0


class PipelineMeasurement(BaseModel):
    """What one step of a user's pipeline costs."""

    model_config = ConfigDict(frozen=True)

    name: str
    """The pipeline."""
    steps: int
    """Steps in one run, those within steps counted and the steps around them not."""
    cpu_us: float
    """Microseconds of CPU time per step, the agents' own included."""


def measure_scenarios(
    scenarios: Iterable[Scenario] = SCENARIOS,
    sizes: Sequence[int] = SIZES,
    *,
    repeats: int = REPEATS,
    clock: CpuClock = time.process_time,
) -> Iterator[Measurement]:
    """Measure each scenario at each size, and yield what came of it at once; from plain code.

    Args:
        scenarios: What to measure.
        sizes: Steps in one run.
        repeats: Measurements of each side, of which the median counts.
        clock: Tells the CPU time.
    """
    for scenario in scenarios:
        for size in sizes:
            yield asyncio.run(_measure(scenario, size, repeats, clock))


async def _measure(scenario: Scenario, size: int, repeats: int, clock: CpuClock) -> Measurement:
    work = scenario.prepare(size)
    runs = max(1, _FEWEST_STEPS // size)
    for side in (work.plain, work.flujo):
        await side()
    plain_s, flujo_s = list[float](), list[float]()
    for _ in range(repeats):
        plain_s.append(await _cpu_s(work.plain, runs, clock))
        flujo_s.append(await _cpu_s(work.flujo, runs, clock))
    steps = size * runs
    return Measurement(
        name=scenario.name,
        unit=scenario.unit,
        size=size,
        flujo_us=median(flujo_s) / steps * 1e6,
        plain_us=median(plain_s) / steps * 1e6,
    )


async def _cpu_s(work: Callable[[], Awaitable[object]], runs: int, clock: CpuClock) -> float:
    gc.collect()
    started = clock()
    for _ in range(runs):
        await work()
    return clock() - started


def measure_pipeline(
    runner: Flujo[Any, Any],
    data: Any,
    *,
    repeats: int = REPEATS,
    clock: CpuClock = time.process_time,
) -> PipelineMeasurement:
    """Measure a pipeline; from plain code. It runs `repeats + 1` times, and pays for it if its agents cost money.

    Args:
        runner: Runs the pipeline.
        data: Its input.
        repeats: Measurements, of which the median counts; one run before them warms up.
        clock: Tells the CPU time.

    Raises:
        BenchmarkError: A run did not complete.
    """
    return asyncio.run(_measure_pipeline(runner, data, repeats, clock))


async def _measure_pipeline(runner: Flujo[Any, Any], data: Any, repeats: int, clock: CpuClock) -> PipelineMeasurement:
    us_per_step, steps = list[float](), 0
    for _ in range(repeats + 1):
        gc.collect()
        started = clock()
        result = await runner.run_async(data)
        took_s = clock() - started
        if not result.success:
            why = result.step_history[-1].feedback if result.step_history else "no step ran"
            raise BenchmarkError(f"the pipeline {result.status} instead of completing: {why}", status=result.status)
        steps = count_steps(result.step_history)
        us_per_step.append(took_s / steps * 1e6)
    return PipelineMeasurement(name=runner.pipeline_name, steps=steps, cpu_us=median(us_per_step[1:]))


def count_steps(history: Iterable[StepResult]) -> int:
    """Return how many steps without inner steps ran."""
    return sum(count_steps(result.step_history) or 1 for result in history)
