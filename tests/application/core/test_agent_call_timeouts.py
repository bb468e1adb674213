"""An attempt takes no longer than its timeout, and cancellations reach whom they are meant for."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from flujo import Flujo, OnStepFailurePayload, Step, UsageLimitExceededError, UsageLimits, validator
from flujo.application.core.agent_call import within_deadline
from flujo.application.core.frame import RunControl
from flujo.domain.results import PipelineResult
from flujo.testing import ManualClock
from tests.application.core.agent_answers import Paid, PaidError

_SOON_S = 0.001
_LIMITS = [None, UsageLimits(total_cost_usd_limit=1000)]


async def _never(data: Any) -> Any:
    await asyncio.get_running_loop().create_future()


def _never_as_a_future(data: Any) -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


async def _never_streams(data: Any) -> AsyncIterator[str]:
    yield "a"
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("limits", _LIMITS)
@pytest.mark.parametrize("agent", [_never, _never_as_a_future, _never_streams])
async def test_every_attempt_has_the_whole_timeout(agent: Any, limits: UsageLimits | None) -> None:
    """An agent that does not answer is asked again, and the feedback of the failed step says how long it took."""
    result = await Flujo(Step("ask", agent, timeout_s=_SOON_S, max_retries=2), usage_limits=limits).run_async("go")

    step = result.step_history[0]
    assert (step.success, step.attempts, step.feedback) == (False, 3, "timed out after 0.001 s")


async def test_a_timeout_error_of_the_agent_is_its_own() -> None:
    """A `TimeoutError` that the agent raises in time is an error like any other."""

    async def ask(data: str) -> str:
        raise TimeoutError("the server was slow")

    result = await Flujo(Step("ask", ask, timeout_s=60, max_retries=0)).run_async("go")

    assert result.step_history[0].feedback == "TimeoutError: the server was slow"


async def test_an_agent_may_answer_although_its_time_is_up() -> None:
    """An answer that a cancelled agent still gives is paid for, so it is kept."""

    async def ask(data: str) -> Any:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return Paid("late", 0.1)

    result = await Flujo(Step("ask", ask, timeout_s=_SOON_S)).run_async("go")

    assert (result.output, result.total_cost) == ("late", Decimal("0.1"))


@pytest.mark.parametrize("limits", _LIMITS)
async def test_an_error_while_being_cancelled_is_the_failure(limits: UsageLimits | None) -> None:
    """What the agent raises when its time is up is its failure, with the cost that it reports."""

    async def ask(data: str) -> str:
        try:
            return str(await _never(data))
        except asyncio.CancelledError:
            raise PaidError("cut") from None

    result = await Flujo(Step("ask", ask, timeout_s=_SOON_S, max_retries=1), usage_limits=limits).run_async("go")

    step = result.step_history[0]
    assert (step.feedback, step.cost, step.attempts) == ("PaidError: cut", Decimal("0.2"), 2)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]  # a test runs in a task


async def test_a_timeout_of_the_caller_passes_through() -> None:
    """A timeout around the run is the caller's: it is neither a failed step nor a retry."""
    calls: list[str] = []

    async def ask(data: str) -> str:
        calls.append(data)
        return str(await _never(data))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(_SOON_S):
            await Flujo(Step("ask", ask, timeout_s=60, max_retries=3)).run_async("go")

    assert calls == ["go"]


async def _cancels_what_it_awaits(data: Any) -> Any:
    inner = asyncio.get_running_loop().create_future()
    inner.cancel()
    return await inner


async def _raises_a_cancellation(data: Any) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize("limits", _LIMITS)
@pytest.mark.parametrize("agent", [_cancels_what_it_awaits, _raises_a_cancellation])
async def test_a_cancellation_of_the_agents_own_is_a_failed_attempt(agent: Any, limits: UsageLimits | None) -> None:
    """Nobody cancelled the run, so it goes on, in a branch of a parallel step too."""
    step = Step("ask", agent, max_retries=1)
    alone = await Flujo(step, usage_limits=limits).run_async("go")
    branches = {"a": step, "b": Step("fine", functools.partial(_answer, answer="b"))}
    beside = await Flujo(Step.parallel("both", branches), usage_limits=limits).run_async("go")

    assert alone.status == beside.status == "failed"
    assert alone.step_history[0].attempts == 2
    assert alone.step_history[0].feedback == "RuntimeError: the agent was cancelled by its own code"
    assert [result.success for result in beside.step_history[0].step_history] == [False, True]


async def _cancels_its_task(data: Any) -> Any:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def test_an_agent_that_cancels_its_task_cancels_the_run_or_its_branch() -> None:
    """At the top that task is the run's; in a branch it is the branch's, which fails while the others finish."""
    step = Step("ask", _cancels_its_task)
    fine = Step("fine", functools.partial(_answer, answer="b"))
    run = asyncio.create_task(Flujo(step).run_async("go"))
    beside = await Flujo(Step.parallel("both", {"a": step, "b": fine})).run_async("go")
    with pytest.raises(asyncio.CancelledError):
        await run

    both = beside.step_history[0]
    assert (beside.status, [result.success for result in both.step_history]) == ("failed", [False, True])
    assert both.step_history[0].feedback == "cancelled by its own code"


async def test_items_that_a_cancelled_task_left_behind_are_told_of() -> None:
    """Every item of a map has a result, also if the task that should have worked on it has ended."""
    step = Step.map_over("all", Step("ask", _cancels_its_task), max_concurrency=1)

    result = await Flujo(step).run_async(["a", "b"])

    assert [item.feedback for item in result.step_history[0].step_history] == [
        "cancelled by its own code",
        "not started: another was cancelled",
    ]


async def _answer(data: Any, answer: str) -> str:
    return answer


@pytest.mark.parametrize("limits", _LIMITS)
async def test_cancelling_the_run_cancels_the_agent_and_says_where_it_stood(limits: UsageLimits | None) -> None:
    """`CancelledError` propagates, no attempt follows, and the agent has ended before the run does."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def ask(data: str) -> None:
        began.set()
        try:
            await _never(data)
        finally:
            ended.set()

    run: asyncio.Task[PipelineResult[Any]] = asyncio.create_task(
        Flujo(Step("ask", ask, max_retries=3), usage_limits=limits).run_async("go")
    )
    await began.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await run

    assert ended.is_set()
    assert "'ask' at 0" in raised.value.__notes__[0]


class _ExpiredError(Exception):
    cost_usd = 0.5


@pytest.mark.parametrize("limits", _LIMITS)
@pytest.mark.parametrize("ending", ["answers", "raises", "streams"])
async def test_an_agent_that_keeps_a_cancellation_to_itself_ends_the_run(
    limits: UsageLimits | None, ending: str
) -> None:
    """The run is cancelled all the same, with the charge made, and no further step starts."""
    began = asyncio.Event()
    started: list[str] = []

    async def swallow(data: str) -> Any:
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await _never(data)
        if ending == "raises":
            raise _ExpiredError
        return await _paid("swallowed", cost=0.5)

    async def stream(data: str) -> AsyncIterator[Any]:
        yield await swallow(data)

    async def follow(data: Any) -> None:
        started.append(data)

    agent: Any = stream if ending == "streams" else swallow
    steps = Step("ask", agent) >> Step("next", follow)
    run = asyncio.create_task(Flujo(steps, usage_limits=limits).run_async("go"))
    await began.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await run

    assert started == []
    assert "'ask' at 0" in raised.value.__notes__[0]
    assert "$0.5" in raised.value.__notes__[0]


async def test_a_workflow_that_cleans_up_after_a_cancellation_runs() -> None:
    """What was cancelled before a run began does not end the run."""
    waiting = asyncio.Event()

    async def fail(data: str) -> Any:
        raise PaidError

    async def work() -> Any:
        try:
            waiting.set()
            await _never("")
        except asyncio.CancelledError:
            rescued = Step("fail", fail).fallback(Step("rescue", _paid))
            return await Flujo(Step("tidy", _paid) >> rescued).run_async("x")

    task = asyncio.create_task(work())
    await waiting.wait()
    task.cancel()

    assert (await task).success


async def test_a_cancellation_during_judgement_keeps_the_charge() -> None:
    """The answer was paid for before it was judged, and the note on the cancellation says so."""
    judging = asyncio.Event()

    class Slow:
        async def validate(self, output: Any, *, context: Any = None) -> Any:
            judging.set()
            await _never(output)

    step = Step("ask", functools.partial(_paid, cost=0.5), validators=[Slow()])
    run = asyncio.create_task(Flujo(step, usage_limits=UsageLimits(total_cost_usd_limit=9)).run_async("go"))
    await judging.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await run

    assert "$0.5 spent" in raised.value.__notes__[0]


async def _paid(data: Any, cost: float = 0.5) -> Any:
    return Paid("paid", cost)


async def test_a_cancellation_that_comes_with_a_breach_is_not_lost() -> None:
    """A call that is cut short and cancelled before it notices is cancelled."""
    control = RunControl(is_limited=True)
    call = asyncio.create_task(within_deadline(control, asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    control.stop("a limit was passed")
    while not control.cut_short:  # noqa: ASYNC110  # what is waited for are turns of the loop
        await asyncio.sleep(0)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert not control.cut_short
    assert not control.calls


async def test_a_step_that_was_cut_short_is_not_cancelled_any_more() -> None:
    """What runs after the call in the same task, such as a hook, may wait as usual."""
    began = asyncio.Event()
    pending: list[int] = []

    async def hang(data: str) -> Any:
        began.set()
        await _never(data)

    async def spend(data: str) -> Any:
        await began.wait()
        return Paid("spent", 2)

    async def told(payload: OnStepFailurePayload) -> None:
        task = asyncio.current_task()
        pending.append(-1 if task is None else task.cancelling())

    step = Step.map_over("all", Step.branch_on("pick", _itself, {"hang": Step("h", hang), "spend": Step("s", spend)}))
    with pytest.raises(UsageLimitExceededError):
        await Flujo(step, usage_limits=UsageLimits(total_cost_usd_limit=1), hooks=[told]).run_async(["hang", "spend"])

    assert pending == [0, 0, 0]


def _itself(data: str, context: Any) -> str:
    return data


@pytest.mark.parametrize("turns", range(7))
async def test_a_timeout_that_comes_with_a_breach_is_told_apart(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever comes first, the call ends once, is not tried again, and leaves no cancellation behind."""
    loop, clock = asyncio.get_running_loop(), ManualClock()
    monkeypatch.setattr(loop, "time", clock.monotonic)
    began, calls = asyncio.Event(), list[str]()
    left: list[int] = []

    async def hang(data: str) -> Any:
        calls.append(data)
        began.set()
        await _never(data)

    def let_time_pass(turns: int) -> None:
        if turns == 0:
            clock.advance(61)
        else:
            loop.call_soon(let_time_pass, turns - 1)

    async def spend(data: str) -> Any:
        await began.wait()
        let_time_pass(turns)
        return Paid("spent", 2)

    async def told(payload: OnStepFailurePayload) -> None:
        task = asyncio.current_task()
        left.append(-1 if task is None else task.cancelling())

    branches = {"hang": Step("hang", hang, timeout_s=60, max_retries=5), "spend": Step("spend", spend)}
    limits = UsageLimits(total_cost_usd_limit=1)
    with pytest.raises(UsageLimitExceededError) as raised:
        await Flujo(Step.parallel("both", branches), usage_limits=limits, hooks=[told]).run_async("go")

    hung, spent = raised.value.result.step_history[0].step_history
    assert (hung.status, hung.attempts, spent.status) == ("stopped", 1, "completed")
    assert (calls, set(left)) == (["go"], {0})


async def test_no_task_is_left_behind() -> None:
    """After timeouts, failures and answers only the test's own task is there."""

    @validator
    def refuses(output: str) -> tuple[bool, str | None]:
        return False, "no"

    branches = {
        "slow": Step("slow", _never, timeout_s=_SOON_S),
        "stream": Step("stream", _never_streams, timeout_s=_SOON_S),
        "refused": Step("refused", functools.partial(_answer, answer="a"), validators=[refuses]),
    }
    await Flujo(Step.parallel("all", branches), usage_limits=UsageLimits(total_cost_usd_limit=0)).run_async("go")

    assert asyncio.all_tasks() == {asyncio.current_task()}
