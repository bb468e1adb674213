"""A paused run is answered and goes on, from the runner's side."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from flujo import (
    AnswerRejectedError,
    Flujo,
    HumanInteraction,
    PausedException,
    Pipeline,
    PipelineContext,
    RefinementCheck,
    StateError,
    Step,
)
from flujo.testing import ManualClock, StubAgent
from tests.integration.paid import paid_step
from tests.integration.people import ask, context_of, pause


class Verdict(BaseModel):
    decision: Literal["ship", "hold"]
    stars: int = 0


class Tally(BaseModel):
    """A context without a scratchpad and without a history."""

    count: int = 0


# The pause


async def test_a_pause_says_what_is_asked() -> None:
    """`waiting` has the path, the message and the schema, and the scratchpad the status and the message."""
    paused = await pause(Flujo(paid_step("write", 0.02) >> ask(schema=Verdict) >> paid_step("send", 0.03)))

    (asked,) = paused.waiting
    assert (asked.path, asked.step_name, asked.message, asked.input_schema) == (("1",), "ask", "Ship it?", Verdict)
    assert context_of(paused).scratchpad == {"status": "paused", "pause_message": "Ship it?"}
    assert [(step.name, step.status) for step in paused.step_history] == [("write", "completed"), ("ask", "paused")]
    assert paused.total_cost == Decimal("0.02")


async def test_without_a_message_the_input_is_asked() -> None:
    """`pause_message` is the step's input as text."""
    paused = await pause(Flujo(ask(message=None)), {"draft": 1})

    assert paused.waiting[0].message == "{'draft': 1}"
    assert context_of(paused).scratchpad["pause_message"] == "{'draft': 1}"


async def test_an_agent_may_pause() -> None:
    """The message of a `PausedException` is asked."""
    paused = await pause(Flujo(Step("agent", StubAgent([PausedException("Which one?")]))))

    assert [asked.message for asked in paused.waiting] == ["Which one?"]


async def test_a_context_without_a_scratchpad_may_pause() -> None:
    """Any model may be the context of a run that pauses; it goes on with its values."""

    def count(data: Any, context: Tally) -> str:
        context.count += 1
        return f"{data} {context.count}"

    runner = Flujo(Step("first", count) >> ask() >> Step("second", count), context_model=Tally)
    paused = await pause(runner)

    result = await runner.resume_async(paused, "yes")

    assert result.output == "yes 2"
    assert paused.final_pipeline_context == Tally(count=1)


async def test_a_scratchpad_that_is_no_dict_is_left_alone() -> None:
    """A user's own field that is named `scratchpad` is the user's."""

    class Pad(BaseModel):
        scratchpad: str = "mine"

    runner = Flujo(ask(), context_model=Pad)

    result = await runner.resume_async(await pause(runner), "yes")

    assert result.final_pipeline_context == Pad()


# The answer


async def test_the_answer_is_the_output_of_the_step() -> None:
    """The next step works on the answer, and the run completes under its own identity."""
    runner = Flujo(ask() >> Step.from_callable(str.upper, name="shout"))
    paused = await pause(runner, run_id="r1")

    result = await runner.resume_async(paused, "yes")

    assert (result.output, result.status, result.run_id) == ("YES", "completed", "r1")
    assert result.waiting == []
    assert [(step.name, step.status) for step in result.step_history] == [("ask", "completed"), ("shout", "completed")]


def test_resume_works_from_plain_code() -> None:
    """`resume` is `resume_async` for code without an event loop."""
    runner = Flujo(ask())

    result = runner.resume(runner.run("draft"), "yes")

    assert result.output == "yes"


async def test_resume_is_refused_inside_a_running_loop() -> None:
    """The error names what to await instead."""
    runner = Flujo(ask())
    paused = await pause(runner)

    with pytest.raises(TypeError, match="resume_async"):
        runner.resume(paused, "yes")


async def test_an_agent_that_paused_is_not_called_again() -> None:
    """The answer takes the place of the agent's own, and its cost until then counts once."""
    agent = StubAgent([PausedException("Which one?")])
    runner = Flujo(paid_step("paid", 0.02) >> Step("agent", agent) >> paid_step("more", 0.03))

    result = await runner.resume_async(await pause(runner), "that one")

    assert (result.output, agent.call_count, result.total_cost) == ("that one", 1, Decimal("0.05"))


async def test_the_scratchpad_is_cleared_and_the_answer_remembered() -> None:
    """After a resume nothing is asked any more, and `hitl_history` has question, answer and time."""
    clock = ManualClock()
    runner = Flujo(ask(schema=Verdict), clock=clock)
    paused = await pause(runner)
    clock.advance(90)

    result = await runner.resume_async(paused, {"decision": "ship", "stars": "5"})

    verdict = Verdict(decision="ship", stars=5)
    asked_at = ManualClock().now()
    assert result.output == verdict
    assert context_of(result).scratchpad == {}
    assert context_of(result).hitl_history == [
        HumanInteraction(
            message_to_human="Ship it?", human_response=verdict, timestamp=asked_at + timedelta(seconds=90)
        )
    ]


async def test_the_steps_after_the_answer_see_no_pause() -> None:
    """The scratchpad is cleared before the run goes on, and what the steps keep there stays."""

    def keep(data: Any, context: PipelineContext) -> Any:
        context.scratchpad["mine"] = 1
        return data

    def look(data: Any, context: PipelineContext) -> dict[str, Any]:
        return dict(context.scratchpad)

    runner = Flujo(Step("keep", keep) >> ask() >> Step("look", look))

    result = await runner.resume_async(await pause(runner), "yes")

    assert result.output == {"mine": 1}


async def test_a_run_may_pause_any_number_of_times() -> None:
    """Each answer leads to the next question, and every interaction is kept in order."""
    runner = Flujo(Pipeline(steps=[ask(f"ask {number}", f"Question {number}?") for number in range(5)]))
    result = await pause(runner)

    for number in range(5):
        assert context_of(result).scratchpad["pause_message"] == f"Question {number}?"
        result = await runner.resume_async(result, number)

    assert (result.status, result.output) == ("completed", 4)
    assert [said.human_response for said in context_of(result).hitl_history] == [0, 1, 2, 3, 4]
    assert len(result.step_history) == 5


@pytest.mark.parametrize("answer", [{"decision": "maybe"}, {"decision": "ship", "stars": "many"}, "ship", None])
async def test_an_answer_that_does_not_fit_is_refused(answer: Any) -> None:
    """Nothing runs, nothing is stored, and the same pause can be answered again."""
    agent = StubAgent(["sent"])
    runner = Flujo(ask(schema=Verdict) >> Step("send", agent))
    paused = await pause(runner)

    with pytest.raises(AnswerRejectedError, match="the answer does not fit step 'ask': "):
        await runner.resume_async(paused, answer)

    assert agent.call_count == 0
    assert context_of(paused).hitl_history == []
    assert (await runner.resume_async(paused, {"decision": "ship"})).output == "sent"


@pytest.mark.parametrize(
    ("schema", "answer", "read"),
    [
        (int, "7", 7),
        (list[int], ["7", 8], [7, 8]),
        (Literal["yes", "no"], "yes", "yes"),
        (Verdict, Verdict(decision="hold"), Verdict(decision="hold")),
    ],
)
async def test_an_answer_is_read_by_its_schema(schema: Any, answer: Any, read: Any) -> None:
    """Any type that pydantic validates may be a schema."""
    runner = Flujo(ask(schema=schema))
    paused = await pause(runner)

    assert (await runner.resume_async(paused, answer)).output == read
    with pytest.raises(AnswerRejectedError, match="does not fit step 'ask'"):
        await runner.resume_async(paused, object())


async def test_a_refusal_names_the_field() -> None:
    """The message says where the answer does not fit."""
    runner = Flujo(ask(schema=Verdict))

    with pytest.raises(AnswerRejectedError, match="stars: Input should be a valid integer"):
        await runner.resume_async(await pause(runner), {"decision": "ship", "stars": "many"})


async def test_a_pause_may_be_answered_twice() -> None:
    """A paused result stays as it is, so that another answer may be tried from the same place."""

    def note(data: Any, context: PipelineContext) -> list[Any]:
        context.scratchpad.setdefault("notes", []).append(data)
        return list(context.scratchpad["notes"])

    runner = Flujo(Step("before", note) >> ask() >> Step("after", note))
    paused = await pause(runner)

    first, second = await asyncio.gather(runner.resume_async(paused, "a"), runner.resume_async(paused, "b"))

    assert (first.output, second.output) == (["draft", "a"], ["draft", "b"])
    assert context_of(paused).scratchpad == {"notes": ["draft"], "status": "paused", "pause_message": "Ship it?"}
    assert len(paused.waiting) == len(paused.step_history) - 1 == 1


async def test_what_the_steps_work_on_stays_as_it_was_too() -> None:
    """A step that changes its input in place after a resume changes a copy of it."""

    def draft(request: dict[str, Any]) -> list[str]:
        request["original_input"].append("drafted")
        return list(request["original_input"])

    def check(answer: Any) -> RefinementCheck:
        return RefinementCheck(is_complete=answer == "ok")

    refine = Step.refine_until("refine", Step("draft", draft), ask() >> Step("check", check), max_refinements=2)
    runner = Flujo(refine)
    paused = await pause(runner, ["topic"])

    results = [await runner.resume_async(paused, "not yet") for _ in range(3)]
    results = [await runner.resume_async(result, "ok") for result in results]

    assert [result.output for result in results] == [["topic", "drafted", "drafted"]] * 3


# Several that wait


def _both() -> Flujo[Any, Any]:
    legal, price = ask("legal", "Legal?"), ask("price", "Price?", int)
    return Flujo(Step.parallel("both", {"legal": legal, "work": paid_step("work", 0.01), "price": price}))


async def test_all_that_wait_are_told_at_once() -> None:
    """The other branches run to their end first; then every waiting step is told, in order of declaration."""
    paused = await pause(_both())

    assert [asked.path for asked in paused.waiting] == [("0", "branch:legal", "0"), ("0", "branch:price", "0")]
    assert context_of(paused).scratchpad["pause_message"] == "Legal?\nPrice?"
    assert paused.total_cost == Decimal("0.01")


async def test_questions_come_in_order_of_declaration() -> None:
    """Neither the order of finishing nor that of the alphabet decides."""
    items = Step.map_over("map", ask(message=None), max_concurrency=None)

    paused = await pause(Flujo(items), list(range(12)))

    assert [asked.message for asked in paused.waiting] == [str(number) for number in range(12)]


@pytest.mark.parametrize("order", [("legal", "price"), ("price", "legal")])
async def test_the_path_says_which_one_is_answered(order: Sequence[str]) -> None:
    """Answers come in any order, each to its own step; the work between is done once."""
    runner, answers = _both(), {"legal": "fine", "price": 7}
    result = await pause(runner)

    for left, name in zip((2, 1), order, strict=True):
        assert len(result.waiting) == left
        result = await runner.resume_async(result, answers[name], path=("0", f"branch:{name}", "0"))

    assert result.output == {"legal": "fine", "work": "draft", "price": 7}
    assert result.total_cost == Decimal("0.01")
    assert {said.human_response for said in context_of(result).hitl_history} == {"fine", 7}


async def test_without_a_path_there_must_be_one_that_waits() -> None:
    """The error says where the steps wait, as `path` takes it."""
    runner = _both()
    message = r"2 steps wait, at \('0', 'branch:legal', '0'\), \('0', 'branch:price', '0'\); say with path="

    with pytest.raises(StateError, match=message):
        await runner.resume_async(await pause(runner), "yes")


@pytest.mark.parametrize("path", [("0",), ("9", "9"), (), ["0", "branch:work", "0"], "0"])
async def test_an_answer_to_nobody_is_refused(path: Sequence[str]) -> None:
    """A path at which nobody waits is an answer to nobody."""
    runner = _both()

    with pytest.raises(AnswerRejectedError, match=r"nobody waits at .*; waiting: "):
        await runner.resume_async(await pause(runner), "yes", path=path)
