"""One runner runs many times at once, and no run sees another."""

import asyncio
from typing import Any

from flujo import Flujo, MergeStrategy, Pipeline, RefinementCheck, Step, UsageLimitExceededError, UsageLimits
from tests.steps.workflows import CENT, Notes, assert_adds_up, paid, plain

RUNS = 50


class Meeting:
    """Agents that all wait for each other in every round, so that all runs are in the same step at once."""

    def __init__(self) -> None:
        self._barrier = asyncio.Barrier(RUNS)

    async def run(self, data: Any, *, context: Notes) -> Any:
        context.tags.append(str(data))
        context.count += 1
        await self._barrier.wait()
        return data


def _workflow() -> Any:
    meet = Step("meet", Meeting())
    loop = Step.loop_until("loop", meet >> paid("paid"), lambda output, context: context.count == 3)
    parallel = Step.parallel("p", {"a": meet, "b": paid("b")}, merge_strategy=MergeStrategy.CONTEXT_UPDATE)
    refine = Step.refine_until(
        "refine",
        plain("unpack", lambda request: request["original_input"]) >> meet,
        plain("critic", lambda draft: RefinementCheck(is_complete=True)),
    )
    pick = plain("pick", lambda output: output["a"])
    sub = Pipeline.from_step(meet).as_step("sub") >> plain("unpack", lambda result: result.output)
    return loop >> parallel >> pick >> refine >> Step.branch_on("route", lambda data, context: "m", {"m": meet}) >> sub


async def test_runs_at_the_same_time_do_not_mix() -> None:
    """Fifty runs of one runner, all in the same step at the same time, have their own data, context and cost."""
    flujo = Flujo(_workflow(), context_model=Notes)

    results = await asyncio.gather(*(flujo.run_async(i) for i in range(RUNS)))

    assert [result.output for result in results] == list(range(RUNS))
    assert len({result.run_id for result in results}) == RUNS
    for i, result in enumerate(results):
        context = result.final_pipeline_context
        assert isinstance(context, Notes)
        assert context.tags == [str(i)] * 7
        assert result.total_cost == 4 * CENT
        assert_adds_up(result)


async def test_a_breach_of_one_run_does_not_stop_another() -> None:
    """Limits are counted for each run by itself."""
    spend = Step.map_over("m", paid("call"))
    flujo = Flujo(spend, usage_limits=UsageLimits(total_cost_usd_limit=0.05))

    results = await asyncio.gather(*(flujo.run_async(range(i)) for i in range(10)), return_exceptions=True)

    assert [isinstance(result, UsageLimitExceededError) for result in results] == [i > 5 for i in range(10)]


async def test_runs_of_one_waiting_step_keep_their_questions() -> None:
    """Fifty paused runs are resumed at once, each with its own answer."""
    flujo = Flujo(Step.parallel("p", {"ask": Step.human_in_the_loop("ask"), "b": paid("b")}))
    paused = await asyncio.gather(*(flujo.run_async(f"question {i}") for i in range(RUNS)))

    results = await asyncio.gather(*(flujo.resume_async(each, i) for i, each in enumerate(paused)))

    assert [each.waiting[0].message for each in paused] == [f"question {i}" for i in range(RUNS)]
    assert [result.output for result in results] == [{"ask": i, "b": f"question {i}"} for i in range(RUNS)]


def test_one_runner_serves_one_event_loop_after_the_other() -> None:
    """Nothing that a run leaves behind belongs to an event loop."""
    flujo = Flujo(Step.parallel("p", {"a": paid("a"), "b": paid("b")}, max_concurrency=1))

    results = [flujo.run(i) for i in range(3)]

    assert [result.output for result in results] == [{"a": i, "b": i} for i in range(3)]


def test_a_finished_run_is_not_changed_by_the_next() -> None:
    """History, context and outputs of a result stay as they were."""

    async def add(data: Any, *, context: Notes) -> list[str]:
        context.tags.append(data)
        return context.tags

    flujo = Flujo(
        Step.parallel("p", {"a": Step("add", add)}) >> plain("pick", lambda output: output["a"]),
        context_model=Notes,
        initial_context_data={"tags": ["given"], "table": {"k": []}},
    )
    first = flujo.run("one")
    before = (first.output, first.step_history[0].as_dict(), first.final_pipeline_context)
    text = repr(before)

    flujo.run("two")

    assert repr((first.output, first.step_history[0].as_dict(), first.final_pipeline_context)) == text
    assert first.output == ["given", "one"]
