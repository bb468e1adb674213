"""`Step.human_in_the_loop`, and agents that wait: what is asked, and what becomes of an answer."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from flujo import (
    AnswerRejectedError,
    Flujo,
    HumanInteraction,
    PausedException,
    PipelineContext,
    PipelineResult,
    StateError,
    Step,
    Waiting,
)
from flujo.testing import ManualClock, StubAgent
from tests.steps.workflows import CENT, PaidError, assert_adds_up, paid, plain

ASK = Step.human_in_the_loop("ask", "Go on?")


class Verdict(BaseModel):
    """What a reviewer says."""

    approved: bool
    note: str = ""


@dataclass
class Choice:
    number: int


def _context(result: PipelineResult[Any]) -> PipelineContext:
    assert isinstance(result.final_pipeline_context, PipelineContext)
    return result.final_pipeline_context


def test_a_run_pauses_and_says_what_it_asks() -> None:
    """Status, waiting steps and scratchpad say so; nothing after the question has run."""
    after = StubAgent(["never"])

    paused = Flujo(paid("before") >> ASK >> Step("after", after)).run("x")

    assert (paused.status, paused.success, paused.output) == ("paused", False, None)
    assert paused.waiting == [Waiting(path=("1",), step_name="ask", message="Go on?")]
    assert _context(paused).scratchpad == {"status": "paused", "pause_message": "Go on?"}
    assert [(step.name, step.status) for step in paused.step_history] == [("before", "completed"), ("ask", "paused")]
    assert paused.step_history[1].feedback == "Go on?"
    assert (after.call_count, paused.total_cost) == (0, CENT)


@pytest.mark.parametrize(("data", "message"), [("Is it good?", "Is it good?"), (["a", 1], "['a', 1]"), (None, "None")])
def test_without_a_message_the_input_is_asked(data: Any, message: str) -> None:
    """The step's input as text is the question."""
    paused = Flujo(Step.human_in_the_loop("ask")).run(data)

    assert paused.waiting[0].message == message
    assert _context(paused).scratchpad["pause_message"] == message


def test_the_answer_is_the_output_and_is_remembered() -> None:
    """It goes to the next step and, with question and time, into `hitl_history`; the scratchpad is as before."""
    clock = ManualClock()
    flujo = Flujo(paid("before") >> ASK >> plain("after", str.upper), clock=clock)
    paused = flujo.run("x", initial_context_data={"scratchpad": {"mine": 1}})
    clock.advance(60)

    result = flujo.resume(paused, "yes")

    assert (result.status, result.output, result.run_id) == ("completed", "YES", paused.run_id)
    assert _context(result).hitl_history == [
        HumanInteraction(
            message_to_human="Go on?", human_response="yes", timestamp=datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
        )
    ]
    assert _context(result).scratchpad == {"mine": 1}
    assert [step.name for step in result.step_history] == ["before", "ask", "after"]
    assert result.total_cost == CENT
    assert_adds_up(result)


def test_what_ran_before_is_not_run_again() -> None:
    """The paused result is resumed as often as one likes, and stays as it is."""
    before = StubAgent(["only once"])
    flujo = Flujo(Step("before", before) >> ASK >> plain("after"))

    paused = flujo.run("x")
    answers = [flujo.resume(paused, answer).output for answer in ("a", "b", "a")]

    assert answers == ["a", "b", "a"]
    assert before.call_count == 1
    assert (paused.status, len(paused.step_history)) == ("paused", 2)
    assert _context(paused).hitl_history == []
    assert _context(paused).scratchpad["status"] == "paused"


@pytest.mark.parametrize(
    ("schema", "answer", "expected"),
    [
        (Verdict, {"approved": "yes", "note": "fine"}, Verdict(approved=True, note="fine")),
        (Verdict, Verdict(approved=False), Verdict(approved=False)),
        (Choice, {"number": "3"}, Choice(3)),
        (int, "5", 5),
        (list[int], ("1", 2), [1, 2]),
        (None, object, object),
    ],
)
def test_an_answer_is_read_by_the_schema(schema: Any, answer: Any, expected: Any) -> None:
    """Models, dataclasses and built-in types are made of what was answered; without a schema anything goes."""
    flujo = Flujo(Step.human_in_the_loop("ask", "?", input_schema=schema))

    paused = flujo.run("x")
    result = flujo.resume(paused, answer)

    assert paused.waiting[0].input_schema is schema
    assert result.output == expected
    assert _context(result).hitl_history[0].human_response == expected


def test_an_answer_that_does_not_fit_is_rejected() -> None:
    """The error names step and field; nothing is run or stored, and a good answer is taken afterwards."""
    after = StubAgent(["done"])
    flujo = Flujo(Step.human_in_the_loop("ask", "?", input_schema=Verdict) >> Step("after", after))
    paused = flujo.run("x")

    with pytest.raises(AnswerRejectedError, match=r"does not fit step 'ask': approved: "):
        flujo.resume(paused, {"approved": "perhaps"})

    assert (after.call_count, _context(paused).hitl_history) == (0, [])
    assert flujo.resume(paused, {"approved": True}).output == "done"


@pytest.mark.parametrize("steps", [plain("a"), plain("a") >> plain("b")])
def test_resuming_what_does_not_wait_is_an_error(steps: Any) -> None:
    """A finished run has no question, and neither has something that is no result."""
    flujo: Flujo[Any, Any] = Flujo(steps)
    untyped: Any = flujo

    with pytest.raises(StateError, match="does not wait"):
        flujo.resume(flujo.run("x"), "yes")
    with pytest.raises(StateError, match="3 is no PipelineResult"):
        untyped.resume(3, "yes")


def test_a_resumed_run_may_pause_again() -> None:
    """One question after the other; every answer is in the history, oldest first."""
    flujo = Flujo(ASK >> Step.human_in_the_loop("again") >> Step.human_in_the_loop("last") >> plain("end"))

    paused = flujo.run("x")
    messages = [paused.waiting[0].message]
    for answer in ("one", "two"):
        paused = flujo.resume(paused, answer)
        messages.append(paused.waiting[0].message)
    result = flujo.resume(paused, "three")

    assert messages == ["Go on?", "one", "two"]
    assert result.output == "three"
    assert [each.human_response for each in _context(result).hitl_history] == ["one", "two", "three"]


def test_an_agent_may_wait() -> None:
    """It raises `PausedException`; the answer becomes its step's output, and it is not called again."""
    agent = StubAgent([PausedException("Which one?")])
    flujo = Flujo(Step("pick", agent) >> plain("after", str.upper))

    paused = flujo.run("x")
    result = flujo.resume(paused, "left")

    assert paused.waiting[0].message == "Which one?"
    assert (result.output, agent.call_count) == ("LEFT", 1)
    assert _context(result).hitl_history[0].message_to_human == "Which one?"


def test_an_agent_that_waits_keeps_what_it_cost() -> None:
    """What its attempts cost before it waited is in the paused and in the resumed result, once."""
    agent = StubAgent([PaidError("busy"), PausedException("Which one?")])
    flujo = Flujo(Step("pick", agent))

    paused = flujo.run("x")
    result = flujo.resume(paused, "left")

    assert (paused.total_cost, result.total_cost) == (CENT, CENT)
    assert (result.step_history[0].attempts, result.total_tokens) == (2, 10)


def test_an_answer_may_update_the_context() -> None:
    """A waiting agent's step with `updates_context` merges the answer, validated."""
    flujo = Flujo(Step("pick", StubAgent([PausedException("?")] * 2), updates_context=True))
    paused = flujo.run("x")

    good = flujo.resume(paused, {"scratchpad": {"k": 1}})
    bad = flujo.resume(paused, {"nothing": 1})

    assert _context(good).scratchpad == {"k": 1}
    assert bad.status == "failed"
    assert "'nothing'" in str(bad.step_history[0].feedback)


class Bare(BaseModel):
    """A context with nothing that flujo knows."""

    model_config = ConfigDict(frozen=True)

    count: int = 0


def test_any_context_may_wait() -> None:
    """A context without scratchpad and history is left alone, and the answer comes through."""
    flujo = Flujo(ASK >> plain("after"), context_model=Bare, initial_context_data={"count": 2})

    paused = flujo.run("x")
    result = flujo.resume(paused, "yes")

    assert paused.final_pipeline_context == result.final_pipeline_context == Bare(count=2)
    assert result.output == "yes"


def test_the_answer_is_not_shared_with_whoever_gave_it() -> None:
    """What the caller or a step does to the answer afterwards does not change what was remembered."""
    answer = ["yes"]

    def change(data: list[str]) -> list[str]:
        data.append("changed by a step")
        return data

    flujo = Flujo(ASK >> plain("change", change))

    result = flujo.resume(flujo.run("x"), answer)
    answer.append("changed by the caller")

    assert result.output == ["yes", "changed by a step"]
    assert _context(result).hitl_history[0].human_response == ["yes"]


def test_a_runner_of_another_pipeline_does_not_resume() -> None:
    """The error says to use the runner that paused."""
    paused = Flujo(ASK).run("x")

    with pytest.raises(StateError, match="of another pipeline"):
        Flujo(ASK >> plain("more")).resume(paused, "yes")
