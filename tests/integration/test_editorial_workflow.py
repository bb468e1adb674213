"""An editorial desk: one workflow with typed steps, a shared context, retries, a person, a budget and a stream."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from flujo import (
    AppResources,
    Flujo,
    HookPayload,
    MergeStrategy,
    Pipeline,
    PipelineContext,
    PipelineResult,
    PostStepPayload,
    RefinementCheck,
    Step,
    UsageLimitExceededError,
    UsageLimits,
    step,
    validator,
)
from flujo.testing import ManualClock
from tests.integration.paid import Paid, leaves, steps_named


class Desk(PipelineContext):
    """What the desk knows about an article."""

    topics: list[str] = Field(default_factory=list)
    facts: list[str] = Field(default_factory=list)


class Press(AppResources):
    """The machine that articles are printed on, and what it printed."""

    printed: list[str] = Field(default_factory=list)
    is_running: bool = False

    async def __aenter__(self) -> None:
        self.is_running = True

    async def __aexit__(self, *_: object) -> None:
        self.is_running = False


class Approval(BaseModel):
    decision: Literal["print", "spike"]
    note: str = ""


@validator
def names_a_source(output: str) -> tuple[bool, str | None]:
    """Accept facts with a source."""
    return "source" in output, "name a source"


@step(updates_context=True)
async def plan(request: str) -> dict[str, list[str]]:
    """Make topics of a request."""
    return {"topics": request.split(", ")}


async def _research(topic: str) -> Any:
    await asyncio.sleep(0)
    return Paid(f"notes on {topic}", Decimal("0.01"), 10)


async def _write(request: dict[str, Any]) -> Any:
    text = "; ".join(request["original_input"])
    return Paid(text if request["feedback"] is None else f"{text} ({request['feedback']})", Decimal("0.05"), 100)


async def _criticise(draft: str) -> Any:
    check = RefinementCheck(is_complete=draft.endswith(")"), feedback="with a title")
    return Paid(check, Decimal("0.002"), 5)


async def _check_facts(draft: str, context: Desk) -> Any:
    context.facts.append(f"checked {len(context.topics)} topics")
    return Paid("source: archive" if "Feedback" in draft else "trust me", Decimal("0.003"), 7)


def _decide(reviews: dict[str, Any], context: Desk) -> str:
    approval: Approval = reviews["legal"]
    return approval.decision


async def _print_page(reviews: Any, context: Desk, resources: Press) -> AsyncIterator[str]:
    assert resources.is_running
    for topic in context.topics:
        resources.printed.append(topic)
        yield f"[{topic}]"


async def _spike(reviews: Any) -> str:
    return "spiked"


def _reviews() -> Pipeline[Any, Any]:
    legal = Step.human_in_the_loop("legal", "May we print this?", input_schema=Approval)
    facts = Step("facts", _check_facts, validators=[names_a_source], max_retries=2)
    return Pipeline.from_step(
        Step.parallel("reviews", {"legal": legal, "facts": facts}, merge_strategy=MergeStrategy.CONTEXT_UPDATE)
    )


def _desk() -> Pipeline[Any, Any]:
    research = Step.cached(Step("research", _research))
    article = Step.refine_until("article", Step("write", _write), Step("criticise", _criticise), 3)
    decide = Step.branch_on("decide", _decide, {"print": Step("print", _print_page), "spike": Step("spike", _spike)})
    return plan >> Step.map_over("research all", research, iterable_input="topics") >> article >> _reviews() >> decide


def _runner(press: Press, limit: float = 1.0, hooks: Any = ()) -> Flujo[Any, Any]:
    return Flujo(
        _desk(),
        context_model=Desk,
        resources=press,
        usage_limits=UsageLimits(total_cost_usd_limit=limit),
        hooks=hooks,
        clock=ManualClock(),
    )


async def _pause(runner: Flujo[Any, Any]) -> PipelineResult[Any]:
    paused: PipelineResult[Any] = await runner.run_async("tea, rain")
    assert paused.status == "paused"
    return paused


def _context(result: PipelineResult[Any]) -> Desk:
    assert isinstance(result.final_pipeline_context, Desk)
    return result.final_pipeline_context


async def test_the_desk_waits_for_its_lawyer() -> None:
    """Everything that needs no person is done and paid for when the run pauses, and the press stands still."""
    press = Press()

    paused = await _pause(_runner(press))

    (asked,) = paused.waiting
    assert (asked.message, asked.input_schema) == ("May we print this?", Approval)
    assert paused.total_cost == 2 * Decimal("0.01") + 2 * Decimal("0.05") + 2 * Decimal("0.002") + 2 * Decimal("0.003")
    assert [found.attempts for found in steps_named(paused.step_history, "facts")] == [2]
    assert (press.is_running, press.printed) == (False, [])


@pytest.mark.parametrize(
    ("decision", "output", "printed"), [("print", "[tea][rain]", ["tea", "rain"]), ("spike", "spiked", [])]
)
async def test_the_answer_decides(decision: str, output: str, printed: list[str]) -> None:
    """The branch that the person chose runs; branches brought back what they found; nothing is paid for twice."""
    press = Press()
    runner = _runner(press)
    paused = await _pause(runner)

    result = await runner.resume_async(paused, {"decision": decision})

    assert (result.output, press.printed) == (output, printed)
    assert result.total_cost == paused.total_cost == sum(leaf.cost for leaf in leaves(result.step_history))
    assert _context(result).facts == ["checked 2 topics", "checked 2 topics"]
    assert _context(result).hitl_history[0].human_response == Approval.model_validate({"decision": decision})
    assert result.step_history[-1].metadata_["executed_branch_key"] == decision
    assert [step.name for step in result.step_history] == ["plan", "research all", "article", "reviews", "decide"]


async def test_the_budget_stops_the_desk_in_the_middle_of_an_article() -> None:
    """The draft that broke the budget is in the history, and neither critic nor reviewers were asked."""
    with pytest.raises(UsageLimitExceededError, match=r"limit of \$0.1: \$0.122 spent") as error:
        await _runner(Press(), limit=0.1).run_async("tea, rain")

    history = error.value.result.step_history
    assert [found.cost for found in steps_named(history, "write")] == [Decimal("0.05")] * 2
    assert len(steps_named(history, "criticise")) == 1
    assert steps_named(history, "reviews") == []


async def test_known_topics_are_not_researched_again() -> None:
    """A second article on one of the topics pays for the other one only."""
    runner = _runner(Press())

    first = await _pause(runner)
    second: PipelineResult[Any] = await runner.run_async("rain, fog")

    spent = [[found.cost for found in steps_named(run.step_history, "research")] for run in (first, second)]
    assert spent == [[Decimal("0.01")] * 2, [Decimal(0), Decimal("0.01")]]


async def test_hooks_follow_the_desk_across_the_pause() -> None:
    """Each step is heard of once when it completes, before the pause or after it."""
    heard: list[HookPayload] = []

    async def listen(payload: PostStepPayload) -> None:
        heard.append(payload)

    runner = _runner(Press(), hooks=[listen])

    await runner.resume_async(await _pause(runner), {"decision": "spike"})

    paths = [each.path for each in heard if isinstance(each, PostStepPayload)]
    assert len(paths) == len(set(paths))
    assert {("0",), ("1",), ("2",), ("3",), ("4",), ("3", "branch:legal", "0"), ("4", "branch:spike", "0")} <= set(
        paths
    )


async def test_the_desk_is_checked_before_anybody_works() -> None:
    """The workflow fits together, and fits its context; on a context without topics it is refused."""
    assert _desk().validate_graph(Desk).is_valid
    assert not _desk().validate_graph(PipelineContext).is_valid
