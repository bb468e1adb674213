"""A mistake that shows while a run is under way keeps what was done and paid for until then."""

import asyncio
import copy
import pickle
from decimal import Decimal
from typing import Any

import pytest

from flujo import (
    ContextInheritanceError,
    Flujo,
    FlujoError,
    InfiniteRedirectError,
    InMemoryBackend,
    MissingAgentError,
    PipelineContext,
    PipelineResult,
    PostRunPayload,
    SerializationError,
    StateError,
    Step,
    UsageLimits,
)
from flujo.state.ownership import Owner
from flujo.state.records import JournalWrite
from flujo.testing import StubAgent
from tests.application.mistakes import circle
from tests.integration.paid import Paid, leaves, paid_step


def _result(error: FlujoError) -> PipelineResult[Any]:
    assert error.result is not None
    return error.result


def _nested() -> list[Any]:
    first = paid_step("first", 2, 10)
    return [
        pytest.param(first >> circle("wrong"), id="sequence"),
        pytest.param(Step.loop_until("loop", first >> circle("wrong"), lambda _o, _c: True), id="loop"),
        pytest.param(Step.branch_on("branch", lambda _o, _c: 1, {1: first >> circle("wrong")}), id="branch"),
        pytest.param(Step.parallel("both", {"a": first, "b": circle("wrong")}), id="parallel"),
        pytest.param(first >> Step.map_over("map", circle("wrong")).use_input("items"), id="map of a key"),
        pytest.param((first >> circle("wrong")).as_step("sub"), id="sub-pipeline"),
        pytest.param(Flujo(first >> circle("wrong")).as_step("runner"), id="runner as a step"),
        pytest.param(Step.cached(first >> circle("wrong")), id="cached"),
        pytest.param(Step.refine_until("refine", first, circle("wrong")), id="refinement"),
        pytest.param(Step.dynamic_parallel_branch("route", _routes, {"x": first, "y": circle("wrong")}), id="router"),
        pytest.param(_failing().fallback(circle("wrong")), id="fallback"),
    ]


def _routes(data: Any) -> list[str]:
    return ["x", "y"]


def _failing() -> Step[Any, Any]:
    class PayingError(ValueError):
        cost_usd, token_counts = 2, 10

    return Step("first", StubAgent([PayingError("no")]), max_retries=0)


@pytest.mark.parametrize("pipeline", _nested())
async def test_a_mistake_keeps_what_was_paid_at_every_depth(pipeline: Any) -> None:
    """Its result names the steps that ran, down to the one that is wrong, and its totals are what was charged."""
    with pytest.raises(InfiniteRedirectError) as raised:
        await Flujo(pipeline).run_async({"items": [1]})
    result = _result(raised.value)

    assert (result.status, result.output) == ("failed", None)
    assert (result.total_cost, result.total_tokens) == (Decimal("2.5"), 13)
    ran = {leaf.name: leaf for leaf in leaves(result.step_history)}
    assert (ran["first"].cost, ran["wrong"].cost, ran["wrong"].attempts) == (Decimal(2), Decimal("0.5"), 1)
    assert (ran["wrong"].status, ran["wrong"].output) == ("failed", "round")
    assert ran["wrong"].feedback == f"InfiniteRedirectError: {raised.value}"


async def test_calls_in_flight_beside_a_mistake_run_to_their_end() -> None:
    """They are being paid for; what follows them does not start, and their results are in the history."""
    began, ended, never = asyncio.Event(), list[str](), StubAgent(["never"])

    async def slow(data: Any) -> Any:
        began.set()
        for _ in range(20):
            await asyncio.sleep(0)
        ended.append("slow")
        return Paid("slow", 1)

    branches = {"wrong": circle("wrong", began=began), "slow": Step("slow", slow) >> Step("never", never)}
    with pytest.raises(InfiniteRedirectError) as raised:
        await Flujo(Step.parallel("both", branches)).run_async("x")
    (both,) = _result(raised.value).step_history

    assert ended == ["slow"]
    assert never.call_count == 0
    assert both.cost == Decimal("1.5")


async def test_mistakes_in_two_branches_are_both_paid() -> None:
    """The first one is raised, and the other is in the history as well."""
    began = asyncio.Event()
    branches = {"one": circle("one", 1, began=began), "two": circle("two", 2, began=began)}

    async def begin(data: Any) -> None:
        began.set()

    with pytest.raises(InfiniteRedirectError, match="'one'") as raised:
        await Flujo(Step.parallel("both", {**branches, "begin": Step("begin", begin)})).run_async("x")

    assert _result(raised.value).total_cost == 3


async def test_a_second_run_pays_and_tells_anew() -> None:
    """The result of an error is that of its own run, not of an earlier one."""
    runner = Flujo(paid_step("first", 2) >> circle("wrong"))

    costs: list[Decimal] = []
    for _ in range(2):
        with pytest.raises(InfiniteRedirectError) as raised:
            await runner.run_async("x")
        costs.append(_result(raised.value).total_cost)

    assert costs == [Decimal("2.5")] * 2


async def test_a_mistake_found_before_the_first_step_has_no_result() -> None:
    """Nothing was run and nothing spent."""
    with pytest.raises(MissingAgentError) as raised:
        await Flujo(Step("first")).run_async("x")

    assert raised.value.result is None


def test_an_error_keeps_its_result_when_it_is_copied_or_sent() -> None:
    """What was paid for is known in the process that the error travels to."""
    with pytest.raises(InfiniteRedirectError) as raised:
        Flujo(paid_step("first", 2) >> circle("wrong")).run("x")

    for twin in (copy.copy(raised.value), pickle.loads(pickle.dumps(raised.value))):
        assert _result(twin).step_history == _result(raised.value).step_history


async def test_a_durable_run_keeps_what_a_mistake_has_paid() -> None:
    """The output that cannot be stored is in the error's result, and the charge is in the store."""

    class Image:
        pass

    async def paint(data: Any) -> Any:
        return Paid(Image(), 0.25, 7)

    backend = InMemoryBackend()
    runner = Flujo(paid_step("first", 2) >> Step("paint", paint), state_backend=backend)
    for times in (1, 2):
        with pytest.raises(SerializationError, match="Image") as raised:
            await runner.run_async("x", run_id="r")

        result = _result(raised.value)
        assert (result.status, result.total_cost) == ("failed", 2 + times * Decimal("0.25"))
        assert isinstance(result.step_history[-1].output, Image)
        assert (await backend.load("r")).record.total_cost == result.total_cost


async def test_a_durable_run_goes_on_after_a_mistake_without_paying_again() -> None:
    """What finished beside it is recalled, and what the wrong step paid still counts."""
    backend, first = InMemoryBackend(), StubAgent([Paid("x", 2)])
    with pytest.raises(InfiniteRedirectError):
        await Flujo(Step("first", first) >> circle("wrong"), state_backend=backend).run_async("x", run_id="r")

    right = Step("first", first) >> paid_step("wrong", 1)
    result = await Flujo(right, state_backend=backend).run_async("x", run_id="r")

    assert (result.status, result.total_cost, first.call_count) == ("completed", Decimal("3.5"), 1)


class _Full(InMemoryBackend):
    """A store that is full when a run ends."""

    async def write(self, run_id: str, owner: Owner, change: JournalWrite) -> None:
        """Refuse the end of a run."""
        if change.releases:
            raise StateError("the disk is full")
        await super().write(run_id, owner, change)


@pytest.mark.parametrize("last", ["completed", "failed", "stopped"])
async def test_a_run_whose_end_cannot_be_stored_keeps_its_result(last: str) -> None:
    """The error of the store has what the run came to, whichever way it ended."""
    step = circle("last", 1) if last == "failed" else paid_step("last", 1)
    limits = UsageLimits(total_cost_usd_limit=2) if last == "stopped" else None
    runner = Flujo(paid_step("first", 2) >> step, state_backend=_Full(), usage_limits=limits)

    with pytest.raises(StateError, match="full") as raised:
        await runner.run_async("x", run_id="r")

    result = _result(raised.value)
    assert (result.status, result.total_cost) == (last, Decimal(3))


async def test_hooks_are_told_what_the_error_tells() -> None:
    """The result that the last hook gets is that of the error."""
    heard: list[PipelineResult[Any]] = []

    async def listen(payload: PostRunPayload) -> None:
        heard.append(payload.pipeline_result)

    with pytest.raises(InfiniteRedirectError) as raised:
        await Flujo(paid_step("first", 2) >> circle("wrong"), hooks=[listen]).run_async("x")

    assert heard == [raised.value.result]


class _Needy(PipelineContext):
    topic: str
    audience: str


class _Topical(PipelineContext):
    topic: str = "rivers"


@pytest.mark.parametrize(
    ("inherits", "model", "given", "fields"),
    [
        (True, PipelineContext, {}, ("topic", "audience")),
        (True, _Topical, {}, ("audience",)),
        (True, _Topical, {"audience": "children"}, ()),
        (False, _Topical, {"audience": "children"}, ("topic",)),
        (False, PipelineContext, {"topic": "x", "audience": "y"}, ()),
    ],
)
async def test_a_context_that_nobody_can_make_is_found_before_the_first_step(
    inherits: bool,  # noqa: FBT001 - a parameter of the test
    model: type[PipelineContext],
    given: dict[str, Any],
    fields: tuple[str, ...],
) -> None:
    """The fields that neither the outer context nor the runner's data gives are named, and nothing is called."""
    agent = StubAgent(["first"])
    inner = Flujo(Step("last", StubAgent(["last"])), context_model=_Needy, initial_context_data=given)
    runner: Flujo[Any, Any] = Flujo(
        Step("first", agent) >> inner.as_step("inner", inherit_context=inherits), context_model=model
    )

    if not fields:
        assert (await runner.run_async("x")).success
        return
    with pytest.raises(ContextInheritanceError, match=f"step 'inner'.* {', '.join(fields)};") as raised:
        await runner.run_async("x")
    assert (raised.value.fields, raised.value.result, agent.call_count) == (fields, None, 0)


async def test_a_plain_wall_in_a_run_with_required_fields_is_found_before_the_first_step() -> None:
    """Nothing could flow in, so no run can get past it."""
    agent = StubAgent(["first"])
    wall = Step("last", StubAgent(["last"])) >> Step("end", StubAgent(["end"]))
    runner: Flujo[Any, Any] = Flujo(
        Step("first", agent) >> wall.as_step("wall", inherit_context=False),
        context_model=_Needy,
        initial_context_data={"topic": "x", "audience": "y"},
    )

    with pytest.raises(ContextInheritanceError, match=r"step 'wall'.*inherit_context is False"):
        await runner.run_async("x")
    assert agent.call_count == 0
