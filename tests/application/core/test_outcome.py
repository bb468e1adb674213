"""What a composite says about itself: feedback, costs and output of its children."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from flujo import ExecutionFrame, ExecutorCore, Flujo, Step, StepResult
from flujo.application.core.outcome import blame, describe_error, pipeline_result
from flujo.domain.pipeline import BaseStep
from tests.steps.workflows import CENT, Notes, assert_adds_up, failing, paid


class _UnprintableError(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")


def _refusal(kind: type[BaseModel], values: Any) -> ValidationError:
    with pytest.raises(ValidationError) as raised:
        kind.model_validate(values)
    return raised.value


class _Order(BaseModel):
    number: int
    items: list[int]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("two\n  lines\r\n"), "ValueError: two lines"),
        (_UnprintableError(), "_UnprintableError: its message cannot be shown (LookupError)"),
        (
            _refusal(_Order, {"number": "one", "items": [1, None]}),
            "ValidationError: _Order.number: Input should be a valid integer, unable to parse string as an integer; "
            "_Order.items.1: Input should be a valid integer",
        ),
        (
            _refusal(_Order, "text"),
            "ValidationError: _Order: Input should be a valid dictionary or instance of _Order",
        ),
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (ExceptionGroup("many", [ValueError("a"), TypeError("b")]), "ValueError: a; TypeError: b"),
        (ExceptionGroup("many", [ExceptionGroup("few", [ValueError("a")]), OSError()]), "ValueError: a; OSError"),
    ],
)
def test_an_error_is_told_by_type_and_message(error: BaseException, text: str) -> None:
    """It is one line; a group is told by what it holds, and a refusal of pydantic by what does not fit."""
    assert describe_error(error) == text


def test_blame_names_the_child_but_leaves_a_question_alone() -> None:
    """A failure has the child's name before it; what a waiting step asks is passed on as it is."""
    assert blame(StepResult("a", success=False, feedback="why")) == "step 'a': why"
    assert blame(StepResult("a", status="paused", feedback="Go on?")) == "Go on?"


def test_failures_are_told_from_the_inside_out() -> None:
    """The feedback of a deep failure names every step on the way."""
    deep = Step.branch_on("route", lambda data, context: 1, {1: paid("first") >> failing("deep")})

    result = Flujo(Step.loop_until("loop", deep, lambda output, context: True)).run("x")

    assert result.step_history[0].feedback == "step 'route': step 'pipeline': step 'deep': PaidError: no luck"


@pytest.mark.parametrize("status", ["completed", "failed", "stopped", "aborted", "paused"])
def test_only_a_completed_run_has_an_output(status: Any) -> None:
    """The costs are the sums of the steps, whatever the end."""
    history = [StepResult("a", "A", cost=CENT, token_counts=3), StepResult("b", "B", cost=CENT, token_counts=4)]

    result = pipeline_result("id", status, "out", history, Notes(initial_prompt=""), [], "point")

    assert result.output == ("out" if status == "completed" else None)
    assert (result.total_cost, result.total_tokens) == (2 * CENT, 7)
    assert (result.resume_point is not None) == (status == "paused")
    assert result.step_history == history
    assert result.step_history is not history


class Twice(BaseStep[Any, Any]):
    """A kind of step of a user's own: runs its inner step twice, then trips."""

    def __init__(self, name: str, inner: BaseStep[Any, Any]) -> None:
        super().__init__(name)
        self.inner = inner

    def children(self) -> Any:
        return (("inner", self.inner),)


@ExecutorCore.handles(Twice)
async def _handle_twice_step(core: ExecutorCore, step: Twice, frame: ExecutionFrame[Any]) -> StepResult:
    frame.history = []
    for turn in (1, 2):
        frame.attempts = turn
        frame.history.append(await core.execute(frame.child(step.inner, frame.data, at=str(turn))))
    raise LookupError("tripped")


def test_a_handler_that_raises_keeps_its_history() -> None:
    """What the children of a failed kind of step cost is counted, and its attempts are told."""
    result = Flujo(Twice("twice", paid("inner"))).run("x")
    (step,) = result.step_history

    assert (step.status, step.feedback, step.attempts) == ("failed", "LookupError: tripped", 2)
    assert result.total_cost == 2 * CENT
    assert_adds_up(result)
