"""Results as JSON, whatever a user's steps gave."""

import json
import math
from typing import Any

import pytest

from flujo import Flujo, PipelineResult, Step, StepResult
from flujo.cli.json_output import chunk_text, output_text, result_document

CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


class Unknown:
    def __repr__(self) -> str:
        return "<unknown>"


@pytest.mark.parametrize(
    ("output", "written"),
    [
        ("text", "text"),
        (1, 1),
        (None, None),
        ([1, {"a": (2, 3)}], [1, {"a": [2, 3]}]),
        (Unknown(), "<unknown>"),
        ({"a": Unknown()}, {"a": "<unknown>"}),
        (math.nan, None),
        ("\udc80", "\udc80"),
        ({"key \udc80": ["\udc80", Unknown(), 1]}, {"key \udc80": ["\udc80", "<unknown>", 1]}),
        (b"\xff", "b'\\xff'"),
        ([b"plain", b"\xff"], ["plain", "b'\\xff'"]),
    ],
    ids=repr,
)
def test_a_result_keeps_what_json_can_hold(output: Any, written: Any) -> None:
    """Each value is written as JSON as far as it goes, and as its `repr` beyond; the rest of the result stays."""

    def give(text: str) -> Any:
        return output

    document = json.loads(result_document(Flujo(Step("give", give)).run("x")))

    assert document["output"] == written
    assert document["step_history"][0]["output"] == written
    assert document["step_history"][0]["status"] == "completed"
    assert document["final_pipeline_context"]["initial_prompt"] == "x"
    assert document["success"] is True
    assert "resume_point" not in document


def test_a_value_within_itself_is_written_to_some_depth() -> None:
    """A list that contains itself ends in its `repr`."""
    document = json.loads(result_document(PipelineResult[Any](output=CIRCLE)))

    (inner,) = document["output"]
    assert inner.startswith("[[")


def test_a_step_result_in_an_output_is_written_with_its_fields() -> None:
    """The failed branch that an output holds says why it failed."""
    failed = StepResult("branch", success=False, feedback="no model")

    document = json.loads(result_document(PipelineResult[Any](output={"a": failed})))

    assert document["output"]["a"]["feedback"] == "no model"


@pytest.mark.parametrize(
    ("output", "text"),
    [("a\nb", "a\nb"), ([1], "[\n  1\n]"), (["\udc80"], '[\n  "\\udc80"\n]'), (None, "null")],
)
def test_an_output_is_text_or_indented_json(output: Any, text: str) -> None:
    """People get a string as it is, and anything else as JSON that they can read."""
    assert output_text(output) == text


@pytest.mark.parametrize(("chunk", "text"), [("a", "a"), ({"a": 1}, '{"a":1}\n'), (["\udc80"], '["\\udc80"]\n')])
def test_a_chunk_is_text_or_a_line_of_json(chunk: Any, text: str) -> None:
    """A stream of anything but strings is one JSON document a line."""
    assert chunk_text(chunk) == text
