"""A run pauses and goes on at any depth: loops, branches, maps, routers, fallbacks, and several at once."""

import asyncio
from typing import Any

import pytest

from flujo import (
    AnswerRejectedError,
    Flujo,
    MergeStrategy,
    OnPausePayload,
    PausedException,
    Pipeline,
    PipelineContext,
    PipelineResult,
    RefinementCheck,
    StateError,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.testing import StubAgent
from tests.steps.workflows import CENT, Notes, Paid, assert_adds_up, failing, paid, plain

ASK = Step.human_in_the_loop("ask")


def _answers(result: PipelineResult[Any]) -> list[Any]:
    assert isinstance(result.final_pipeline_context, PipelineContext)
    return [interaction.human_response for interaction in result.final_pipeline_context.hitl_history]


def test_a_loop_pauses_in_every_iteration() -> None:
    """Each iteration asks anew, finished ones are not repeated, and the loop counts them all."""
    calls: list[Any] = []

    def note(data: Any) -> Any:
        calls.append(data)
        return data

    flujo = Flujo(Step.loop_until("loop", paid("note", note) >> ASK, lambda output, context: output == "stop"))

    paused = flujo.run("start")
    paused = flujo.resume(paused, "more")
    paused = flujo.resume(paused, "even more")
    result = flujo.resume(paused, "stop")

    assert calls == ["start", "more", "even more"]
    assert (result.output, result.step_history[0].attempts) == ("stop", 3)
    assert _answers(result) == ["more", "even more", "stop"]
    assert result.total_cost == 3 * CENT
    assert_adds_up(result)


def test_a_loop_may_ask_twice_in_one_iteration() -> None:
    """Both answers reach their steps, in each iteration."""
    body = Step.human_in_the_loop("first") >> Step.human_in_the_loop("second") >> plain("join", lambda data: data + "!")
    flujo = Flujo(Step.loop_until("loop", body, lambda output, context: output == "d!"))

    paused = flujo.run("x")
    for answer in "abc":
        paused = flujo.resume(paused, answer)
    result = flujo.resume(paused, "d")

    assert paused.waiting[0].path == ("0", "iteration:2", "1")
    assert result.output == "d!"
    assert _answers(result) == ["a", "b", "c", "d"]


def test_waiting_branches_let_the_others_end_first() -> None:
    """The run pauses when nothing more can be done, with every question, in order of declaration."""
    order: list[str] = []

    def note(name: str) -> Step[Any, Any]:
        def add(data: Any) -> str:
            order.append(name)
            return name

        return paid(name, add)

    branches = {"b": ASK >> note("after b"), "busy": note("one") >> note("two"), "a": ASK >> note("after a")}
    flujo = Flujo(Step.parallel("p", branches) >> note("end"))

    paused = flujo.run("?")
    assert order == ["one", "two"]
    assert [asked.path for asked in paused.waiting] == [("0", "branch:b", "0"), ("0", "branch:a", "0")]
    assert paused.total_cost == 2 * CENT

    half = flujo.resume(paused, "A", path=("0", "branch:a", "0"))
    assert order == ["one", "two", "after a"]
    assert [asked.path for asked in half.waiting] == [("0", "branch:b", "0")]

    result = flujo.resume(half, "B")
    assert order == ["one", "two", "after a", "after b", "end"]
    assert result.step_history[0].output == {"b": "after b", "busy": "two", "a": "after a"}
    assert result.total_cost == 5 * CENT
    assert _answers(result) == ["A", "B"]
    assert_adds_up(result)


async def test_questions_are_in_order_of_declaration_whatever_comes_up_first() -> None:
    """Of branches in branches too, though the last one asks first."""
    asked = [asyncio.Event() for _ in range(5)]
    asked[4].set()

    def ask_after_the_next(position: int) -> Step[Any, Any]:
        async def ask(data: Any) -> Any:
            await asked[position + 1].wait()
            asked[position].set()
            raise PausedException(str(position))

        return Step(f"ask {position}", ask)

    inner = [Step.map_over("m", Step("ask", ask_after_the_next(i).agent)) for i in range(4)]
    pairs = [Step.parallel("pair", {"z": inner[i], "a": inner[i + 1]}) for i in (0, 2)]
    step = Step.parallel("p", {"second": pairs[0], "first": pairs[1]})

    paused = await Flujo(step).run_async(["x"])

    assert [waiting.message for waiting in paused.waiting] == ["0", "1", "2", "3"]


def test_with_several_questions_the_answer_says_which() -> None:
    """Without a path there must be exactly one; a path where nobody waits is rejected."""
    flujo = Flujo(Step.map_over("m", ASK))
    paused = flujo.run(["a", "b"])

    with pytest.raises(StateError, match=r"2 steps wait, .*item:0.*item:1.*path="):
        flujo.resume(paused, "yes")
    with pytest.raises(AnswerRejectedError, match=r"nobody waits at .*item:9"):
        flujo.resume(paused, "yes", path=("0", "item:9", "0"))
    assert flujo.resume(paused, "yes", path=["0", "item:1", "0"]).waiting[0].message == "a"


@pytest.mark.parametrize("max_concurrency", [1, 2, None])
def test_a_map_asks_for_every_item(max_concurrency: int | None) -> None:
    """The questions are in the order of the items, and so are the answers, whatever order they come in."""
    flujo = Flujo(Step.map_over("m", paid("call") >> ASK, max_concurrency=max_concurrency))

    paused = flujo.run(iter(range(12)))
    assert [asked.message for asked in paused.waiting] == [str(i) for i in range(12)]

    while len(paused.waiting) > 1:
        last = paused.waiting[-1]
        paused = flujo.resume(paused, f"answer {last.message}", path=last.path)
    result = flujo.resume(paused, "answer 0")

    assert result.output == [f"answer {i}" for i in range(12)]
    assert result.total_cost == 12 * CENT
    assert_adds_up(result)


def test_branch_contexts_survive_a_pause() -> None:
    """What branches wrote before and after the question is merged once, at the end."""

    async def write(data: str, *, context: Notes) -> str:
        context.tags.append(data)
        return data

    branch = Step("write", write) >> ASK >> Step("write again", write)
    step = Step.parallel("p", {"a": branch, "b": Step("write", write)}, merge_strategy=MergeStrategy.CONTEXT_UPDATE)
    flujo = Flujo(step, context_model=Notes)

    paused = flujo.run("x")
    result, again = flujo.resume(paused, "yes"), flujo.resume(paused, "no")

    assert isinstance(paused.final_pipeline_context, Notes)
    assert paused.final_pipeline_context.tags == []
    assert isinstance(result.final_pipeline_context, Notes)
    assert result.final_pipeline_context.tags == ["x", "yes", "x"]
    assert isinstance(again.final_pipeline_context, Notes)
    assert again.final_pipeline_context.tags == ["x", "no", "x"]


def test_a_router_is_not_asked_again() -> None:
    """Neither while a branch waits, nor when the router itself had waited."""
    router = StubAgent([Paid(["a", "b"])])
    flujo = Flujo(Step.dynamic_parallel_branch("r", router, {"a": ASK, "b": paid("b"), "c": failing("c")}))
    asking = Flujo(Step.dynamic_parallel_branch("r", StubAgent([PausedException("where?")]), {"a": paid("a")}))

    result = flujo.resume(flujo.run("x"), "yes")
    routed = asking.resume(asking.run("x"), ["a"])

    assert result.output == {"a": "yes", "b": "x"}
    assert (router.call_count, result.total_cost) == (1, 2 * CENT)
    assert result.step_history[0].metadata_["executed_branches"] == ["a", "b"]
    assert routed.output == {"a": "x"}
    assert_adds_up(result)


def test_a_condition_is_not_asked_again() -> None:
    """The branch that waits is the branch that goes on, whatever the condition would say now."""
    keys = ["a", "b"]

    def ask_for(data: str, context: Any) -> str:
        return f"{data}?"

    flujo = Flujo(
        Step.branch_on(
            "route",
            lambda data, context: keys.pop(0),
            {"a": ASK, "b": failing("b")},
            branch_input_mapper=ask_for,
        )
    )

    paused = flujo.run("x")
    result = flujo.resume(paused, "yes")

    assert paused.waiting[0].message == "x?"
    assert (result.output, keys) == ("yes", ["b"])
    assert result.step_history[0].metadata_["executed_branch_key"] == "a"


def test_a_person_may_write_and_criticise() -> None:
    """Drafts that were checked are not checked again; the original input stays what it was."""
    critic = Step.human_in_the_loop("critic", input_schema=RefinementCheck)
    writer = StubAgent([Paid("one"), Paid("two")])
    flujo = Flujo(Step.refine_until("refine", Step("writer", writer) >> ASK, critic))

    paused = flujo.run("topic")
    paused = flujo.resume(paused, "draft one")
    assert paused.waiting[0].message == "draft one"
    paused = flujo.resume(paused, {"is_complete": False, "feedback": "longer"})
    paused = flujo.resume(paused, "draft two")
    result = flujo.resume(paused, {"is_complete": True})

    assert result.output == "draft two"
    assert writer.inputs == [
        {"original_input": "topic", "feedback": None},
        {"original_input": "topic", "feedback": "longer"},
    ]
    assert (result.step_history[0].attempts, result.total_cost) == (2, 2 * CENT)
    assert_adds_up(result)


def test_a_generator_that_waited_gets_its_request_as_it_was() -> None:
    """A fallback that changes the request in place does not change it for a second resumption."""

    def draft(request: dict[str, Any]) -> list[str]:
        request["original_input"] += "!"
        return [request["original_input"]]

    generator = (ASK >> failing("after")).fallback(plain("draft", draft))
    critic = plain("critic", lambda draft: RefinementCheck(is_complete=True))
    flujo = Flujo(Step.refine_until("refine", generator, critic))

    paused = flujo.run("topic")

    assert [flujo.resume(paused, "yes").output for _ in range(2)] == [["topic!"], ["topic!"]]


def test_a_fallback_that_waits_does_not_repeat_the_primary() -> None:
    """That the primary failed is known when the run goes on, and paid for once."""
    primary = StubAgent([ValueError("a"), ValueError("b")])
    payloads: list[OnPausePayload] = []

    async def on_pause(payload: OnPausePayload) -> None:
        payloads.append(payload)

    flujo = Flujo(Step("primary", primary).fallback(paid("before") >> ASK), hooks=[on_pause])

    paused = flujo.run("x")
    result = flujo.resume(paused, "yes")
    (step,) = result.step_history

    assert paused.step_history[0].feedback == "x"
    assert [payload.message for payload in payloads] == ["x"]
    assert (result.output, primary.call_count, result.total_cost) == ("yes", 2, CENT)
    assert step.metadata_ == {"fallback_triggered": True, "original_error": "ValueError: b"}
    assert step.feedback is None
    assert_adds_up(result)


def test_a_primary_that_waited_may_still_fall_back() -> None:
    """A failure after the answer starts the fallback, with the step's own input."""
    primary = ASK >> failing("after")
    flujo = Flujo(primary.fallback(plain("rescue")) >> plain("end"))

    result = flujo.resume(flujo.run("x"), "yes")

    assert result.output == "x"
    assert result.step_history[0].metadata_["fallback_triggered"] is True
    assert result.total_cost == CENT


def test_a_sub_pipeline_names_only_its_own_questions() -> None:
    """The inner results of two waiting sub-pipelines have one question each, and the run has both."""
    sub = Pipeline.from_step(ASK)
    flujo = Flujo(Step.parallel("p", {"a": sub.as_step("a"), "b": sub.as_step("b")}))

    paused = flujo.run("x")
    inner: list[PipelineResult[Any]] = [branch.output for branch in paused.step_history[0].step_history]

    assert [result.status for result in inner] == ["paused", "paused"]
    assert [[asked.path for asked in result.waiting] for result in inner] == [
        [("0", "branch:a", "0", "pipeline", "0")],
        [("0", "branch:b", "0", "pipeline", "0")],
    ]
    assert len(paused.waiting) == 2


def test_what_a_step_does_to_its_input_does_not_reach_the_paused_run() -> None:
    """Outputs of finished branches are handed on as copies, so that a second resumption starts from the same."""

    def drain(output: dict[str, Any]) -> list[Any]:
        items: list[Any] = output["items"]
        items.append(output["ask"])
        return items

    parallel = Step.parallel("p", {"items": plain("items", lambda data: ["kept"]), "ask": ASK})
    flujo = Flujo(parallel >> plain("drain", drain))

    paused = flujo.run("x")
    outputs = [flujo.resume(paused, answer).output for answer in ("first", "second")]

    assert outputs == [["kept", "first"], ["kept", "second"]]
    assert paused.step_history[0].step_history[0].output == ["kept"]


def test_a_sub_pipeline_resumed_twice_starts_from_the_same_context() -> None:
    """What the steps after the answer write does not reach the paused run, whose context is behind a wall."""

    async def write(data: str, *, context: Notes) -> list[str]:
        context.tags.append(data)
        return list(context.tags)

    inner = Step("write", write) >> plain("first", lambda tags: tags[0]) >> ASK >> Step("write again", write)
    step = inner.as_step("sub", inherit_context=False) >> plain("unpack", lambda result: result.output)
    flujo = Flujo(step, context_model=Notes)

    paused = flujo.run("x")

    assert [flujo.resume(paused, answer).output for answer in ("one", "two")] == [["x", "one"], ["x", "two"]]


def test_limits_count_over_a_pause() -> None:
    """What was spent before the question counts after it, for the run and for a step with limits of its own."""
    limits = UsageLimits(total_cost_usd_limit=0.015)
    body = paid("one") >> ASK >> paid("two")
    limited = Step.loop_until("loop", body, lambda output, context: True, usage_limits=limits)

    for flujo in (Flujo(body, usage_limits=limits), Flujo(limited)):
        paused = flujo.run("x")
        with pytest.raises(UsageLimitExceededError) as error:
            flujo.resume(paused, "yes")
        assert error.value.result.total_cost == 2 * CENT
        assert_adds_up(error.value.result)


async def test_one_paused_run_may_be_resumed_many_times_at_once() -> None:
    """Fifty resumptions of one result at the same time do not see each other."""
    meet = asyncio.Barrier(50)

    async def after(data: str, *, context: Notes) -> str:
        context.tags.append(data)
        await meet.wait()
        return data

    flujo = Flujo(
        Step.map_over("m", ASK) >> plain("first", lambda output: output[0]) >> Step("end", after), context_model=Notes
    )
    paused = await flujo.run_async(["x"])

    results = await asyncio.gather(*(flujo.resume_async(paused, f"answer {i}") for i in range(50)))

    assert [result.output for result in results] == [f"answer {i}" for i in range(50)]
    assert [_answers(result) for result in results] == [[f"answer {i}"] for i in range(50)]


def test_a_failed_branch_beside_a_waiting_one_fails_after_the_answer() -> None:
    """The question is asked first; then the step fails for the branch that had failed."""
    flujo = Flujo(Step.parallel("p", {"ask": ASK, "bad": failing("bad")}))

    paused = flujo.run("x")
    result = flujo.resume(paused, "yes")

    assert paused.status == "paused"
    assert result.step_history[0].feedback == "branch bad: step 'bad': PaidError: no luck"
    assert result.total_cost == CENT
