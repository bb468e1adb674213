"""`Step.dynamic_parallel_branch`: an agent names the branches that run."""

from typing import Any

import pytest

from flujo import BranchFailureStrategy, Flujo, Step, UsageLimitExceededError, UsageLimits
from flujo.testing import StubAgent
from tests.steps.workflows import CENT, Gate, Notes, Paid, PaidError, assert_adds_up, failing, paid

BRANCHES = {"a": paid("a"), "b": paid("b") >> paid("b2"), "c": failing("c")}


def _route(answer: Any, **options: Any) -> Any:
    dynamic_parallel_branch: Any = Step.dynamic_parallel_branch
    return dynamic_parallel_branch("route", StubAgent([answer]), BRANCHES, **options)


@pytest.mark.parametrize(
    ("answer", "ran"),
    [
        ("a", ["a"]),
        (["b"], ["b"]),
        (["b", "a"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        ({"b", "a"}, ["a", "b"]),
        (["a", "a"], ["a"]),
        ([], []),
    ],
)
def test_the_named_branches_run_in_order_of_declaration(answer: Any, ran: list[str]) -> None:
    """One name, several, the same one twice or none; the output is a dict of those."""
    result = Flujo(_route(answer)).run("x")

    assert result.output == dict.fromkeys(ran, "x")
    assert list(result.output or ()) == ran
    assert result.step_history[0].metadata_["executed_branches"] == ran
    assert_adds_up(result)


def test_what_the_router_costs_is_counted() -> None:
    """The router is the first child; it gets the step's input, as the branches do."""
    router = StubAgent([Paid(["a"])])

    result = Flujo(Step.dynamic_parallel_branch("route", router, BRANCHES)).run("x")

    assert router.inputs == ["x"]
    assert [child.name for child in result.step_history[0].step_history] == ["route router", "a"]
    assert result.total_cost == 2 * CENT
    assert_adds_up(result)


@pytest.mark.parametrize("answer", ["z", ["a", "z"], None, 5])
def test_an_unknown_name_fails_the_step_and_runs_nothing(answer: Any) -> None:
    """The feedback names it and lists the branches there are; the router is paid for, no branch is."""
    result = Flujo(_route(Paid(answer))).run("x")
    (route,) = result.step_history
    unknown = "z" if isinstance(answer, list) else answer

    assert route.status == "failed"
    assert route.feedback == f"the router named {unknown!r}; the branches are 'a', 'b', 'c'"
    assert result.total_cost == CENT
    assert_adds_up(result)


def test_a_router_that_fails_fails_the_step() -> None:
    """It is tried as any agent is, and what its attempts cost is counted."""
    router = StubAgent([PaidError("busy"), PaidError("busy")])

    result = Flujo(Step.dynamic_parallel_branch("route", router, BRANCHES)).run("x")

    assert result.step_history[0].feedback == "step 'route router': PaidError: busy"
    assert result.total_cost == 2 * CENT
    assert_adds_up(result)


def test_failed_branches_count_as_in_a_parallel_step() -> None:
    """A failed branch fails the step, or stands in the output with `IGNORE`."""
    propagated = Flujo(_route(["a", "c"])).run("x")
    ignored = Flujo(_route(["a", "c"], on_branch_failure=BranchFailureStrategy.IGNORE)).run("x")

    assert propagated.step_history[0].feedback == "branch c: step 'c': PaidError: no luck"
    assert propagated.total_cost == 2 * CENT
    assert ignored.output == {"a": "x", "c": ignored.step_history[0].step_history[2]}


def test_the_router_sees_the_context() -> None:
    """A router that asks for the context gets the user's own model."""

    async def route(data: Any, *, context: Notes) -> list[str]:
        return context.tags

    step = Step.dynamic_parallel_branch("route", route, BRANCHES)

    result = Flujo(step, context_model=Notes, initial_context_data={"tags": ["b"]}).run("x")

    assert result.output == {"b": "x"}


async def test_max_concurrency_bounds_the_named_branches() -> None:
    """As in a parallel step."""
    gate = Gate(2)
    branches = {str(i): Step(str(i), gate) for i in range(6)}
    step = Step.dynamic_parallel_branch("route", StubAgent([list("012345")]), branches, max_concurrency=2)

    await Flujo(step).run_async("x")

    assert gate.most == 2


def test_a_router_that_breaks_the_limit_starts_no_branch() -> None:
    """The router's answer is in the history, and no branch is paid for."""
    with pytest.raises(UsageLimitExceededError) as error:
        Flujo(_route(Paid(["a", "b"]), usage_limits=UsageLimits(total_tokens_limit=5))).run("x")
    result = error.value.result

    assert result.total_cost == CENT
    assert "executed_branches" not in result.step_history[0].metadata_
