"""The Python function calls per step are recorded, and growth is refused."""

import asyncio
import sys
from typing import Any

import pytest

from benchmarks.call_counts import PYTHON, complaints, count, read_records
from flujo import Flujo, Step
from flujo.bench.call_counts import calls_per_step
from flujo.bench.scenarios import SCENARIOS, PlainResult, Scenario, Work
from flujo.domain.results import PipelineResult

_RECORDS = {"3.11": {"loop": 100.0}, "3.12": {"loop": 90.0}}


def test_no_step_calls_more_than_was_recorded() -> None:
    """The calls per step, iteration, branch and item are those in `call_counts.json`, within 5 %."""
    assert complaints(count(), read_records(), PYTHON) == []


def test_every_scenario_is_recorded_for_every_supported_python() -> None:
    """The oldest supported version and the ones after it each have their own numbers."""
    records = read_records()

    assert {"3.11", "3.12", "3.13"} <= records.keys()
    assert all(counts.keys() == {scenario.name for scenario in SCENARIOS} for counts in records.values())


@pytest.mark.parametrize("calls", [95.0, 100.0, 105.0])
def test_five_per_cent_more_or_less_are_let_pass(calls: float) -> None:
    """A count near the recorded one is no complaint."""
    assert complaints({"loop": calls}, _RECORDS, "3.11") == []


def test_growth_is_refused() -> None:
    """More than 5 % above the record is a complaint with both numbers."""
    (complaint,) = complaints({"loop": 105.1}, _RECORDS, "3.11")

    assert complaint.startswith("loop: 105.1 calls per step on Python 3.11, 100 recorded; make it faster again")


def test_a_gain_has_to_be_recorded() -> None:
    """More than 5 % below the record is a complaint too, so that the gain cannot be lost unnoticed."""
    (complaint,) = complaints({"loop": 94.9}, _RECORDS, "3.11")

    assert complaint.endswith("keep what was won: run `python -m benchmarks.call_counts --record`")


def test_an_unrecorded_python_may_not_call_more_than_any_other() -> None:
    """A version without numbers of its own is held to the highest ones, and may be far below them."""
    assert complaints({"loop": 50.0}, _RECORDS, "3.99") == []
    assert complaints({"loop": 105.0}, _RECORDS, "3.99") == []
    assert len(complaints({"loop": 105.1}, _RECORDS, "3.99")) == 1


def test_a_scenario_without_a_record_is_found() -> None:
    """A new scenario has to be recorded."""
    (complaint,) = complaints({"cached": 1.0}, _RECORDS, "3.11")

    assert complaint.startswith("cached: no calls are recorded")


def _calling(calls_per_item: int) -> Scenario:
    """Make a scenario that calls a function so often for each of its items, besides what it calls once."""

    def called() -> None: ...

    async def work(size: int) -> int:
        for _ in range(size * calls_per_item):
            called()
        return size

    def prepare(size: int) -> Work:
        runner = Flujo(Step[int, int]("work", work))

        async def flujo() -> PipelineResult[Any]:
            return await runner.run_async(size)

        async def plain() -> PlainResult:
            return PlainResult(await work(size))

        return Work(flujo, plain)

    return Scenario("made up", "item", prepare)


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_exactly_the_calls_of_a_step_are_counted(calls: int) -> None:
    """What a run calls once drops out, and each call of a step counts."""
    assert calls_per_step(_calling(calls)) == calls


def test_going_on_after_waiting_counts() -> None:
    """A coroutine that the event loop calls again costs a call, and so does what the loop does for it."""

    async def work(size: int) -> int:
        for _ in range(size):
            await asyncio.sleep(0)
        return size

    def prepare(size: int) -> Work:
        runner = Flujo(Step[int, int]("work", work))

        async def plain() -> PlainResult:
            return PlainResult(await work(size))

        return Work(lambda: runner.run_async(size), plain)

    assert calls_per_step(Scenario("waiting", "wait", prepare)) > 3


def test_counting_leaves_no_profiler_behind() -> None:
    """The profiler that was there before is there again."""
    calls_per_step(_calling(1))

    assert sys.getprofile() is None
