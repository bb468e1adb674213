"""Results add up, compare by value, are written as JSON, and are shown in one line."""

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from flujo import (
    BranchFailureStrategy,
    Flujo,
    PipelineContext,
    PipelineResult,
    Step,
    StepResult,
    TraceNode,
    Waiting,
)
from flujo.domain.money import ZERO
from flujo.domain.results import total_usage


class Draft(BaseModel):
    text: str


@dataclass
class Bill:
    output: str
    cost_usd: float
    token_counts: int


def _nested() -> StepResult:
    leaf = StepResult("leaf", Draft(text="a"), cost_usd=0.1, token_counts=3, latency_s=0.5)
    failed = StepResult("other", success=False, feedback="no answer", cost_usd=0.2)
    return StepResult(
        "all", {"leaf": 1, "other": failed}, cost_usd=0.3, attempts=2, metadata_={"k": 1}, step_history=[leaf, failed]
    )


def test_a_result_has_defaults() -> None:
    """A result made of a name alone is that of a step that did its work at once and for free."""
    result = StepResult("a")

    assert (result.output, result.success, result.status, result.attempts) == (None, True, "completed", 1)
    assert (result.cost, result.cost_usd, result.token_counts, result.latency_s) == (ZERO, 0.0, 0, 0.0)
    assert (result.feedback, result.branch_context, result.metadata_, result.step_history) == (None, None, {}, [])


@pytest.mark.parametrize(
    ("given", "status", "success"),
    [
        ({}, "completed", True),
        ({"success": False}, "failed", False),
        ({"status": "paused"}, "paused", False),
        ({"status": "stopped", "success": True}, "stopped", False),
    ],
)
def test_success_follows_from_the_status(given: dict[str, Any], status: str, success: bool) -> None:  # noqa: FBT001
    """A step succeeded if it completed, and `status` goes before `success`."""
    result = StepResult("a", **given)

    assert (result.status, result.success) == (status, success)


def test_what_is_rarely_used_can_be_changed() -> None:
    """Metadata and history are the result's own, from the first time they are asked for."""
    one, other = StepResult("a"), StepResult("a")

    one.metadata_["k"] = 1
    one.step_history.append(StepResult("b"))

    assert (one.metadata_, len(one.step_history)) == ({"k": 1}, 1)
    assert (other.metadata_, other.step_history) == ({}, [])


def test_costs_are_exact() -> None:
    """A cost given as a float is the decimal it prints as."""
    result = StepResult("a", cost_usd=0.1)

    assert result.cost == Decimal("0.1")
    assert result.cost_usd == 0.1


def test_results_with_equal_fields_are_equal() -> None:
    """Results compare by value, children included, however they were made."""
    result = _nested()

    assert result == _nested()
    assert StepResult("a") == StepResult("a", metadata_={}, step_history=[])
    assert StepResult("a") != StepResult("b")
    assert StepResult("a", cost_usd=0.1) != StepResult("a")
    assert StepResult("a") != "a"


def test_a_result_that_may_change_has_no_hash() -> None:
    """As any value that may be changed, a result is no key."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(StepResult("a"))


def _pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("again", [copy.deepcopy, _pickled])
def test_a_run_survives_being_copied(again: Callable[[Any], Any]) -> None:
    """A copy of a whole run is equal to it and shares nothing with it."""
    run = _paid_run()

    copied = again(run)
    assert copied == run

    copied.step_history[0].metadata_["k"] = 1
    assert copied != run


def _ask(data: str) -> Bill:
    return Bill(data.upper(), 0.1, 5)


def _fail(data: str) -> str:
    raise ValueError(f"no answer to {data}")


def _paid_run() -> PipelineResult[Any]:
    branches: dict[str, Any] = {"good": Step("ask", _ask), "bad": Step("fail", _fail, max_retries=0)}
    step = Step.parallel("both", branches, on_branch_failure=BranchFailureStrategy.IGNORE)
    return Flujo(step).run("text", run_id="run-1")


def test_a_run_is_written_as_json() -> None:
    """The JSON of a run has the whole history, money exact and as a float, and results within outputs."""
    written = json.loads(_paid_run().model_dump_json())

    assert written["run_id"] == "run-1"
    assert (written["status"], written["success"]) == ("completed", True)
    assert (written["total_cost"], written["total_cost_usd"], written["total_tokens"]) == ("0.1", 0.1, 5)
    assert written["final_pipeline_context"]["initial_prompt"] == "text"
    (both,) = written["step_history"]
    assert [child["name"] for child in both["step_history"]] == ["ask", "fail"]
    assert written["output"]["good"] == "TEXT"
    assert written["output"]["bad"]["status"] == "failed"
    assert "no answer to text" in written["output"]["bad"]["feedback"]


def test_a_result_is_dumped_with_its_children() -> None:
    """A model that holds results dumps them to plain values, at every depth."""
    (dumped,) = PipelineResult(step_history=[_nested()]).model_dump()["step_history"]

    assert dumped["cost"] == Decimal("0.3")
    assert dumped["output"]["other"]["feedback"] == "no answer"
    assert [child["output"] for child in dumped["step_history"]] == [{"text": "a"}, None]


def test_a_context_of_a_subclass_is_written_whole() -> None:
    """The final context is written with the fields of its own class."""

    class Notes(PipelineContext):
        words: int = 3

    result: PipelineResult[Any] = PipelineResult(final_pipeline_context=Notes(initial_prompt="text"))

    assert json.loads(result.model_dump_json())["final_pipeline_context"]["words"] == 3


def test_what_resumes_a_run_is_not_written() -> None:
    """JSON is for reading: a pause is there with its path and message, not what a runner needs to go on."""
    paused = Flujo(Step.human_in_the_loop("ask", "Go on?", input_schema=bool)).run("text")

    written = json.loads(paused.model_dump_json())

    assert written["waiting"] == [{"path": ["0"], "step_name": "ask", "message": "Go on?"}]
    assert "resume_point" not in written


@pytest.mark.parametrize("given", [{"status": "odd"}, {"unknown": 1}, {"step_history": ["a"]}])
def test_a_wrong_run_is_refused(given: dict[str, Any]) -> None:
    """A run is made of known fields that fit."""
    with pytest.raises(ValidationError):
        PipelineResult(**given)


class Endless:
    """Whatever shows it in full fails."""

    def __repr__(self) -> str:
        raise AssertionError("shown in full")


_SHOWN: list[tuple[object, str]] = [
    (StepResult("a\nb", Endless()), r"StepResult('a\nb', completed, attempts=1)"),
    (
        StepResult("a", success=False, attempts=3, cost_usd=0.05, feedback="too long\n" * 1000),
        "StepResult('a', failed, attempts=3, cost=$0.05, feedback=",
    ),
    (
        PipelineResult(run_id="r", output=Endless(), step_history=[StepResult("a", Endless())] * 1000),
        "PipelineResult(completed, steps=1000, run_id='r')",
    ),
    (
        PipelineResult(run_id="r", status="stopped", total_cost=Decimal("0.50")),
        "PipelineResult(stopped, steps=0, cost=$0.5, run_id='r')",
    ),
    (
        PipelineResult(step_history=[StepResult("a")] * 1000, total_cost=Decimal(1)).trace_tree,
        "TraceNode('run', completed, children=1000, cost=$1)",
    ),
    (TraceNode.of(StepResult("a", success=False)), "TraceNode('a', failed, children=0)"),
]


@pytest.mark.parametrize(("value", "start"), _SHOWN)
def test_a_result_is_shown_in_one_short_line(value: object, start: str) -> None:
    """However large a result is, its repr is one short line, and its outputs are not looked at."""
    shown = repr(value)

    assert shown.startswith(start)
    assert "\n" not in shown
    assert len(shown) < 120
    assert str(value) == shown


def test_the_trace_is_the_tree_of_the_history() -> None:
    """The trace has a node for every result, with what it took and cost, and no outputs."""
    nested = _nested()
    run: PipelineResult[Any] = PipelineResult(
        step_history=[nested, StepResult("end", latency_s=2.0)], total_cost=Decimal("0.3"), total_tokens=3
    )

    tree = run.trace_tree

    assert (tree.name, tree.status, tree.cost, tree.token_counts) == ("run", "completed", Decimal("0.3"), 3)
    assert tree.latency_s == 2.0
    assert [node.name for node in tree.children] == ["all", "end"]
    assert [(node.name, node.status, node.cost) for node in tree.children[0].children] == [
        ("leaf", "completed", Decimal("0.1")),
        ("other", "failed", Decimal("0.2")),
    ]
    assert (tree.children[0].attempts, tree.children[0].children[0].latency_s) == (2, 0.5)


def test_usage_adds_up_exactly() -> None:
    """The usage of results is the exact sum of their own, children being included in their parents."""
    assert total_usage([StepResult("a", cost_usd=0.1, token_counts=2)] * 10) == (Decimal(1), 20)
    assert total_usage([_nested()]) == (Decimal("0.3"), 0)
    assert total_usage([]) == (ZERO, 0)


def test_a_waiting_step_is_a_value() -> None:
    """What waits is compared by value and cannot be changed."""
    waiting = Waiting(path=("0",), step_name="ask", message="Go on?", input_schema=bool)

    assert waiting == Waiting(path=("0",), step_name="ask", message="Go on?", input_schema=bool)
    with pytest.raises(ValidationError, match="frozen"):
        waiting.message = "Stop?"
