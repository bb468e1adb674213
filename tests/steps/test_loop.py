"""`Step.loop_until`: a body repeated until a condition holds."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from flujo import (
    Flujo,
    PipelineAbortSignal,
    Step,
    TypeMismatchError,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.testing import StubAgent
from tests.steps.workflows import CENT, Notes, Paid, assert_adds_up, leaves, paid, plain

PLUS_ONE = paid("plus one", lambda data: data + 1)


def _reaches(limit: int) -> Callable[[Any, Any], bool]:
    return lambda output, context: bool(output >= limit)


def _raises(*args: Any) -> Any:
    raise LookupError("lost the thread")


def _raises_at_two(output: Any, context: Any) -> bool:
    return bool(_raises()) if output == 2 else False


def test_a_loop_ends_when_its_condition_holds() -> None:
    """Each iteration works on the output of the one before; the result says how many there were, and why it ended."""
    result = Flujo(Step.loop_until("loop", PLUS_ONE, _reaches(3), max_loops=10)).run(0)
    (loop,) = result.step_history

    assert (loop.name, loop.success, loop.output, loop.attempts) == ("loop", True, 3, 3)
    assert (loop.cost, loop.token_counts, loop.feedback) == (3 * CENT, 30, None)
    assert loop.metadata_["exit_reason"] == "condition"
    assert [child.output for child in loop.step_history] == [1, 2, 3]
    assert_adds_up(result)


def test_the_body_runs_at_least_once() -> None:
    """The condition is asked after an iteration, not before."""
    result = Flujo(Step.loop_until("loop", PLUS_ONE, lambda output, context: True)).run(0)

    assert (result.output, result.step_history[0].attempts) == (1, 1)


def test_the_condition_may_hold_at_the_last_iteration() -> None:
    """A condition that holds in iteration `max_loops` is a success."""
    result = Flujo(Step.loop_until("loop", PLUS_ONE, _reaches(3), max_loops=3)).run(0)

    assert result.success
    assert result.step_history[0].metadata_["exit_reason"] == "condition"


def test_reaching_max_loops_fails_with_the_last_output() -> None:
    """Five iterations by default; then the step has failed, and says so with the last output."""
    result = Flujo(Step.loop_until("loop", PLUS_ONE, _reaches(100)) >> paid("never")).run(0)
    (loop,) = result.step_history

    assert (loop.status, loop.output, loop.attempts) == ("failed", 5, 5)
    assert loop.feedback == "the exit condition did not hold after max_loops=5 iterations"
    assert loop.metadata_["exit_reason"] == "max_loops"
    assert (result.status, result.output, result.total_cost) == ("failed", None, 5 * CENT)
    assert_adds_up(result)


def test_mappers_shape_what_goes_in_and_out() -> None:
    """The first input, every following one and the output pass the mappers, each with the context."""
    seen: list[Any] = []

    def first(data: str, context: Notes) -> int:
        seen.append(("first", data, context.count))
        return len(data)

    def following(output: int, context: Notes, i: int) -> int:
        seen.append(("following", output, i))
        return output * 10

    def last(output: int, context: Notes) -> str:
        seen.append(("last", output))
        return f"<{output}>"

    step = Step.loop_until(
        "loop",
        PLUS_ONE,
        _reaches(300),
        initial_input_to_loop_body_mapper=first,
        iteration_input_mapper=following,
        loop_output_mapper=last,
    )

    result = Flujo(step, context_model=Notes, initial_context_data={"count": 7}).run("ab")

    assert result.output == "<311>"
    assert seen == [("first", "ab", 7), ("following", 3, 1), ("following", 31, 2), ("last", 311)]


def test_no_input_is_mapped_for_an_iteration_that_never_comes() -> None:
    """The input mapper is called between iterations only, and the output mapper only on success."""
    asked: list[int] = []

    def following(output: int, context: Any, i: int) -> int:
        asked.append(i)
        return output

    step = Step.loop_until(
        "loop", PLUS_ONE, _reaches(9), 3, iteration_input_mapper=following, loop_output_mapper=_raises
    )

    result = Flujo(step).run(0)

    assert asked == [1, 2]
    assert (result.step_history[0].status, result.step_history[0].output) == ("failed", 3)


@pytest.mark.parametrize(
    ("options", "iterations"),
    [
        ({"exit_condition_callable": _raises}, 1),
        ({"initial_input_to_loop_body_mapper": _raises}, 0),
        ({"loop_output_mapper": _raises}, 3),
        ({"exit_condition_callable": _raises_at_two}, 2),
        ({"iteration_input_mapper": _raises}, 1),
    ],
)
def test_a_callable_that_raises_fails_the_loop(options: dict[str, Any], iterations: int) -> None:
    """The feedback says which one, and what it raised; the iterations that were paid for are kept and counted."""
    loop_until: Any = Step.loop_until
    step = loop_until("loop", PLUS_ONE, **{"exit_condition_callable": _reaches(3), **options})

    result = Flujo(step).run(0)
    (loop,) = result.step_history

    assert (result.status, loop.status) == ("failed", "failed")
    assert loop.feedback == f"{next(iter(options))}: LookupError: lost the thread"
    assert len(loop.step_history) == iterations
    assert loop.attempts == max(iterations, 1)
    assert result.total_cost == iterations * CENT
    assert_adds_up(result)


def test_a_condition_that_gives_a_coroutine_fails_the_loop() -> None:
    """It would always count as true, and end the loop after one iteration."""

    async def judge(output: Any) -> bool:
        return False

    def ask_judge(output: Any, context: Any) -> Any:
        return judge(output)

    result = Flujo(Step.loop_until("loop", PLUS_ONE, ask_judge)).run(0)

    assert result.status == "failed"
    assert "gave a coroutine" in str(result.step_history[0].feedback)


@pytest.mark.parametrize(("answer", "iterations"), [(1, 1), ("yes", 1), (0, 2), (None, 2), ([], 2)])
def test_a_condition_may_give_anything_that_is_true_or_false(answer: Any, iterations: int) -> None:
    """Python's truth is what counts."""

    def give(output: Any, context: Any) -> Any:
        return answer

    result = Flujo(Step.loop_until("loop", PLUS_ONE, give, 2)).run(0)

    assert result.step_history[0].attempts == iterations
    assert result.success is bool(answer)


def test_a_failing_body_fails_the_loop_at_once() -> None:
    """No further iteration starts; the failed one is in the history with what it cost."""
    agent = StubAgent([Paid(1), Paid(2), ValueError("bad"), ValueError("worse")])

    result = Flujo(Step.loop_until("loop", Step("body", agent), lambda output, context: False)).run(0)
    (loop,) = result.step_history

    assert agent.call_count == 4
    assert (loop.status, loop.attempts, loop.feedback) == ("failed", 3, "step 'body': ValueError: worse")
    assert [child.success for child in loop.step_history] == [True, True, False]
    assert "exit_reason" not in loop.metadata_
    assert_adds_up(result)


def test_iterations_share_the_context() -> None:
    """What an iteration writes the next one reads, and it is there after the loop."""

    async def count(data: Any, *, context: Notes) -> int:
        context.count += 1
        return context.count

    step = Step.loop_until("loop", Step("count", count), lambda output, context: context.count == 4)

    result = Flujo(step, context_model=Notes).run(0)

    assert isinstance(result.final_pipeline_context, Notes)
    assert result.final_pipeline_context.count == 4


class Bare(BaseModel):
    """A context with nothing that flujo knows."""

    done: bool = False


def test_any_model_may_be_the_context_of_a_loop() -> None:
    """The condition and the mappers get the user's own context."""

    async def finish(data: Any, *, context: Bare) -> str:
        context.done = True
        return "done"

    step = Step.loop_until("loop", Step("finish", finish), lambda output, context: context.done)

    assert Flujo(step, context_model=Bare).run("x").output == "done"


def test_a_body_whose_output_is_not_its_input_is_refused() -> None:
    """Before the run, unless a mapper says what the next input is."""

    async def measure(text: str) -> int:
        return len(text)

    body: Any = Step.from_callable(measure)
    mapped: Any = Step.loop_until("loop", body, _reaches(2), iteration_input_mapper=lambda n, context, i: "x" * (i + 1))

    with pytest.raises(TypeMismatchError, match="the body of loop 'loop'"):
        Flujo(Step.loop_until("loop", body, _reaches(2))).run("x")
    assert Flujo(mapped).run("x").output == 2


def test_a_limit_stops_a_loop_between_iterations() -> None:
    """The iteration that broke the limit is the last one in the history."""
    step = Step.loop_until("loop", PLUS_ONE, _reaches(100), max_loops=100)

    with pytest.raises(UsageLimitExceededError) as error:
        Flujo(step, usage_limits=UsageLimits(total_tokens_limit=25)).run(0)
    result = error.value.result

    assert len(result.step_history[0].step_history) == 3
    assert (result.step_history[0].status, result.step_history[0].attempts) == ("stopped", 3)
    assert_adds_up(result)


def test_a_limit_on_the_body_counts_each_iteration_anew() -> None:
    """Ten iterations of a cent each stay below a limit of one cent per iteration."""
    body = Step("body", PLUS_ONE.agent, usage_limits=UsageLimits(total_cost_usd_limit=0.01))

    assert Flujo(Step.loop_until("loop", body, _reaches(10), max_loops=10)).run(0).total_cost == 10 * CENT


def test_a_breach_in_an_iteration_in_a_branch_is_in_the_history() -> None:
    """The third iteration of a loop in a branch breaks the limit, and is found at its place."""
    loop = Step.loop_until("loop", PLUS_ONE, _reaches(100), max_loops=100)
    step = Step.parallel("p", {"a": loop, "b": paid("b")}, max_concurrency=1)

    with pytest.raises(UsageLimitExceededError) as error:
        Flujo(step, usage_limits=UsageLimits(total_cost_usd_limit=0.02)).run(0)
    result = error.value.result

    assert [leaf.output for leaf in leaves(result.step_history)] == [1, 2, 3]
    assert result.total_cost == 3 * CENT


def test_an_abort_signal_in_a_condition_ends_the_run() -> None:
    """A callable may stop the run gracefully; the iterations so far are kept."""

    def give_up(output: int, context: Any) -> bool:
        raise PipelineAbortSignal("enough")

    result = Flujo(Step.loop_until("loop", PLUS_ONE, give_up) >> paid("never")).run(0)

    assert result.status == "aborted"
    assert len(result.step_history) == 1
    assert result.total_cost == CENT


async def test_a_cancelled_loop_starts_no_further_iteration() -> None:
    """Cancelling the run cancels the iteration in flight, and the error propagates."""
    started = asyncio.Event()
    calls: list[int] = []

    async def hang(data: int) -> int:
        calls.append(data)
        started.set()
        await asyncio.Event().wait()
        return data

    run = asyncio.create_task(Flujo(Step.loop_until("loop", Step("hang", hang), _reaches(9))).run_async(0))
    await started.wait()
    run.cancel()

    with pytest.raises(asyncio.CancelledError):
        await run
    assert calls == [0]


def test_long_loops_need_no_deep_stack() -> None:
    """Five thousand iterations run, and all of them are in the history."""
    step = Step.loop_until("loop", plain("plus", lambda data: data + 1), _reaches(5000), max_loops=5000)

    result = Flujo(step).run(0)

    assert result.output == 5000
    assert len(result.step_history[0].step_history) == 5000
