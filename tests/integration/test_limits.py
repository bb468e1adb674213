"""Limits hold for every run, at every level, and keep what was paid for."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from flujo import (
    BaseStep,
    Flujo,
    HookPayload,
    OnStepFailurePayload,
    Pipeline,
    PipelineAbortSignal,
    PipelineResult,
    PostRunPayload,
    RefinementCheck,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from tests.integration.paid import Paid, leaves, paid_step, steps_named, waiting_step


def _dollars(limit: float) -> UsageLimits:
    return UsageLimits(total_cost_usd_limit=limit)


async def _breach(runner: Flujo[Any, Any], data: Any = "x") -> UsageLimitExceededError:
    """Run, and return the breach that ends the run."""
    with pytest.raises(UsageLimitExceededError) as error:
        await runner.run_async(data)
    result = error.value.result
    assert (result.status, result.output, result.success) == ("stopped", None, False)
    assert result.total_cost == sum(step.cost for step in leaves(result.step_history))
    return error.value


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (_dollars(0.05), "the run passed its limit of $0.05: $0.06 spent"),
        (UsageLimits(total_tokens_limit=25), "the run passed its limit of 25 tokens: 30 spent"),
    ],
)
async def test_the_message_gives_limit_and_spent(limits: UsageLimits, message: str) -> None:
    """A breach says which limit was passed, what it was, and what was spent."""
    pipeline = Pipeline(steps=[paid_step(f"s{number}", 0.02, 10) for number in range(5)])

    assert str(await _breach(Flujo(pipeline, usage_limits=limits))) == message


@pytest.mark.parametrize("limits", [_dollars(0.06), UsageLimits(total_tokens_limit=30)])
async def test_meeting_a_limit_completes(limits: UsageLimits) -> None:
    """A run that spends exactly its limit completes."""
    pipeline = Pipeline(steps=[paid_step(f"s{number}", 0.02, 10) for number in range(3)])

    result = await Flujo(pipeline, usage_limits=limits).run_async("x")

    assert (result.status, result.total_cost, result.total_tokens) == ("completed", Decimal("0.06"), 30)


async def test_ten_thousand_charges_meet_a_limit_of_a_dollar() -> None:
    """Ten thousand calls at $0.0001 complete under a limit of $1, and one more fraction of a cent does not."""
    calls = Step.map_over("calls", paid_step("call", 0.0001), max_concurrency=None)

    result = await Flujo(calls, usage_limits=_dollars(1)).run_async(range(10_000))
    error = await _breach(Flujo(paid_step("whole", 1) >> paid_step("last", 0.00001), usage_limits=_dollars(1)))

    assert (result.status, result.total_cost, result.total_cost_usd) == ("completed", Decimal(1), 1.0)
    assert str(error) == "the run passed its limit of $1: $1.00001 spent"


async def test_the_third_iteration_of_a_loop_in_a_branch_is_in_the_history() -> None:
    """A breach inside a loop in a branch keeps the iterations paid for, with the one that broke the limit."""
    loop = Step.loop_until("loop", paid_step("draft", 0.02), lambda output, context: False, max_loops=9)
    parallel = Step.parallel("both", {"loop": loop, "free": paid_step("free")})

    error = await _breach(Flujo(paid_step("first") >> parallel, usage_limits=_dollars(0.05)))

    history = error.result.step_history
    drafts = steps_named(history, "draft")
    assert [step.name for step in history] == ["first", "both"]
    assert [draft.cost for draft in drafts] == [Decimal("0.02")] * 3
    assert [draft.status for draft in drafts] == ["completed"] * 3
    assert history[-1].cost == error.result.total_cost == Decimal("0.06")


def _loop(body: BaseStep[Any, Any]) -> BaseStep[Any, Any]:
    return Step.loop_until("composite", body, lambda output, context: False, max_loops=9)


def _refine(body: BaseStep[Any, Any]) -> BaseStep[Any, Any]:
    def reject(draft: Any) -> RefinementCheck:
        return RefinementCheck(is_complete=False)

    return Step.refine_until("composite", body, Step("critic", reject), max_refinements=9)


def _parallel(body: BaseStep[Any, Any]) -> BaseStep[Any, Any]:
    return Step.parallel("composite", {"a": body >> body, "b": body >> body})


def _map(body: BaseStep[Any, Any]) -> BaseStep[Any, Any]:
    def items(data: Any) -> list[int]:
        return list(range(9))

    return Step("items", items) >> Step.map_over("composite", body, max_concurrency=2)


def _router(body: BaseStep[Any, Any]) -> BaseStep[Any, Any]:
    def choose(data: Any) -> list[str]:
        return ["a", "b"]

    return Step.dynamic_parallel_branch("composite", choose, {"a": body >> body, "b": body >> body})


def _branch(body: BaseStep[Any, Any]) -> BaseStep[Any, Any]:
    return Step.branch_on("composite", lambda data, context: "a", {"a": Pipeline(steps=[body] * 9)})


def _nested(body: BaseStep[Any, Any]) -> BaseStep[Any, Any]:
    return Pipeline(steps=[body] * 9).as_step("inner", inherit_context=False)


def _fallback(body: BaseStep[Any, Any]) -> BaseStep[Any, Any]:
    def fail(data: Any) -> Any:
        raise ValueError("broken")

    return Step[Any, Any]("composite", fail, max_retries=0).fallback(Pipeline(steps=[body] * 9))


COMPOSITES = [_loop, _refine, _parallel, _map, _router, _branch, _nested, _fallback]


@pytest.mark.parametrize("composite", COMPOSITES)
async def test_nothing_starts_after_a_breach(composite: Callable[[BaseStep[Any, Any]], BaseStep[Any, Any]]) -> None:
    """No further step, iteration, branch or item starts once a limit is passed, in any kind of step."""
    calls: list[Any] = []

    async def spend(data: Any) -> Any:
        calls.append(data)
        return Paid(data, 0.02)

    pipeline = composite(Step("spend", spend)) >> paid_step("after", 0.02)

    error = await _breach(Flujo(pipeline, usage_limits=_dollars(0.03)))

    spent = steps_named(error.result.step_history, "spend")
    assert len(calls) == 2
    assert [step.status for step in spent if step.attempts] == ["completed", "completed"]
    assert steps_named(error.result.step_history, "after") == []


@pytest.mark.parametrize("composite", COMPOSITES)
async def test_a_limit_on_a_step_inside_is_raised_by_the_run(
    composite: Callable[[BaseStep[Any, Any]], BaseStep[Any, Any]],
) -> None:
    """The limit of a step at any depth ends the run, with the step in the history."""
    inside = composite(paid_step("spend", 0.02, usage_limits=_dollars(0.01)))

    error = await _breach(Flujo(paid_step("before", 1) >> inside))

    assert str(error) == "step 'spend' passed its limit of $0.01: $0.02 spent"
    assert steps_named(error.result.step_history, "spend")[0].cost == Decimal("0.02")


async def test_a_limit_on_a_branch_counts_that_branch_only() -> None:
    """What the other branches and the steps before spend does not count for a branch's limit."""

    def branches(limit: float) -> BaseStep[Any, Any]:
        mine = Pipeline(steps=[paid_step("m1", 0.02), paid_step("m2", 0.02)], usage_limits=_dollars(limit))
        other = paid_step("other", 5)
        return paid_step("before", 5) >> Step.parallel("both", {"mine": mine, "other": other})

    result = await Flujo(branches(0.04)).run_async("x")
    error = await _breach(Flujo(branches(0.03)))

    assert result.total_cost == Decimal("10.04")
    assert str(error) == "step 'pipeline' passed its limit of $0.03: $0.04 spent"


async def test_a_limit_counts_each_execution_of_its_step_anew() -> None:
    """A step that runs three times in a loop may spend its limit three times."""
    body = paid_step("draft", 0.02, usage_limits=_dollars(0.02))
    loop = Step.loop_until("loop", body, lambda output, context: False, max_loops=3)

    result = await Flujo(loop).run_async("x")

    assert (result.status, result.total_cost) == ("failed", Decimal("0.06"))


async def test_retries_count_for_the_limit() -> None:
    """An attempt that failed was paid for, and counts."""

    class CostlyError(Exception):
        cost_usd = 0.02

    async def fail(data: Any) -> Any:
        raise CostlyError

    error = await _breach(Flujo(Step("try", fail, max_retries=9), usage_limits=_dollars(0.03)))

    (tried,) = error.result.step_history
    assert (tried.attempts, tried.cost) == (2, Decimal("0.04"))


async def test_the_outermost_limit_that_is_passed_is_named() -> None:
    """When one charge passes several limits, the error names the outermost, whose money it is."""
    step = paid_step("spend", 0.05, usage_limits=_dollars(0.01))

    error = await _breach(Flujo(step, usage_limits=_dollars(0.02)))

    assert str(error) == "the run passed its limit of $0.02: $0.05 spent"


@pytest.mark.parametrize("level", ["the run", "a branch", "the parallel step"])
async def test_a_breach_cuts_short_the_calls_in_flight(level: str) -> None:
    """A call that never answers is ended by a breach in another branch, and what had finished is kept."""
    started = asyncio.Event()

    async def spend(data: Any) -> Any:
        await started.wait()
        return Paid(data, 0.05)

    spender = Pipeline(
        steps=[paid_step("done", 0.01), Step("spend", spend)],
        usage_limits=_dollars(0.02) if level == "a branch" else None,
    )
    waiter = paid_step("kept", 0.01) >> waiting_step("wait", started) >> paid_step("never")
    limits = _dollars(0.02) if level == "the parallel step" else None
    both = Step.parallel("both", {"spender": spender, "waiter": waiter}, usage_limits=limits)

    error = await _breach(Flujo(both, usage_limits=_dollars(0.02) if level == "the run" else None))

    history = error.result.step_history
    assert [steps_named(history, name)[0].status for name in ("done", "spend", "kept")] == ["completed"] * 3
    (cut,) = steps_named(history, "wait")
    assert (cut.status, cut.attempts) == ("stopped", 1)
    assert cut.feedback is not None
    assert cut.feedback.startswith("cut short: ")
    assert steps_named(history, "never") == []
    assert error.result.total_cost == Decimal("0.07")
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_breach_after_an_abort_is_raised() -> None:
    """A run that is being aborted while a call in flight passes a limit ends with the breach."""
    aborting = asyncio.Event()

    async def spend(data: Any) -> Any:
        await aborting.wait()
        return Paid(data, 5)

    async def abort(data: Any) -> Any:
        aborting.set()
        raise PipelineAbortSignal("enough")

    spender = Step("spend", spend, usage_limits=_dollars(1))

    error = await _breach(Flujo(Step.parallel("both", {"spender": spender, "aborter": Step("abort", abort)})))

    assert str(error) == "step 'spend' passed its limit of $1: $5 spent"
    assert {step.name: step.status for step in leaves(error.result.step_history)} == {
        "spend": "completed",
        "abort": "aborted",
    }


async def test_a_breach_leaves_the_calling_task_uncancelled() -> None:
    """The task that awaits a run is not cancelled by a breach within it."""
    task = asyncio.current_task()
    assert task is not None

    await _breach(Flujo(paid_step("spend", 1), usage_limits=_dollars(0.5)))

    assert task.cancelling() == 0


async def test_hooks_are_told_of_a_breach() -> None:
    """Hooks hear of the steps that were cut short, and of the end of the run with the whole history."""
    heard: list[HookPayload] = []
    started = asyncio.Event()

    async def spend(data: Any) -> Any:
        await started.wait()
        return Paid(data, 0.05)

    async def listen(payload: OnStepFailurePayload | PostRunPayload) -> None:
        heard.append(payload)

    both = Step.parallel("both", {"spender": Step("spend", spend), "waiter": waiting_step("wait", started)})

    error = await _breach(Flujo(both, usage_limits=_dollars(0.02), hooks=[listen]))

    failed = [each.step_result.name for each in heard if isinstance(each, OnStepFailurePayload)]
    (end,) = [each for each in heard if isinstance(each, PostRunPayload)]
    assert failed == ["wait", "both"]
    assert end.pipeline_result is error.result


async def test_a_runner_as_a_step_brings_its_limits() -> None:
    """The limits of a runner hold for it as a step of another runner's pipeline, each time it runs."""
    inner = Flujo(paid_step("spend", 0.02), usage_limits=_dollars(0.02)).as_step("inner")
    outer = inner >> paid_step("dear", 5)

    result = await Flujo(outer).run_async("x")
    error = await _breach(
        Flujo(Flujo(paid_step("spend", 0.02) >> paid_step("more", 0.02), usage_limits=_dollars(0.03)).as_step("inner"))
    )

    assert result.success
    assert str(error) == "step 'inner' passed its limit of $0.03: $0.04 spent"
    assert [step.name for step in leaves(error.result.step_history)] == ["spend", "more"]


def test_run_raises_what_run_async_does() -> None:
    """A breach comes out of `run` with its result."""
    with pytest.raises(UsageLimitExceededError) as error:
        Flujo(paid_step("spend", 1), usage_limits=_dollars(0.5)).run("x")

    assert isinstance(error.value.result, PipelineResult)


async def test_a_stream_gives_its_chunks_and_then_raises() -> None:
    """A breach of a streaming step comes out of the iteration after the chunks."""

    async def stream(data: Any) -> Any:
        yield Paid("a", 0.4)
        yield Paid("b", 0.4)

    chunks: list[Any] = []

    async def consume() -> None:
        async for chunk in Flujo(Step("stream", stream), usage_limits=_dollars(0.5)).stream_async("x"):
            chunks.append(chunk)  # noqa: PERF401  # an error must not lose the chunks before it

    with pytest.raises(UsageLimitExceededError) as error:
        await consume()
    assert chunks == ["a", "b"]
    assert error.value.result.total_cost == Decimal("0.8")
