"""How deep steps may be nested: every kind to the same depth, and deeper nesting is refused before a run."""

from collections.abc import Callable
from typing import Any

import pytest

from flujo import BaseStep, ConfigurationError, Flujo, HookPayload, InMemoryBackend, PipelineResult, Step
from flujo.testing import StubAgent
from tests.steps.nesting import AROUND
from tests.steps.workflows import plain

_MOST = 80

AnyStep = BaseStep[Any, Any]


def _short(data: Any) -> str:
    return "x"


SINGLE: dict[str, Callable[[AnyStep], AnyStep]] = {
    "loop": lambda step: Step.loop_until("loop", step, lambda output, context: True),
    "branch": lambda step: Step.branch_on("branch", lambda data, context: "this", {"this": step}),
    "cached": Step.cached,
    "fallback": lambda step: plain("primary", int).fallback(step),
    "parallel": lambda step: Step.parallel("parallel", {"this": step}),
    "sub-pipeline": lambda step: (step >> plain("after", _short)).as_step("sub"),
}


def _nested(kind: str, levels: int) -> AnyStep:
    step: AnyStep = plain("innermost")
    for _ in range(levels):
        step = SINGLE[kind](step)
    return step


async def _hear(payload: HookPayload) -> None: ...


@pytest.mark.parametrize("kind", SINGLE)
def test_every_kind_nests_to_the_same_depth(kind: str) -> None:
    """With hooks and a store too, except that a result within a result within a result is much to store."""
    levels = (_MOST - 1) // 2 if kind == "sub-pipeline" else _MOST - 1  # its pipeline is a level of its own

    store = None if kind == "sub-pipeline" else InMemoryBackend()

    result = Flujo(_nested(kind, levels), hooks=[_hear], state_backend=store).run("x")

    assert result.status == "completed", result.step_history[0].feedback


@pytest.mark.parametrize("kind", SINGLE)
def test_deeper_nesting_is_refused_before_a_run(kind: str) -> None:
    """However deep it is: the error says how deep, where, and what is allowed, and nothing was run."""
    agent = StubAgent(["never"])
    flujo = Flujo(Step("first", agent) >> _nested(kind, 1_000))

    with pytest.raises(
        ConfigurationError, match=r"nested \d{4} deep, down to step '\w+'; a run takes at most 80 levels"
    ):
        flujo.run("x")

    assert agent.call_count == 0


@pytest.mark.parametrize("kind", AROUND)
def test_a_pipeline_of_one_step_is_no_level(kind: str) -> None:
    """What a kind makes of a single step costs no depth, so that a level is what a user wrote as one."""
    assert AROUND[kind](plain("inner")).validate_graph().is_valid


def test_walking_needs_no_stack() -> None:
    """A thousand levels are walked, outer steps first and fallbacks last."""
    names = [step.name for step in _nested("branch", 1_000).walk()]

    assert (names[0], names[-1]) == ("branch", "innermost")
    assert [step.name for step in plain("a").fallback(plain("b") >> plain("c")).walk()] == ["a", "pipeline", "b", "c"]


def test_a_deep_workflow_pauses_and_goes_on() -> None:
    """The deepest question is found again."""
    step: AnyStep = Step.human_in_the_loop("ask", "?")
    for _ in range(_MOST - 1):
        step = SINGLE["branch"](step)
    flujo = Flujo(step)

    result: PipelineResult[Any] = flujo.resume(flujo.run("x"), "yes")

    assert result.output == "yes"
