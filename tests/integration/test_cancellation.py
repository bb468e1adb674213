"""A run that is cancelled at any point, in any kind of step, leaves nothing behind and says where it stood."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from flujo import (
    Flujo,
    HookPayload,
    PipelineResult,
    PostRunPayload,
    PreRunPayload,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from tests.integration.every_kind import Account, every_kind, next_turn
from tests.integration.paid import leaves

_FAR_TOO_MANY_TURNS = 1000

Work = Callable[[], Coroutine[Any, Any, object]]


def _runner(account: Account, limits: UsageLimits | None = None) -> Flujo[Any, Any]:
    return Flujo(every_kind(account), resources=account.resources(), hooks=[account.listen], usage_limits=limits)


async def _cancel_in_turn(turn: int, work: Work, *, again: int | None = None) -> "asyncio.Task[object]":
    """Start some work, cancel it after so many turns of the event loop, perhaps once more later, and wait for it."""
    task = asyncio.create_task(work())
    for wait in [turn] if again is None else [turn, again]:
        for _ in range(wait):
            if not task.done():
                await next_turn()
        task.cancel()
    await asyncio.wait([task])
    return task


async def _turns_until_done(attempt: Callable[[int], Coroutine[Any, Any, bool]]) -> int:
    """Cancel in turn 0, 1, 2, ... until there is nothing left to cancel; return how many turns there were.

    Args:
        attempt: Makes and checks a run that is cancelled in the given turn; tells whether it was.
    """
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, failure: failures.append(failure))
    for turn in range(_FAR_TOO_MANY_TURNS):
        was_cancelled = await attempt(turn)
        assert asyncio.all_tasks() == {asyncio.current_task()}, f"turn {turn}"
        if not was_cancelled:
            gc.collect()  # what was never awaited is found now, and an error
            assert failures == []
            return turn
    raise AssertionError("the work has no end")


def _notes(task: "asyncio.Task[object]") -> list[str]:
    with pytest.raises(asyncio.CancelledError) as cancelled:
        task.result()
    return getattr(cancelled.value, "__notes__", [])


async def _await(runner: Flujo[Any, Any]) -> object:
    return await runner.run_async("x", run_id="r1")


async def _iterate(runner: Flujo[Any, Any]) -> object:
    return [item async for item in runner.run_async("x", run_id="r1")][-1]


@pytest.mark.parametrize("limits", [None, UsageLimits(total_tokens_limit=1000)], ids=["free", "limited"])
@pytest.mark.parametrize("use", [_await, _iterate])
async def test_a_run_may_be_cancelled_at_any_point(
    use: Callable[[Flujo[Any, Any]], Coroutine[Any, Any, object]], limits: UsageLimits | None
) -> None:
    """At every turn of the event loop a run ends at once: no task, call or resource is left, and hooks hear the end."""

    async def attempt(turn: int) -> bool:
        account = Account()
        task = await _cancel_in_turn(turn, lambda: use(_runner(account, limits)))
        assert account.is_settled(), f"turn {turn}"
        if not task.cancelled():
            assert isinstance(task.result(), PipelineResult)
            return False
        ends = [each.pipeline_result for each in account.heard if isinstance(each, PostRunPayload)]
        starts = [each for each in account.heard if isinstance(each, PreRunPayload)]
        assert len(ends) >= len(starts), f"turn {turn}"
        if turn > 1 and all(end.status == "cancelled" for end in ends):  # the run's own task begins in turn 1
            assert _notes(task)[0].startswith("flujo run r1 was cancelled "), f"turn {turn}"
        assert all(end.total_cost == sum(leaf.cost for leaf in leaves(end.step_history)) for end in ends)
        return True

    assert await _turns_until_done(attempt) > 50


@pytest.mark.parametrize("cents", [0, 5, 13, 21])
@pytest.mark.parametrize("use", [_await, _iterate])
async def test_a_breach_and_a_cancellation_may_come_together(
    use: Callable[[Flujo[Any, Any]], Coroutine[Any, Any, object]], cents: int
) -> None:
    """Before, at and after a breach a cancelled run ends as one that was cancelled or as one that was stopped."""

    async def attempt(turn: int) -> bool:
        account = Account()
        limits = UsageLimits(total_cost_usd_limit=cents / 100)
        task = await _cancel_in_turn(turn, lambda: use(_runner(account, limits)))
        assert account.is_settled(), f"turn {turn}"
        if not task.cancelled():
            assert isinstance(task.exception(), UsageLimitExceededError), f"turn {turn}"
        return task.cancelled()

    assert await _turns_until_done(attempt) > 5


@pytest.mark.parametrize("again", [0, 1, 2, 3])
async def test_a_run_may_be_cancelled_again_while_it_ends(again: int) -> None:
    """An impatient second cancellation, while hooks are told and resources are left, does no harm."""

    async def attempt(turn: int) -> bool:
        account = Account()
        task = await _cancel_in_turn(turn, lambda: _await(_runner(account)), again=again)
        assert account.is_settled(), f"turn {turn}"
        return task.cancelled()

    assert await _turns_until_done(attempt) > 50


async def test_a_resumed_run_may_be_cancelled_at_any_point() -> None:
    """A paused result is as good after a resume that was cancelled, and none of its steps is run again."""
    account = Account()
    before, after = account.step("before"), account.step("after") >> account.step("last")
    pipeline = before >> Step.parallel("both", {"ask": Step.human_in_the_loop("ask") >> after, "work": after})
    runner = Flujo(pipeline, resources=account.resources(), hooks=[account.listen])
    paused = await runner.run_async("x")
    assert paused.status == "paused"

    async def attempt(turn: int) -> bool:
        task = await _cancel_in_turn(turn, lambda: runner.resume_async(paused, "yes"))
        assert account.is_settled(), f"turn {turn}"
        if not task.cancelled():
            result = task.result()
            assert isinstance(result, PipelineResult)
            assert result.total_tokens == 5
        return task.cancelled()

    assert await _turns_until_done(attempt) > 5


@pytest.mark.parametrize("use", [_await, _iterate])
async def test_a_cancelled_run_says_where_it_stood(
    use: Callable[[Flujo[Any, Any]], Coroutine[Any, Any, object]],
) -> None:
    """The note names the run, the step, what had finished and what was spent, and the calls in flight."""
    account, reached = Account(), asyncio.Event()

    async def block(data: Any) -> Any:
        await asyncio.Event().wait()

    async def block_last(data: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    both = Step.parallel("both", {"a": Step("block", block), "b": account.step("b") >> Step("block too", block_last)})
    task = asyncio.create_task(use(Flujo(account.step("first") >> both)))
    await reached.wait()

    task.cancel()
    await asyncio.wait([task])

    assert _notes(task) == [
        "flujo run r1 was cancelled in step 'both', after 1 finished step and $0.02 spent; "
        "calls in flight: 'block' at 1/branch:a/0, 'block too' at 1/branch:b/1"
    ]


@pytest.mark.parametrize(
    ("wanted", "where"),
    [
        (PreRunPayload, "before its first step, after 0 finished steps and $0 spent"),
        (PostRunPayload, "after its last step, after 1 finished step and $0.01 spent"),
    ],
)
async def test_a_run_cancelled_in_a_hook_says_so_too(wanted: type[HookPayload], where: str) -> None:
    """Before the first step and after the last one a cancellation says where the run stood as well."""
    reached = asyncio.Event()

    async def block(payload: HookPayload) -> None:
        if isinstance(payload, wanted):
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(_await(Flujo(Account().step("only"), hooks=[block])))
    await reached.wait()

    task.cancel()
    await asyncio.wait([task])

    assert _notes(task) == [f"flujo run r1 was cancelled {where}; calls in flight: none"]


async def test_hooks_hear_of_a_cancelled_run() -> None:
    """The result that hooks get at the end has what had finished, and says that the run was cancelled."""
    account, started = Account(), asyncio.Event()

    async def block(data: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    runner = Flujo(account.step("first") >> Step("block", block), hooks=[account.listen])
    task = asyncio.create_task(_await(runner))
    await started.wait()

    task.cancel()
    await asyncio.wait([task])

    (end,) = [each.pipeline_result for each in account.heard if isinstance(each, PostRunPayload)]
    assert (end.status, end.output, end.run_id) == ("cancelled", None, "r1")
    assert [step.name for step in end.step_history] == ["first"]
    assert end.total_cost == end.step_history[0].cost


async def test_a_cancellation_that_came_too_late_says_so() -> None:
    """A consumer that is cancelled when its run has just ended learns how it ended."""
    account = Account()
    consumers: list[asyncio.Task[object]] = []

    async def cancel_consumer(payload: PostRunPayload) -> None:
        consumers[0].cancel()

    consumers.append(asyncio.create_task(_iterate(Flujo(account.step("only"), hooks=[cancel_consumer]))))
    await asyncio.wait(consumers)

    assert _notes(consumers[0]) == ["the run had ended: PipelineResult(completed, steps=1, cost=$0.01, run_id='r1')"]
