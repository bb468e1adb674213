"""A frame says where execution stands; its children inherit what they are not given."""

from typing import Any

import pytest

from flujo import ExecutionFrame, PipelineContext, Step, StepResult
from flujo.application.core.frame import Halt, RunControl, RunScope
from flujo.application.core.state_manager import StateManager
from flujo.application.core.usage_governor import UsageGovernor
from flujo.testing import ManualClock


def _new_context(data: Any, inherited: Any) -> PipelineContext:
    return PipelineContext(initial_prompt=str(data))


def _frame(step: Step[str, str]) -> ExecutionFrame[PipelineContext]:
    context, control = PipelineContext(initial_prompt="go"), RunControl()
    scope = RunScope("run", context, control, StateManager(), _new_context, ManualClock())
    governor = UsageGovernor(None, label="the run", on_breach=control.stop)
    return ExecutionFrame(step, "go", context, scope, governor, ("2",), _take)


async def _take(chunk: Any) -> None: ...


@pytest.fixture
def step() -> Step[str, str]:
    """A step that is never run."""
    return Step.from_callable(str.upper, name="up")


def test_a_child_inherits_context_scope_and_governor(step: Step[str, str]) -> None:
    """Only the step, its input and its part of the path are new; chunks go on only if they are given on."""
    frame = _frame(step)

    child = frame.child(step, "data", at="branch:x")

    assert (child.data, child.path) == ("data", ("2", "branch:x"))
    assert child.context is frame.context
    assert child.scope is frame.scope
    assert child.usage is frame.usage
    assert child.on_chunk is None
    assert child.history is None


def test_a_child_may_have_its_own_context_governor_and_chunks(step: Step[str, str]) -> None:
    """What is given replaces what would be inherited, and the parent stays as it was."""
    frame = _frame(step)
    context, usage = PipelineContext(initial_prompt="own"), frame.usage.for_branches()

    child = frame.child(step, "data", at="0", context=context, usage=usage, on_chunk=frame.on_chunk)

    assert (child.context, child.usage, child.on_chunk) == (context, usage, _take)
    assert frame.context is not context
    assert frame.usage is not usage


def test_a_checkpoint_is_found_once_and_only_by_its_kind(step: Step[str, str]) -> None:
    """What a frame saves is left for the next run; a resumed run takes it once, at the same path."""
    frame = _frame(step)
    frame.save(17)
    left = frame.scope.journal.left
    resumed = _frame(step)
    resumed.scope.journal.found.update(left)

    assert left == {("2",): 17}
    assert frame.checkpoint(int) is None
    assert resumed.child(step, "x", at="0").checkpoint(int) is None
    assert resumed.checkpoint(str) is None
    assert resumed.checkpoint(int) == 17
    assert resumed.checkpoint(int) is None


def test_a_breach_is_the_stronger_reason_to_halt(step: Step[str, str]) -> None:
    """A run that was aborted is stopped by a later breach, which it has to report, and not the other way round."""
    aborted, stopped = RunControl(), RunControl()

    aborted.abort("a hook")
    aborted.stop("a limit")
    stopped.stop("a limit")
    stopped.abort("a hook")

    assert aborted.halt == Halt("stopped", "a limit")
    assert stopped.halt == Halt("stopped", "a limit")


def test_a_refused_step_has_a_result_that_says_why(step: Step[str, str]) -> None:
    """It was never started: no attempts, no cost."""
    refused = Halt("stopped", "the run passed its limit").refuse(step)

    assert isinstance(refused, StepResult)
    assert (refused.status, refused.attempts, refused.cost_usd) == ("stopped", 0, 0.0)
    assert refused.feedback == "not started: the run passed its limit"
