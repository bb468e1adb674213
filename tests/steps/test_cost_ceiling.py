"""What a run can cost at the most, known before it starts."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import pytest
from pydantic import BaseModel, ConfigDict
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from flujo import (
    BaseStep,
    Ceiling,
    DummyPlugin,
    ExecutionFrame,
    ExecutorCore,
    Flujo,
    Pipeline,
    PluginOutcome,
    RefinementCheck,
    Step,
    StepResult,
    UsageLimits,
)
from flujo.domain.metering import Meter
from flujo.domain.money import exact_usd

AnyStep = BaseStep[Any, Any]


@dataclass
class Priced:
    """An answer that says what it cost."""

    output: str
    cost_usd: float


class Draft(BaseModel):
    text: str


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class Tokens(NamedTuple):
    output: str
    usage: int


class Row(TypedDict):
    cost_usd: float


class Evasive:
    def __getattr__(self, name: str) -> object:
        return name


async def _report(data: Any) -> Any:
    return data


def _free(text: str) -> str:
    return text


async def _metered(text: str, *, meter: Meter) -> Any:
    del meter
    return text


def _criticise(draft: Any) -> RefinementCheck:
    del draft
    return RefinementCheck(is_complete=True)


def _cents(number: int, name: str = "paid", **options: Any) -> AnyStep:
    """Return a step of which one attempt costs at most so many cents; there is one unless options say otherwise."""
    options.setdefault("max_retries", 0)
    return Step(name, _report, max_cost_usd=Decimal(number) / 100, **options)


def _metered_step(name: str = "metered", **options: Any) -> AnyStep:
    return Step(name, _metered, **options)


def _limits(cents: int, mode: Literal["hard", "after"] = "hard") -> UsageLimits:
    return UsageLimits(total_cost_usd_limit=Decimal(cents) / 100, mode=mode)


def _branch(branches: dict[str, AnyStep], default: AnyStep | None = None) -> AnyStep:
    return Step.branch_on("branch", lambda data, context: "a", branches, default_branch_pipeline=default)


def _loop(body: AnyStep, max_loops: int, limits: UsageLimits | None = None) -> AnyStep:
    return Step.loop_until("loop", body, lambda data, context: True, max_loops, usage_limits=limits)


BOUNDED: dict[str, tuple[AnyStep, int]] = {
    "one attempt": (_cents(3), 3),
    "retries multiply": (_cents(3, max_retries=2), 9),
    "a sequence adds": (_cents(1) >> _cents(2) >> _cents(4), 7),
    "a pipeline within another adds": (Pipeline(steps=[_cents(1), Pipeline(steps=[_cents(2), _cents(4)])]), 7),
    "the dearest branch counts": (_branch({"a": _cents(1), "b": _cents(2) >> _cents(2)}), 4),
    "the default is a branch": (_branch({"a": _cents(1)}, _cents(5)), 5),
    "a parallel step adds": (Step.parallel("all", {"a": _cents(1), "b": _cents(2)}), 3),
    "a router is asked too": (
        Step.dynamic_parallel_branch("route", _free, {"a": _cents(1), "b": _cents(2)}),
        3,
    ),
    "a loop multiplies": (_loop(_cents(1) >> _cents(2), 5), 15),
    "a refinement multiplies both": (
        Step.refine_until("refine", _cents(2), Step("c", _criticise, max_cost_usd=0.01, max_retries=0), 4),
        12,
    ),
    "a map multiplies by its bound": (Step.map_over("each", _cents(2), max_items=50), 100),
    "any number of free items is free": (Step.map_over("each", Step("free", _free)), 0),
    "a fallback adds": (_cents(2, max_retries=1, fallback_step=_cents(5, fallback_step=_cents(1))), 10),
    "a cached step may have to run": (Step.cached(_cents(2)), 2),
    "a sub-pipeline is what it holds": (Pipeline.from_step(_cents(2)).as_step("sub"), 2),
    "a person costs nothing": (_cents(2) >> Step.human_in_the_loop("ask") >> Step.gather("pick", ["a"]), 2),
    "what is nested multiplies": (_loop(_loop(_cents(1, max_retries=1), 3), 2), 12),
    "a hard limit bounds a metered agent": (_metered_step(usage_limits=_limits(7), max_retries=5), 7),
    "a limit within a loop holds anew each time": (_loop(_metered_step(usage_limits=_limits(7)), 3), 21),
    "a limit around a loop holds for all of it": (_loop(_metered_step(), 3, _limits(7)), 7),
    "a limit bounds any number of items": (
        Step.map_over("each", _metered_step(), usage_limits=_limits(7)),
        7,
    ),
    "a limit includes the fallback": (_cents(9, usage_limits=_limits(7), fallback_step=_metered_step()), 7),
    "a limit above the sum changes nothing": (_cents(3, usage_limits=_limits(7)), 3),
    "a runner made a step keeps its limits": (
        Flujo(_metered_step(), usage_limits=_limits(7)).as_step("inner") >> _cents(1),
        8,
    ),
    "the cost of each attempt is the user's word": (_cents(2, plugins=[(DummyPlugin([]), 0)], max_retries=1), 4),
}


@pytest.mark.parametrize(("step", "cents"), BOUNDED.values(), ids=BOUNDED)
def test_a_ceiling_is_made_of_those_of_the_steps_within(step: AnyStep, cents: int) -> None:
    """Each kind of step adds, multiplies or takes the greatest, to the last digit."""
    ceiling = step.cost_ceiling()

    assert (ceiling.usd, ceiling.unbounded) == (Decimal(cents) / 100, ())


def test_a_ceiling_is_exact() -> None:
    """A thousand times three attempts of a tenth of a millionth are no rounded number."""
    paid = Step("paid", _report, max_cost_usd=0.0000001, max_retries=2)

    assert Step.map_over("each", paid, max_items=1000).cost_ceiling().usd == Decimal("0.0003")


METERED = "its agent may ask as often and as much as it likes; give the step max_cost_usd, or usage_limits="
REPORTS = "its agent may report any cost; give the step max_cost_usd, or declare that the agent answers with"
REDIRECTS = "its plugins may redirect the next attempt to any agent; give it max_cost_usd, or max_retries=0"

UNBOUNDED: dict[str, tuple[AnyStep, list[str]]] = {
    "an agent that may report any cost": (_cents(1) >> Step("look", _report), [f"step 'look' at 1: {REPORTS}"]),
    "a metered agent": (_branch({"a": _metered_step()}), [f"step 'metered' at branch:a/0: {METERED}"]),
    "an agent of a model": (Step("ask", Agent(TestModel())), [f"step 'ask': {METERED}"]),
    "a map": (
        Step.map_over("each", _cents(1)),
        ["step 'each': nobody knows how many items it gets; give it max_items"],
    ),
    "a step without an agent": (Step("todo"), ["step 'todo': it has no agent; give it one with Step(name, agent)"]),
    "a plugin that may redirect": (
        Step("judged", _free, plugins=[(DummyPlugin([PluginOutcome(success=True)]), 0)], usage_limits=_limits(1)),
        [f"step 'judged': {REDIRECTS}"],
    ),
    "a limit that holds only afterwards": (
        _metered_step(usage_limits=_limits(1, "after")),
        [f"step 'metered': {METERED}"],
    ),
    "a limit in tokens": (
        _metered_step(usage_limits=UsageLimits(total_tokens_limit=5)),
        [f"step 'metered': {METERED}"],
    ),
    "a limit around an agent that does not reserve": (
        Pipeline(
            steps=[_metered_step(), Step("look", _report), Step.map_over("each", _metered_step())],
            usage_limits=_limits(5),
        ),
        [f"step 'look' at 1: {REPORTS}"],
    ),
    "a fallback": (_cents(1, fallback_step=Step("look", _report)), [f"step 'look' at fallback: {REPORTS}"]),
    "several steps": (
        Step.map_over("each", _metered_step()) >> Step("look", _report),
        [
            "step 'each' at 0: nobody knows how many items it gets; give it max_items",
            f"step 'metered' at 0/item/0: {METERED}",
            f"step 'look' at 1: {REPORTS}",
        ],
    ),
}


@pytest.mark.parametrize(("step", "reasons"), UNBOUNDED.values(), ids=UNBOUNDED)
def test_what_makes_a_workflow_unbounded_is_said(step: AnyStep, reasons: list[str]) -> None:
    """There is no amount, but the steps that are to blame, where they are, and what to do."""
    ceiling = step.cost_ceiling()

    assert ceiling.usd is None
    assert len(ceiling.unbounded) == len(reasons)
    for said, reason in zip(ceiling.unbounded, reasons, strict=True):
        assert said.startswith(reason)
    assert str(ceiling) == f"no ceiling: {'; '.join(ceiling.unbounded)}"


def test_every_step_has_its_own_ceiling() -> None:
    """Outer steps come first; a pipeline that is no more than its only step is left out."""
    workflow = _cents(2, "first", max_retries=1) >> _branch({"a": _loop(_cents(1), 3), "b": Step("look", _report)})

    ceiling = workflow.cost_ceiling()

    assert [("/".join(each.path), each.step_name, each.usd, each.basis) for each in ceiling.by_step] == [
        ("", "pipeline", None, "2 steps"),
        ("0", "first", Decimal("0.04"), "2 attempts of $0.02"),
        ("1", "branch", None, "the dearest of 2 branches"),
        ("1/branch:a/0", "loop", Decimal("0.03"), "max_loops=3"),
        ("1/branch:a/0/iteration/0", "paid", Decimal("0.01"), "1 attempt of $0.01"),
        ("1/branch:b/0", "look", None, "unknown"),
    ]
    assert [each.unbounded is not None for each in ceiling.by_step] == [False, False, False, False, False, True]
    assert "by_step" not in repr(ceiling)


def test_limits_of_the_run_bound_it() -> None:
    """They are given with the question, or are those of the runner."""
    workflow = _metered_step()

    assert workflow.cost_ceiling(usage_limits=_limits(7)).usd == Decimal("0.07")
    assert Flujo(workflow, usage_limits=_limits(8)).cost_ceiling().usd == Decimal("0.08")
    assert Flujo(workflow).cost_ceiling().usd is None
    (only,) = workflow.cost_ceiling(usage_limits=_limits(7)).by_step
    assert only.basis == "limited to $0.07"


async def _chunks(text: str) -> AsyncIterator[str]:
    yield text


async def _priced_chunks(text: str) -> AsyncIterator[Priced]:
    yield Priced(text, 1)


class Both:
    """An agent whose run is metered and whose stream is not."""

    async def run(self, text: str, *, meter: Meter) -> str:
        del meter
        return text

    async def stream(self, text: str) -> AsyncIterator[Any]:
        yield text


def _answers(kind: Any) -> Callable[[str], Any]:
    def answer(text: str) -> Any:
        return text

    answer.__annotations__["return"] = kind
    return answer


@pytest.mark.parametrize(
    "kind",
    [
        *(None, str, int, bytes, list[Any], dict[str, Any], tuple[int, ...], Decimal, Draft, RefinementCheck, Row),
        *(str | None, Literal["a", "b"], Annotated[str, "text"], Awaitable[Draft], AsyncIterator[str], Sequence[str]),
    ],
    ids=str,
)
def test_a_function_whose_answer_cannot_report_a_cost_costs_nothing(kind: Any) -> None:
    """Its declared type is its word."""
    assert Step("step", _answers(kind)).cost_ceiling().usd == 0


@pytest.mark.parametrize(
    "kind",
    [
        *(Any, object, BaseModel, Priced, Loose, Tokens, Evasive, str | Priced, Annotated[Priced, "dear"]),
        *(Awaitable[Priced], Awaitable, AsyncIterator[Priced], "NobodyKnows"),
    ],
    ids=str,
)
def test_a_function_whose_answer_may_report_a_cost_is_unbounded(kind: Any) -> None:
    """So it is if nobody knows what it answers."""
    assert Step("step", _answers(kind)).cost_ceiling().usd is None


def test_a_stream_is_judged_by_its_chunks() -> None:
    """Each chunk may report a cost."""
    assert Step("text", _chunks).cost_ceiling().usd == 0
    assert Step("priced", _priced_chunks).cost_ceiling().usd is None


def test_an_agent_is_metered_only_if_all_its_ways_are() -> None:
    """A limit does not bound what an unmetered stream reports."""
    assert Step("both", Both(), usage_limits=_limits(1)).cost_ceiling().usd is None


class Twice(BaseStep[str, str]):
    """A kind of step of the user's own, which does not say what it costs."""

    def __init__(self, name: str, inner: BaseStep[str, str]) -> None:
        super().__init__(name, usage_limits=_limits(50))
        self.inner = inner

    def children(self) -> list[tuple[str, AnyStep]]:
        """Return the step."""
        return [("inner", self.inner)]


class PricedTwice(Twice):
    """One that does."""

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return that of both times."""
        return Ceiling.sum_of(inner, "twice", times=2)


def test_a_kind_of_step_of_ones_own_says_what_it_costs() -> None:
    """Until it does it is unbounded, even under a limit, because nobody knows what its handler does."""
    unknown = Twice("unknown", _cents(3)).cost_ceiling()

    assert unknown.unbounded == (
        "step 'unknown': what a Twice can cost is not known; let its class say it in own_ceiling",
    )
    assert PricedTwice("known", _cents(3)).cost_ceiling().usd == Decimal("0.06")


def test_a_map_refuses_more_items_than_its_bound() -> None:
    """It fails before the first item starts, and its fallback gets all items."""
    ran = list[str]()

    def note(item: str) -> str:
        ran.append(item)
        return item

    bounded = Step.map_over("each", Step("note", note), max_items=2)
    refused = Flujo(bounded).run(["a", "b", "c"])
    assert not refused.success
    assert refused.step_history[0].feedback is not None
    assert "maps over at most max_items=2 items, but its input has more" in refused.step_history[0].feedback
    assert ran == []

    assert Flujo(bounded).run(["a", "b"]).output == ["a", "b"]
    rescued = Step.map_over("each", Step("note", note), max_items=2).fallback(Step("all", list))
    assert Flujo(rescued).run(iter("abcd")).output == ["a", "b", "c", "d"]


def test_nesting_has_no_end() -> None:
    """A workflow that is nested too deep to run still has a ceiling."""
    step = _cents(1)
    for _ in range(2000):
        step = _loop(step, 1)

    assert step.cost_ceiling().usd == exact_usd(0.01)


@ExecutorCore.handles(Twice)
async def _handle_twice_step(core: ExecutorCore, step: Twice, frame: ExecutionFrame[Any]) -> StepResult:
    del core
    return StepResult(step.name, frame.data)
