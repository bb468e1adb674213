"""Every kind of step works in every other kind."""

from typing import Any

import pytest

from flujo import Flujo, Step, UsageLimitExceededError, UsageLimits
from flujo.testing import StubAgent
from tests.steps.nesting import AROUND
from tests.steps.workflows import CENT, Paid, assert_adds_up, failing, leaves, paid, plain

EVERY_PAIR = pytest.mark.parametrize(("outer", "inner"), [(outer, inner) for outer in AROUND for inner in AROUND])


@EVERY_PAIR
def test_every_kind_works_in_every_kind(outer: str, inner: str) -> None:
    """The output comes through, and the two cents are in the total once, whatever is around them."""
    step = AROUND[outer](AROUND[inner](paid("one", str.upper) >> paid("two")))

    result = Flujo(step).run("x")

    assert result.output == "X"
    assert result.total_cost == 2 * CENT
    assert_adds_up(result)


@EVERY_PAIR
def test_a_pause_in_every_kind_in_every_kind_repeats_nothing(outer: str, inner: str) -> None:
    """What ran before the question is not run again, the answer comes through, and every cent is there once."""
    before, after = StubAgent([Paid("asked")]), StubAgent([Paid("first"), Paid("second")])
    body = Step("before", before) >> Step.human_in_the_loop("ask", "?") >> Step("after", after)
    flujo = Flujo(AROUND[outer](AROUND[inner](body)))

    paused = flujo.run("x")
    result, again = flujo.resume(paused, "yes"), flujo.resume(paused, "no")

    assert (paused.status, paused.total_cost, len(paused.waiting)) == ("paused", CENT, 1)
    assert (result.output, again.output) == ("first", "second")
    assert (before.call_count, after.inputs) == (1, ["yes", "no"])
    assert result.total_cost == again.total_cost == 2 * CENT
    for each in (paused, result, again):
        assert_adds_up(each)


@EVERY_PAIR
def test_an_answer_is_remembered_in_every_kind(outer: str, inner: str) -> None:
    """The run's context has the answer once; behind a wall it is in the context there."""
    flujo = Flujo(AROUND[outer](AROUND[inner](Step.human_in_the_loop("ask", "?"))))

    paused = flujo.run("x")
    context: Any = flujo.resume(paused, "yes").final_pipeline_context

    answers = [interaction.human_response for interaction in context.hitl_history]
    assert answers == ([] if "wall" in (outer, inner) else ["yes"])
    assert "status" not in context.scratchpad


@EVERY_PAIR
def test_a_run_resumed_twice_starts_from_the_same_data(outer: str, inner: str) -> None:
    """A step that changes its input in place after the answer does not change the input in the paused run."""

    def change(data: list[str]) -> list[str]:
        data.append("changed")
        return data

    waits_and_fails = Step.human_in_the_loop("ask", "?") >> failing("after")
    flujo = Flujo(AROUND[outer](AROUND[inner](waits_and_fails.fallback(plain("change", change)))))
    paused = flujo.run(["kept"])

    outputs = [flujo.resume(paused, "yes").output for _ in range(2)]

    assert outputs == [["kept", "changed"]] * 2


@EVERY_PAIR
def test_a_breach_in_every_kind_in_every_kind_keeps_what_was_paid(outer: str, inner: str) -> None:
    """The step that broke the limit is in the history, and nothing starts after it."""
    step = AROUND[outer](AROUND[inner](paid("one") >> paid("two") >> paid("never")))

    with pytest.raises(UsageLimitExceededError) as error:
        Flujo(step, usage_limits=UsageLimits(total_cost_usd_limit=0.01)).run("x")
    result = error.value.result

    assert result.total_cost == 2 * CENT
    assert [leaf.name for leaf in leaves(result.step_history) if leaf.cost] == ["one", "two"]
    assert_adds_up(result)


@EVERY_PAIR
def test_running_changes_no_step(outer: str, inner: str) -> None:
    """A workflow is a value: running, pausing and resuming leave every attribute of every step as it was."""
    workflow = AROUND[outer](AROUND[inner](paid("paid") >> Step.human_in_the_loop("ask", "?")))
    flujo = Flujo(workflow)
    before = [{name: repr(value) for name, value in vars(step).items()} for step in workflow.walk()]

    flujo.resume(flujo.run("x"), "yes")

    assert [{name: repr(value) for name, value in vars(step).items()} for step in workflow.walk()] == before
