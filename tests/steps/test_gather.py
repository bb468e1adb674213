"""`Step.gather` and `use_input`: picking branch outputs out of a parallel result."""

from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest

from flujo import BaseStep, BranchFailureStrategy, Flujo, Pipeline, Step
from tests.steps.workflows import CENT, failing, paid, plain

PARALLEL = Step.parallel("p", {"a": plain("a"), "b": plain("b", str.upper), "c": plain("c", len)})


def test_gather_gives_a_dict_of_its_keys() -> None:
    """The keys are in the order that was asked for."""
    result = Flujo(PARALLEL >> Step.gather("g", wait_for=["c", "a"])).run("x")
    gathered = result.step_history[1]

    assert result.output == {"c": 1, "a": "x"}
    assert [*(result.output or {})] == ["c", "a"]
    assert (gathered.name, gathered.success, gathered.attempts) == ("g", True, 1)


MAPPINGS: list[Any] = [{"a": 1, "b": 2}, OrderedDict(a=1), MappingProxyType({"a": 1})]


@pytest.mark.parametrize("data", MAPPINGS)
def test_any_mapping_is_gathered_from(data: Any) -> None:
    """Not only the dict of a parallel step."""
    assert Flujo(Step.gather("g", wait_for=["a"])).run(data).output == {"a": 1}


def test_missing_keys_fail_the_step_and_are_named() -> None:
    """So are the keys there are."""
    result = Flujo(PARALLEL >> Step.gather("g", wait_for=["a", "y", "z"])).run("x")

    assert result.status == "failed"
    assert result.step_history[1].feedback == "the input lacks 'y', 'z'; it has 'a', 'b', 'c'"


def test_gathering_from_what_is_no_mapping_fails_the_step() -> None:
    """The feedback says what the input is."""
    gather: Any = Step.gather("g", wait_for=["a"])

    result = Flujo(gather).run([1])

    assert "its input is a list" in str(result.step_history[0].feedback)


def test_gather_passes_the_result_of_an_ignored_branch() -> None:
    """A branch that failed under `IGNORE` is there as its failed result."""
    parallel = Step.parallel(
        "p", {"bad": failing("bad"), "good": plain("good")}, on_branch_failure=BranchFailureStrategy.IGNORE
    )

    output = Flujo(parallel >> Step.gather("g", wait_for=["bad"])).run("x").output

    assert output is not None
    assert output["bad"].feedback == "PaidError: no luck"


KINDS: dict[str, BaseStep[Any, Any]] = {
    "step": plain("s"),
    "pipeline": plain("s") >> plain("t"),
    "parallel": Step.parallel("s", {"k": plain("k")}) >> plain("t", lambda output: output["k"]),
    "map": Step.map_over("s", plain("k")),
    "loop": Step.loop_until("s", plain("k"), lambda output, context: True),
    "branch": Step.branch_on("s", lambda data, context: "go", {"go": plain("k")}),
    "cached": Step.cached(plain("k")),
    "sub-pipeline": Pipeline.from_step(plain("k")).as_step("s") >> plain("t", lambda result: result.output),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_step_works_on_one_key(kind: str) -> None:
    """`use_input` gives a step the one value; the step itself stays as it was."""
    step = KINDS[kind]
    keyed: Any = step.use_input("list")

    result = Flujo(plain("make", lambda data: {"list": [data]}) >> keyed).run("x")

    assert result.output == ["x"]
    assert step.input_key is None


def test_use_input_names_a_missing_key() -> None:
    """The step fails before its agent is called, and says which keys there are."""
    keyed: Any = paid("s").use_input("z")

    missing, no_dict = Flujo(PARALLEL >> keyed).run("x"), Flujo(keyed).run("text")

    assert missing.step_history[1].feedback == "the input has no key 'z'; its keys are 'a', 'b', 'c'"
    assert no_dict.step_history[0].feedback == "the input has no key 'z'; it is a str"
    assert missing.total_cost == no_dict.total_cost == 0


def test_one_step_may_be_used_on_several_keys() -> None:
    """Each copy works on its own key."""
    step = paid("s", lambda data: data * 2)
    on_a: Any = step.use_input("a")
    on_b: Any = step.use_input("b")

    result = Flujo(PARALLEL >> Step.parallel("q", {"a": on_a, "b": on_b})).run("x")

    assert result.output == {"a": "xx", "b": "XX"}
    assert result.total_cost == 2 * CENT
