"""Writes results as JSON, whatever a user's steps gave: what has no JSON form is written as its `repr`."""

import json
import reprlib
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

from flujo.domain.results import PipelineResult, StepResult
from flujo.utils.narrowing import is_mapping, is_sequence, is_set

_DEEPEST = 100
_NO_JSON = (PydanticSerializationError, ValueError, TypeError, RecursionError)


def output_text(output: Any) -> str:
    """Return a run's output as people read it: a string as it is, anything else as indented JSON."""
    if isinstance(output, str):
        return output
    try:
        return to_json(output, indent=2, fallback=_fallback, inf_nan_mode="null").decode()
    except _NO_JSON:
        return json.dumps(_plain(output), indent=2)


def chunk_text(chunk: Any) -> str:
    """Return a chunk of a stream as it is printed: a string as it is, anything else as a line of JSON."""
    if isinstance(chunk, str):
        return chunk
    try:
        return to_json(chunk, fallback=_fallback, inf_nan_mode="null").decode() + "\n"
    except _NO_JSON:
        return json.dumps(_plain(chunk)) + "\n"


def result_document(result: PipelineResult[Any]) -> str:
    """Return the whole result of a run as one JSON document; nothing in it can make this fail."""
    try:
        return result.model_dump_json(fallback=_fallback)
    except _NO_JSON:
        return json.dumps(_plain(result))


def _fallback(value: Any) -> Any:
    """Return what stands for a value that pydantic does not know."""
    return value.as_dict() if isinstance(value, StepResult) else repr(value)


def _plain(value: Any, around: tuple[int, ...] = ()) -> Any:
    """Return a value as `json` can write it: as pydantic does, and where pydantic refuses, part by part.

    Args:
        value: Anything.
        around: The identities of the values around this one; one within itself is written as its `repr`.
    """
    try:
        return from_json(to_json(value, fallback=_fallback, inf_nan_mode="null"))
    except _NO_JSON:
        return _by_parts(value, around)


def _by_parts(value: Any, around: tuple[int, ...]) -> Any:
    if isinstance(value, str):
        return value  # a lone surrogate, which JSON can escape
    if id(value) in around or len(around) > _DEEPEST:
        return reprlib.repr(value)
    inside = (*around, id(value))
    if isinstance(value, StepResult):
        value = value.as_dict()
    elif isinstance(value, BaseModel):
        value = _fields(value)
    if is_mapping(value):
        return {str(key): _plain(each, inside) for key, each in value.items()}
    if is_sequence(value) or is_set(value):
        return [_plain(each, inside) for each in value]
    return repr(value) if isinstance(value, bytes | bytearray) else reprlib.repr(value)


def _fields(model: BaseModel) -> dict[str, Any]:
    """Return what pydantic writes of a model."""
    declared, computed = type(model).model_fields, type(model).model_computed_fields
    written = {name: value for name, value in model if name not in declared or not declared[name].exclude}
    return {**written, **{name: getattr(model, name) for name in computed}}
