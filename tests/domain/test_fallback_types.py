"""The types of a fallback are checked like those of the step it stands in for."""

from typing import Any

import pytest

from flujo import Flujo, Pipeline, Step, TypeMismatchError
from flujo.domain.pipeline import BaseStep


def _of_int(number: int) -> int:
    return number


def _of_text(text: str) -> int:
    return len(text)


def _of_either(either: int | str) -> int:
    return int(either)


def _to_text(number: int) -> str:
    return str(number)


def _of_anything(value: Any) -> Any:
    return value


def _step(function: Any, name: str = "") -> Step[Any, Any]:
    return Step(name or function.__name__, function)


_WRONG = [
    pytest.param(
        _step(_of_int, "a").fallback(_step(_of_text, "b")),
        "step 'a' takes int, but its fallback, step 'b', takes str",
        id="input",
    ),
    pytest.param(
        Step.loop_until("loop", _step(_of_int, "a").fallback(_step(_of_text, "b")), lambda _o, _c: True),
        "step 'a' takes int, but its fallback, step 'b', takes str",
        id="input, inside of a loop",
    ),
    pytest.param(
        _step(_of_int, "a").fallback(_step(_of_int, "b").fallback(_step(_of_text, "c"))),
        "step 'b' takes int, but its fallback, step 'c', takes str",
        id="fallback of a fallback",
    ),
    pytest.param(
        _step(_of_int, "a").fallback(_step(_to_text, "b")) >> _step(_of_int, "c"),
        "step 'b' gives str, but step 'c' takes int",
        id="output",
    ),
    pytest.param(
        Step.loop_until("loop", _step(_of_int, "a").fallback(_step(_to_text, "b")), lambda _o, _c: True),
        "the body of loop 'loop' (step 'a') gives int | str, but its next iteration (step 'a') takes int",
        id="output, to the next iteration",
    ),
    pytest.param(
        (_step(_of_int, "x") >> _step(_of_int, "a").fallback(_step(_to_text, "b"))).use_input("k") >> _step(_of_int),
        "step 'pipeline' gives int | str, but step '_of_int' takes int",
        id="output of a pipeline",
    ),
]


@pytest.mark.parametrize(("workflow", "complaint"), _WRONG)
def test_a_fallback_that_cannot_stand_in_is_refused_before_the_run(
    workflow: BaseStep[Any, Any], complaint: str
) -> None:
    """What would show only once the step has failed, in production and paid for, is found before its first call."""
    with pytest.raises(TypeMismatchError) as raised:
        Flujo(workflow).run({"k": 1})

    assert str(raised.value) == complaint
    assert raised.value.result is None


@pytest.mark.parametrize(
    "workflow",
    [
        _step(_of_int, "a").fallback(_step(_of_either, "b")),
        _step(_of_either, "a").fallback(_step(_of_int, "b")),
        _step(_of_int, "a").fallback(_step(_of_anything, "b")) >> _step(_of_int, "c"),
        _step(_of_anything, "a").fallback(_step(_of_text, "b")),
        _step(_of_int, "a").fallback(_step(_of_text, "b").use_input("text")),
    ],
    ids=["takes more", "takes less", "undeclared", "of an undeclared one", "works on a key"],
)
def test_a_fallback_that_may_stand_in_passes(workflow: BaseStep[Any, Any]) -> None:
    """Only a sure mismatch is an error."""
    assert workflow.validate_graph().is_valid


def test_the_input_of_a_run_has_to_fit_the_fallback_of_its_first_step() -> None:
    """It would be handed to it when the step fails."""
    first = _step(_of_either, "a").fallback(_step(_of_int, "b"))

    assert Flujo(first).run(1).output == 1
    with pytest.raises(TypeMismatchError, match="the run's input is str, but step 'b' takes int"):
        Flujo(first).run("1")


def test_a_pipeline_gives_what_its_last_step_or_the_fallback_of_it_gives() -> None:
    """Its declared output is the union of both."""
    pipeline: Pipeline[Any, Any] = Pipeline(steps=[_step(_of_int, "a").fallback(_step(_to_text, "b"))])

    assert pipeline.output_type == int | str
