"""A finished run is read, not run; and with `exit` nothing is stored before a run stops."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flujo import PipelineResult, StepResult
from flujo.utils.sameness import same_value
from tests.properties.building import build
from tests.properties.crashing import RUN_ID, FaultyStore, History, Life, live_through
from tests.properties.generator import Kinds, programs, schedules
from tests.properties.model import Model
from tests.properties.programs import Program
from tests.properties.running import in_world, run, runner_of
from tests.properties.world import WORLD

_PEOPLE = Kinds(humans=True, caches=False)


def _deeply(result: StepResult) -> tuple[Any, ...]:
    """Return all that a stored result has, but what every reader gets a copy of: the context of its branch."""
    return (
        *(result.name, result.status, result.attempts, result.latency_s, result.token_counts, result.cost),
        *(result.feedback, dict(result.metadata_)),
        [_deeply(child) for child in result.step_history],
    )


def _outputs(result: StepResult) -> list[Any]:
    """Return the outputs that are no results themselves."""
    own = [] if isinstance(result.output, (dict, list, PipelineResult)) else [result.output]
    return [*own, *(output for child in result.step_history for output in _outputs(child))]


@given(programs(_PEOPLE), schedules, schedules)
def test_a_completed_run_is_read(program: Program, picks: list[int], order: list[int]) -> None:
    """A runner built anew gives the result of a completed run again, all of it, and calls nobody."""
    store, tokens = FaultyStore(), Model().run(program).tokens

    async def work() -> tuple[History, PipelineResult[Any], Life]:
        history = await live_through(program, store, [], order, tokens)
        reader = Life(history.lives[-1].turnstile)
        WORLD.set(reader)
        runner = runner_of(build(program.root), program, state_backend=store)
        return history, await runner.run_async(program.data, run_id=RUN_ID), reader

    (history, again, reader), _ = in_world(work(), picks)

    result = history.result
    if result.status != "completed":
        return
    assert not reader.events
    assert [_deeply(step) for step in again.step_history] == [_deeply(step) for step in result.step_history]
    for step, first in zip(again.step_history, result.step_history, strict=True):
        assert same_value(_outputs(step), _outputs(first))
    assert same_value(again.final_pipeline_context, result.final_pipeline_context)
    assert (again.status, again.total_cost, again.total_tokens) == ("completed", result.total_cost, result.total_tokens)


@given(programs(_PEOPLE), schedules, schedules, st.integers(0, 2))
def test_exit_stores_where_a_run_stops(program: Program, picks: list[int], order: list[int], waits: int) -> None:
    """Each start of a run, and each answer, makes one write; and the run comes to the same all the same."""
    expected = run(build(program.root, people=False), program)
    store = FaultyStore(waits=waits, durability="exit")

    history, _ = in_world(live_through(program, store, [], order, expected.tokens), picks)

    assert history.report().lines() == expected.lines()
    pauses = len(history.lives) - 1
    assert store.statuses == ["paused", "running"] * pauses + [expected.status]
