"""CPU time is measured around whole runs and divided by their steps."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from flujo import Flujo, Step
from flujo.bench.measuring import BenchmarkError, Measurement, count_steps, measure_pipeline, measure_scenarios
from flujo.bench.scenarios import PlainResult, Scenario, Work
from flujo.domain.results import PipelineResult
from flujo.testing import StubAgent


class _Clock:
    """Stands still unless work moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _scenario(clock: _Clock, *, flujo_s: Callable[[], float], plain_s: float) -> Scenario:
    """Make a scenario whose runs take a given time."""
    runner = Flujo(Step.from_callable(str.upper, name="shout"))

    def prepare(size: int) -> Work:
        async def flujo() -> PipelineResult[Any]:
            clock.now_s += flujo_s()
            return await runner.run_async("hello")

        async def plain() -> PlainResult:
            clock.now_s += plain_s
            return PlainResult("HELLO")

        return Work(flujo, plain)

    return Scenario("made up", "run", prepare)


def test_time_is_per_step() -> None:
    """A run's CPU time is divided by the steps of the run, however often it was run."""
    clock = _Clock()
    scenario = _scenario(clock, flujo_s=lambda: 0.003, plain_s=0.001)

    (measured,) = measure_scenarios([scenario], [100], repeats=3, clock=clock)

    assert (measured.name, measured.unit, measured.size) == ("made up", "run", 100)
    assert measured.flujo_us == pytest.approx(30)
    assert measured.plain_us == pytest.approx(10)
    assert measured.ratio == pytest.approx(3)


def test_the_median_counts_and_the_first_run_does_not() -> None:
    """A slow first run and one that was disturbed change nothing."""
    clock = _Clock()
    took_s = itertools.chain([5.0, 0.01, 9.0], itertools.repeat(0.01))
    scenario = _scenario(clock, flujo_s=lambda: next(took_s), plain_s=0.01)

    (measured,) = measure_scenarios([scenario], [10_000], repeats=3, clock=clock)

    assert measured.flujo_us == pytest.approx(1)


def test_every_scenario_is_measured_at_every_size() -> None:
    """Measurements come scenario by scenario, smaller sizes first."""
    clock = _Clock()
    scenario = _scenario(clock, flujo_s=lambda: 0.0, plain_s=0.0)

    measured = list(measure_scenarios([scenario, scenario], [1_000, 2_000], repeats=1, clock=clock))

    assert [each.size for each in measured] == [1_000, 2_000, 1_000, 2_000]
    assert measured[0].ratio == 0


def test_a_pipeline_is_measured_by_the_steps_that_ran() -> None:
    """A user's pipeline is run once to warm up and then measured, per step that it executed."""
    clock, calls = _Clock(), itertools.count(1)

    def work(number: int) -> int:
        clock.now_s += 5.0 if next(calls) <= 3 else 0.002
        return number + 1

    loop = Step.loop_until("count", Step("work", work), lambda number, context: number == 3, max_loops=5)

    measured = measure_pipeline(Flujo(loop), 0, repeats=2, clock=clock)

    assert (measured.name, measured.steps) == ("count", 3)
    assert measured.cpu_us == pytest.approx(2000)


def test_a_pipeline_that_fails_is_not_measured() -> None:
    """A run that does not complete is an error that says why."""
    runner = Flujo(Step("ask", StubAgent([ValueError("no such model")]), max_retries=0))

    with pytest.raises(BenchmarkError, match=r"the pipeline failed instead of completing: .*no such model"):
        measure_pipeline(runner, "hello")


def test_steps_around_steps_do_not_count() -> None:
    """Only the steps without inner steps are counted."""

    def double_of(number: int) -> int:
        return 2 * number

    double = Step[int, int]("double", double_of)
    pipeline = double >> Step.parallel("both", {"a": double >> double, "b": double})

    result = Flujo(pipeline).run(1)

    assert count_steps(result.step_history) == 4


def test_real_scenarios_take_time() -> None:
    """The real clock moves for both sides of the real scenarios."""
    measured = list(measure_scenarios(sizes=[20], repeats=1))

    assert [each.name for each in measured] == ["sequence", "loop", "parallel", "map", "durable"]
    assert all(isinstance(each, Measurement) and each.flujo_us > 0 for each in measured)
