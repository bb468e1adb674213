"""Children that run at once: how they end together when one of them ends the run."""

import asyncio
from typing import Any

import pytest

from flujo import (
    BranchFailureStrategy,
    Flujo,
    PipelineAbortSignal,
    PreStepPayload,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from tests.steps.workflows import CENT, Paid, assert_adds_up, failing, leaves, paid, plain


def _abort(data: Any) -> Any:
    raise PipelineAbortSignal("enough")


class Stuck:
    """Agents that wait for ever; notes which of them were started and which were cancelled."""

    def __init__(self, starts: int) -> None:
        self.started: list[Any] = []
        self.cancelled: list[Any] = []
        self.all_started = asyncio.Event()
        self._starts = starts

    async def run(self, data: Any) -> Any:
        self.started.append(data)
        if len(self.started) == self._starts:
            self.all_started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append(data)
            raise


async def test_cancelling_the_run_cancels_every_branch() -> None:
    """No task is left behind, those that were not started never start, and the error says where the run stood."""
    stuck = Stuck(starts=3)
    tasks = asyncio.all_tasks()
    run = asyncio.create_task(Flujo(Step.map_over("m", Step("call", stuck), max_concurrency=3)).run_async(range(9)))
    await stuck.all_started.wait()

    run.cancel()
    with pytest.raises(asyncio.CancelledError) as error:
        await run

    assert sorted(stuck.cancelled) == stuck.started == [0, 1, 2]
    assert "in step 'm'" in error.value.__notes__[0]
    assert asyncio.all_tasks() == tasks


def test_an_abort_in_one_branch_lets_the_others_end() -> None:
    """Branches at work end, since they are being paid for; no further one starts, and what ran is kept."""
    branches = {"a": paid("a"), "abort": plain("abort", _abort), "never": paid("never")}

    result = Flujo(Step.parallel("p", branches, max_concurrency=1)).run("x")
    (step,) = result.step_history

    assert (result.status, step.status) == ("aborted", "aborted")
    assert [child.status for child in step.step_history] == ["completed", "aborted"]
    assert result.total_cost == CENT
    assert_adds_up(result)


def test_an_abort_counts_more_than_a_failure_or_a_question() -> None:
    """A run that is stopped by a signal asks nobody and blames no branch."""
    branches = {
        "bad": failing("bad"),
        "ask": Step.human_in_the_loop("ask", "?"),
        "abort": plain("abort", _abort),
    }

    result = Flujo(Step.parallel("p", branches, on_branch_failure=BranchFailureStrategy.IGNORE)).run("x")

    assert (result.status, result.waiting) == ("aborted", [])
    assert "enough" in str(result.step_history[0].feedback)


def test_a_breach_counts_more_than_a_question() -> None:
    """A limit that one branch breaks stops the run, though another one waits."""
    step = Step.parallel("p", {"ask": Step.human_in_the_loop("ask", "?"), "dear": paid("dear")})

    with pytest.raises(UsageLimitExceededError) as error:
        Flujo(step, usage_limits=UsageLimits(total_cost_usd_limit=0)).run("x")

    assert (error.value.result.status, error.value.result.waiting) == ("stopped", [])
    assert error.value.result.total_cost == CENT


async def test_no_branch_starts_after_a_breach() -> None:
    """Those that were queued are not in the history: nothing was done for them."""
    step = Step.map_over("m", paid("call"), max_concurrency=2)

    with pytest.raises(UsageLimitExceededError) as error:
        await Flujo(step, usage_limits=UsageLimits(total_cost_usd_limit=0.05)).run_async(range(100))
    result = error.value.result

    assert len([leaf for leaf in leaves(result.step_history) if leaf.attempts]) <= 7
    assert result.total_cost <= 7 * CENT
    assert_adds_up(result)


def test_a_hook_that_aborts_before_a_branch_step_starts_nothing_more() -> None:
    """The step it was told of is not run, nor any branch after it."""

    async def stop_at_b(payload: PreStepPayload) -> None:
        if payload.step.name == "b":
            raise PipelineAbortSignal("not b")

    branches = {name: paid(name) for name in "abc"}

    result = Flujo(Step.parallel("p", branches, max_concurrency=1), hooks=[stop_at_b]).run("x")

    assert result.status == "aborted"
    assert [leaf.name for leaf in leaves(result.step_history) if leaf.cost] == ["a"]
    assert_adds_up(result)


async def test_nested_branches_charge_the_run_exactly() -> None:
    """Thousands of small charges over three levels of branches add up to the last digit."""

    async def spend(data: int) -> Paid:
        return Paid(data, CENT / 1000)

    innermost = Step.map_over("items", Step("spend", spend), max_concurrency=None)
    step = Step.map_over("groups", Step.parallel("p", {"a": innermost, "b": innermost}), max_concurrency=None)

    result = await Flujo(step).run_async([range(25)] * 40)

    assert result.total_cost == 2000 * CENT / 1000
    assert result.total_tokens == 20_000
    assert_adds_up(result)
