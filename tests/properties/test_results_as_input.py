"""Results of flujo's own are inputs like any other."""

import pytest

from flujo import BranchFailureStrategy, Flujo, Pipeline, Step
from flujo.testing import StubAgent
from tests.properties.building import AnyStep


def _refuse(text: str) -> str:
    raise ValueError(f"no {text}")


def _failed_branch() -> AnyStep:
    branches = {"good": Step("good", str.upper), "bad": Step("bad", _refuse)}
    return Step.parallel("both", branches, on_branch_failure=BranchFailureStrategy.IGNORE)


@pytest.mark.parametrize(
    "before",
    [_failed_branch(), Pipeline.from_step(_failed_branch()).as_step("inner")],
    ids=["a failed branch", "a sub-pipeline"],
)
def test_a_cached_step_remembers_what_it_made_of_a_result(before: AnyStep) -> None:
    """A second run with equal results as input is a hit: neither the run nor its duration is part of the key."""
    agent = StubAgent(["an answer"])
    runner = Flujo(before >> Step.cached(Step("use", agent)))

    outputs = [runner.run("input").output for _ in range(2)]

    assert outputs == ["an answer", "an answer"]
    assert agent.call_count == 1
