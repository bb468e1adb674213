"""Writes results as JSON, whatever a user's steps gave: what has no JSON form is written as its `repr`."""

from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from flujo.domain.results import PipelineResult, StepResult

_NO_JSON = (PydanticSerializationError, ValueError, TypeError, RecursionError)


def output_text(output: Any) -> str:
    """Return a run's output as people read it: a string as it is, anything else as indented JSON."""
    if isinstance(output, str):
        return output
    try:
        return to_json(output, indent=2, fallback=repr, inf_nan_mode="null").decode()
    except _NO_JSON:
        return repr(output)


def chunk_text(chunk: Any) -> str:
    """Return a chunk of a stream as it is printed: a string as it is, anything else as a line of JSON."""
    if isinstance(chunk, str):
        return chunk
    try:
        return to_json(chunk, fallback=repr, inf_nan_mode="null").decode() + "\n"
    except _NO_JSON:
        return repr(chunk) + "\n"


def result_document(result: PipelineResult[Any]) -> str:
    """Return the whole result of a run as one JSON document; nothing in it can make this fail."""
    try:
        return result.model_dump_json(fallback=repr)
    except _NO_JSON:
        return _writable(result).model_dump_json(fallback=repr)


def _writable(result: PipelineResult[Any]) -> PipelineResult[Any]:
    """Return a copy of a result with a `repr` in place of every value that has no JSON form."""
    return result.model_copy(
        update={
            "output": _writable_value(result.output),
            "step_history": [_writable_step(each) for each in result.step_history],
            "final_pipeline_context": None,
        }
    )


def _writable_step(result: StepResult) -> StepResult:
    return StepResult(
        result.name,
        _writable_value(result.output),
        status=result.status,
        attempts=result.attempts,
        latency_s=result.latency_s,
        token_counts=result.token_counts,
        cost=result.cost,
        feedback=result.feedback,
        branch_context=_writable_value(result.branch_context),
        metadata_={key: _writable_value(value) for key, value in result.metadata_.items()},
        step_history=[_writable_step(each) for each in result.step_history],
    )


def _writable_value(value: Any) -> Any:
    try:
        to_json(value, fallback=repr)
    except _NO_JSON:
        return repr(value)
    return value
