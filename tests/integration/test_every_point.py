"""Limits, aborts, failures and pauses, wherever they fall in a workflow with every kind of step."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from flujo import (
    Flujo,
    HookPayload,
    OnStepFailurePayload,
    PausedException,
    PipelineAbortSignal,
    PipelineResult,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
    StepResult,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.domain.results import TraceNode
from tests.integration.every_kind import Account, every_kind
from tests.integration.paid import leaves

CENT = Decimal("0.01")
_AT_ONCE = 5  # the calls that the nested parallel steps make at once, and that may have been about to start


def _runner(account: Account, limits: UsageLimits | None = None, hooks: Any = ()) -> Flujo[Any, Any]:
    return Flujo(every_kind(account), resources=account.resources(), hooks=hooks, usage_limits=limits)


async def _run(account: Account, **options: Any) -> PipelineResult[Any]:
    result: PipelineResult[Any] = await _runner(account, **options).run_async("x")
    _check(result, account)
    return result


def _check(result: PipelineResult[Any], account: Account) -> None:
    """Assert what holds after every run: nothing is open, and the money is that of the leaves."""
    assert account.is_settled()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert result.total_cost == sum(leaf.cost for leaf in leaves(result.step_history))
    assert result.total_tokens == sum(leaf.token_counts for leaf in leaves(result.step_history))
    for step in _composites(result.step_history):
        assert step.cost == sum(child.cost for child in step.step_history), step


def _composites(results: list[StepResult]) -> Iterator[StepResult]:
    for result in results:
        if result.step_history:
            yield result
            yield from _composites(result.step_history)


def _statuses(node: TraceNode) -> set[str]:
    return {node.status}.union(*map(_statuses, node.children))


async def test_the_workflow_completes() -> None:
    """Undisturbed, every call is made once and paid for once; waiting and iterating give the same."""
    awaited, iterated = Account(), Account()

    result = await _run(awaited)
    items = [item async for item in _runner(iterated).run_async("x")]

    assert (result.status, result.output) == ("completed", "abc")
    assert result.total_cost == CENT * (awaited.called - 1)  # the stream is free
    assert items[:-1] == ["a", "b", "c"]
    assert (items[-1].total_cost, iterated.called) == (result.total_cost, awaited.called)


async def test_hooks_hear_every_step_once() -> None:
    """Each step that starts ends once, at its own path, between the run's start and its end."""
    account = Account()

    await _run(account, hooks=[account.listen])

    first, *steps, last = account.heard
    started = [each.path for each in steps if isinstance(each, PreStepPayload)]
    ended = [each.path for each in steps if isinstance(each, PostStepPayload | OnStepFailurePayload)]
    assert isinstance(first, PreRunPayload)
    assert isinstance(last, PostRunPayload)
    assert len(started) == len(set(started))
    assert sorted(started) == sorted(ended)
    assert len(started) > account.called


async def test_a_limit_may_fall_on_any_charge() -> None:
    """Wherever the limit is passed, no call starts after it, and everything that was paid for is in the history."""
    undisturbed = await _run(Account())

    async def attempt(cents: int) -> None:
        account, started_at_breach = Account(), list[int]()

        def note(number: int, answer: Any) -> None:
            paid = account.returned + 1
            if paid > cents and not started_at_breach:
                started_at_breach.append(account.called)

        account.on_call = note
        with pytest.raises(UsageLimitExceededError) as error:
            await _runner(account, UsageLimits(total_cost_usd_limit=CENT * cents)).run_async("x")

        result = error.value.result
        _check(result, account)
        assert account.called == started_at_breach[0]
        assert CENT * cents < result.total_cost <= CENT * account.called
        assert "completed" in _statuses(result.trace_tree)

    for cents in range(int(undisturbed.total_cost / CENT)):
        await attempt(cents)


async def test_an_abort_may_come_at_any_event() -> None:
    """A hook that aborts the run ends it gracefully: no agent is called any more."""
    undisturbed = Account()
    await _run(undisturbed, hooks=[undisturbed.listen])

    async def attempt(position: int) -> None:
        account, started_at_abort = Account(), list[int]()

        async def abort(payload: HookPayload) -> None:
            await account.listen(payload)
            if account.heard[position:] and not started_at_abort:
                started_at_abort.append(account.called)
                raise PipelineAbortSignal("enough")

        result = await _run(account, hooks=[abort])

        assert (result.status, result.output) == ("aborted", None)
        assert account.called - started_at_abort[0] <= _AT_ONCE

    for position in range(len(undisturbed.heard) - 1):  # at the last event the run is over
        await attempt(position)


async def test_a_failure_may_come_at_any_call() -> None:
    """A run whose agents are down from some call on fails; nothing raises, and nothing is left open."""
    undisturbed = Account()
    await _run(undisturbed)

    async def attempt(position: int) -> PipelineResult[Any]:
        account = Account()

        def fail(number: int, answer: Any) -> None:
            if number >= position:
                raise ValueError("the provider is down")

        account.on_call = fail
        return await _run(account)

    for position in range(1, undisturbed.called + 1):
        result = await attempt(position)
        assert (result.status, result.output) == ("failed", None)
        assert "the provider is down" in str(result.step_history[-1].feedback)


async def test_a_pause_may_come_at_any_call() -> None:
    """A run that waits for a person in any of its calls goes on to the same end, and calls no other agent twice."""
    undisturbed = Account()
    expected = await _run(undisturbed)

    async def attempt(position: int) -> None:
        account, answers = Account(), list[Any]()

        def pause(number: int, answer: Any) -> None:
            if number == position:
                answers.append(answer)
                raise PausedException("What now?")

        account.on_call = pause
        runner = _runner(account)
        paused: PipelineResult[Any] = await runner.run_async("x")
        _check(paused, account)
        assert (paused.status, [asked.message for asked in paused.waiting]) == ("paused", ["What now?"])
        result: PipelineResult[Any] = await runner.resume_async(paused, answers[0])

        _check(result, account)
        assert (result.status, result.output, account.called) == ("completed", expected.output, undisturbed.called)
        assert expected.total_cost - result.total_cost == (CENT if answers[0] != "abc" else 0)  # a person is free
        assert _shape(result.trace_tree) == _shape(expected.trace_tree)

    for position in range(1, undisturbed.called + 1):
        await attempt(position)


async def test_every_call_may_pause() -> None:
    """A run in which every single call waits for a person is the same run, one answer after the other."""
    undisturbed = Account()
    expected = await _run(undisturbed)
    account, answers = Account(), dict[str, Any]()

    def pause(number: int, answer: Any) -> None:
        answers[f"question {number}"] = answer
        raise PausedException(f"question {number}")

    account.on_call = pause
    runner = _runner(account)
    result: PipelineResult[Any] = await runner.run_async("x")
    while result.status == "paused":
        asked = result.waiting[-1]
        result = await runner.resume_async(result, answers[asked.message], path=asked.path)

    _check(result, account)
    assert (result.status, result.output, result.total_cost) == ("completed", expected.output, Decimal(0))
    assert account.called == undisturbed.called
    assert _shape(result.trace_tree) == _shape(expected.trace_tree)


def _shape(node: TraceNode) -> tuple[Any, ...]:
    return (node.name, node.status, node.attempts, *map(_shape, node.children))
