"""`fallback` on composites: what runs when a whole loop, map or pipeline failed."""

from typing import Any

import pytest

from flujo import Flujo, InfiniteFallbackError, Pipeline, Step
from tests.steps.nesting import AROUND
from tests.steps.workflows import CENT, Notes, assert_adds_up, failing, paid, plain


def _bad() -> Pipeline[Any, Any]:
    return paid("start") >> failing("bad")


def _to_a(data: Any) -> str:
    return "a"


FAILING: dict[str, Any] = {
    "pipeline": _bad,
    "parallel": lambda: Step.parallel("s", {"a": _bad(), "b": _bad()}),
    "map": lambda: Step.map_over("s", failing("bad")),
    "loop": lambda: Step.loop_until("s", paid("a"), lambda output, context: False, 2),
    "refine": lambda: Step.refine_until("s", _bad(), paid("critic")),
    "branch": lambda: Step.branch_on("s", lambda data, context: "a", {"a": _bad()}),
    "router": lambda: Step.dynamic_parallel_branch("s", _to_a, {"a": _bad()}),
    "cached": lambda: Step.cached(_bad()),
    "gather": lambda: Step.gather("s", wait_for=["z"]),
    "sub-pipeline": lambda: _bad().as_step("s"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_every_kind_of_step_may_fall_back(kind: str) -> None:
    """The result has the primary's name, both costs, both results, and says what happened."""
    step = FAILING[kind]()

    result = Flujo(step.fallback(paid("rescue")) >> plain("end")).run(["x"])
    rescued = result.step_history[0]
    primary, rescue = rescued.step_history

    assert result.output == ["x"]
    assert (rescued.name, rescued.success, rescued.feedback) == (step.name, True, None)
    assert (primary.success, rescue.name, rescue.success) == (False, "rescue", True)
    assert rescued.metadata_["fallback_triggered"] is True
    assert rescued.metadata_["original_error"] == primary.feedback
    assert rescued.cost == primary.cost + CENT
    assert_adds_up(result)


@pytest.mark.parametrize("kind", FAILING)
def test_a_fallback_that_fails_too_names_both_failures(kind: str) -> None:
    """The feedback has the primary's and the fallback's; both are paid once."""
    result = Flujo(FAILING[kind]().fallback(failing("rescue", "worse"))).run(["x"])
    step = result.step_history[0]

    assert result.status == "failed"
    assert step.feedback == f"{step.step_history[0].feedback}; the fallback 'rescue': PaidError: worse"
    assert_adds_up(result)


def test_a_fallback_may_be_any_kind() -> None:
    """A pipeline, a map, a parallel step rescue as well as an agent."""
    rescues = [
        paid("a") >> paid("b", lambda data: [data]),
        plain("list", lambda data: [data]) >> Step.map_over("m", paid("a")),
        Step.parallel("p", {"a": paid("a")}) >> plain("pick", lambda output: [output["a"]]),
    ]

    assert [Flujo(failing("bad").fallback(rescue)).run("x").output for rescue in rescues] == [["x"]] * 3


def test_a_chain_of_fallbacks_goes_to_the_first_that_works() -> None:
    """Each one stands in for the one before; the total has all of them."""
    last = failing("two").fallback(failing("three").fallback(paid("four")))

    result = Flujo(failing("one").fallback(last)).run("x")

    assert result.output == "x"
    assert result.total_cost == 4 * CENT
    assert_adds_up(result)


def test_a_step_that_succeeds_does_not_fall_back() -> None:
    """There is nothing to tell then."""
    result = Flujo(Step.map_over("m", paid("a")).fallback(failing("never"))).run(["x"])

    assert result.output == ["x"]
    assert "fallback_triggered" not in result.step_history[0].metadata_


@pytest.mark.parametrize("kind", AROUND)
def test_a_fallback_that_leads_back_is_refused(kind: str) -> None:
    """However deep the step is in its own fallback; declaring it is the error, and nothing is set."""
    step = plain("step")

    with pytest.raises(InfiniteFallbackError, match="'step'"):
        step.fallback(AROUND[kind](step))
    with pytest.raises(InfiniteFallbackError, match="'step'"):
        step.fallback(step)
    assert step.fallback_step is None


def test_a_fallback_inside_a_branch_sees_its_branch() -> None:
    """It works on the branch's context and on the input of the step that failed."""

    async def read(data: Any, *, context: Notes) -> Any:
        return data, context.count

    async def write(data: Any, *, context: Notes) -> Any:
        context.count += 1
        raise ValueError("after writing")

    branch = plain("number", lambda data: data * 2) >> Step("write", write, max_retries=0).fallback(Step("read", read))

    result = Flujo(Step.map_over("m", branch), context_model=Notes).run([1, 2])

    assert result.output == [(2, 1), (4, 1)]
