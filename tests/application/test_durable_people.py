"""A stored run waits for people on disk: any runner of the pipeline takes their answers, each once."""

import pickle
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flujo import (
    AnswerRejectedError,
    Flujo,
    PausedException,
    PipelineContext,
    RunNotFoundError,
    SerializationError,
    SQLiteBackend,
    StateError,
    Step,
)
from flujo.state.backend import StateBackend
from flujo.testing import ManualClock, StubAgent
from tests.integration.paid import Paid


class Verdict(BaseModel):
    """What people answer."""

    ship: bool


def _first() -> tuple[StubAgent, Step[Any, Any]]:
    agent = StubAgent([Paid("draft", 2), Paid("never", 2)])
    return agent, Step("write", agent)


def _runner(first: Step[Any, Any], backend: StateBackend | None) -> Flujo[Any, Any]:
    """Return a runner as another process would make it."""

    async def send(verdict: Verdict, *, context: PipelineContext) -> str:
        return f"{verdict.ship}, {len(context.hitl_history)} said"

    ask = Step.human_in_the_loop("ask", "Ship it?", input_schema=Verdict)
    return Flujo(first >> ask >> Step("send", send), state_backend=backend)


async def test_a_paused_run_is_answered_by_its_run_id(backend: StateBackend) -> None:
    """The step before is not run again; the answer is validated, kept, and given to the next step."""
    agent, first = _first()
    paused = await _runner(first, backend).run_async("go", run_id="r")

    result = await _runner(first, backend).resume_async("r", {"ship": True})

    assert (paused.status, paused.waiting[0].message) == ("paused", "Ship it?")
    assert (result.status, result.output, result.total_cost, agent.call_count) == (
        "completed",
        "True, 1 said",
        Decimal(2),
        1,
    )
    context: Any = result.final_pipeline_context
    (said,) = context.hitl_history
    assert (said.message_to_human, said.human_response) == ("Ship it?", Verdict(ship=True))
    assert "status" not in context.scratchpad


async def test_a_paused_result_that_has_travelled_is_answered(backend: StateBackend) -> None:
    """With a store it only names the run, so a pickled copy will do, from a runner that is made anew."""
    agent, first = _first()
    paused = pickle.loads(pickle.dumps(await _runner(first, backend).run_async("go", run_id="r")))

    result = await _runner(first, backend).resume_async(paused, {"ship": False}, path=paused.waiting[0].path)

    assert (result.output, agent.call_count) == ("False, 1 said", 1)


async def test_a_paused_run_that_is_run_again_pauses_again(backend: StateBackend) -> None:
    """Nobody is called, and the same is asked."""
    agent, first = _first()
    runner = _runner(first, backend)

    paused = await runner.run_async("go", run_id="r")
    again = await runner.run_async("go on", run_id="r")

    assert (again.status, agent.call_count) == ("paused", 1)
    assert again.waiting == paused.waiting
    assert [asked.input_schema for asked in again.waiting] == [Verdict]
    assert again.total_cost == paused.total_cost == 2


async def test_an_answer_that_does_not_fit_changes_nothing(backend: StateBackend) -> None:
    """It is refused before it is stored, and the run waits still."""
    _, first = _first()
    runner = _runner(first, backend)
    await runner.run_async("go", run_id="r")

    for answer, path in (({"ship": "perhaps"}, None), ({"ship": True}, ("7",))):
        with pytest.raises(AnswerRejectedError):
            await runner.resume_async("r", answer, path=path)

    assert (await runner.resume_async("r", {"ship": True})).output == "True, 1 said"


async def test_an_answer_is_taken_once(backend: StateBackend) -> None:
    """A second one is refused, whether the run has completed by then or failed after it."""
    _, first = _first()
    await _runner(first, backend).run_async("go", run_id="done")
    await _runner(first, backend).resume_async("done", {"ship": True})
    failing = Flujo(
        Step.human_in_the_loop("ask") >> Step("send", StubAgent([OSError("down"), "sent"]), max_retries=0),
        state_backend=backend,
    )
    await failing.run_async("go", run_id="failed")
    assert (await failing.resume_async("failed", "yes")).status == "failed"

    for runner, run_id in ((_runner(first, backend), "done"), (failing, "failed")):
        with pytest.raises(AnswerRejectedError, match=run_id):
            await runner.resume_async(run_id, {"ship": True})
    assert (await failing.run_async("go", run_id="failed")).output == "sent"


async def test_an_unknown_run_and_a_runner_without_a_store_are_refused(backend: StateBackend) -> None:
    """The errors say which run is not there, and what the runner lacks."""
    _, first = _first()

    with pytest.raises(RunNotFoundError, match="nowhere") as raised:
        await _runner(first, backend).resume_async("nowhere", {"ship": True})
    assert raised.value.run_id == "nowhere"
    with pytest.raises(StateError, match="give the runner a state_backend"):
        await _runner(first, None).resume_async("nowhere", {"ship": True})


async def test_two_waiting_branches_are_answered_one_after_the_other(backend: StateBackend) -> None:
    """Each by its path, by runners that know nothing of each other.

    The history keeps the order of the answers, though the clock of the machine goes back.
    """
    agents = {name: StubAgent([PausedException(f"{name}?")]) for name in ("a", "b")}
    days = iter(range(9, 0, -1))

    def runner() -> Flujo[Any, Any]:
        step = Step.parallel("both", {name: Step(name, agent) for name, agent in agents.items()})
        clock = ManualClock(datetime(2026, 1, next(days), tzinfo=UTC))
        return Flujo(step, state_backend=backend, clock=clock)

    paused = await runner().run_async("go", run_id="r")
    paths = {asked.message: asked.path for asked in paused.waiting}
    with pytest.raises(StateError, match="2 steps wait"):
        await runner().resume_async("r", "which?")
    half = await runner().resume_async("r", "B", path=paths["b?"])
    result = await runner().resume_async("r", "A")

    assert ([asked.message for asked in half.waiting], half.status) == (["a?"], "paused")
    assert (result.output, [agent.call_count for agent in agents.values()]) == ({"a": "A", "b": "B"}, [1, 1])
    context: Any = result.final_pipeline_context
    assert [said.human_response for said in context.hitl_history] == ["B", "A"]


async def test_an_answer_that_could_not_be_stored_is_refused(backend: StateBackend) -> None:
    """The run waits still, and takes another one."""
    runner = Flujo(Step.human_in_the_loop("ask"), state_backend=backend)
    await runner.run_async("go", run_id="r")

    with pytest.raises(SerializationError, match="the answer"):
        await runner.resume_async("r", object())

    assert (await runner.resume_async("r", "yes")).output == "yes"


def test_plain_code_runs_and_resumes_in_loops_of_their_own(tmp_path: Path) -> None:
    """A store serves one event loop after another, and so does a file another store."""
    agent, first = _first()
    path = tmp_path / "runs.db"

    _runner(first, SQLiteBackend(path)).run("go", run_id="r")
    runner = _runner(first, SQLiteBackend(path))
    result = runner.resume("r", {"ship": True})

    assert (result.output, runner.run("go", run_id="r").output) == ("True, 1 said", "True, 1 said")
    assert agent.call_count == 1
