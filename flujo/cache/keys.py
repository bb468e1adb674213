"""Cache keys: a digest of a value in a canonical form.

Equal values of the same types have the same digest, in every process and whatever the hash seed;
dicts and sets are brought in order by the digests of their members.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from pathlib import PurePath
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from flujo.domain.models import PipelineContext
from flujo.domain.results import PipelineResult, StepResult
from flujo.exceptions import SerializationError
from flujo.utils.narrowing import is_dict, is_sequence, is_set

_DEEPEST = 200
_OF_ONE_RUN = frozenset({"run_id", "resume_point", "hitl_history", "latency_s"})
"""What results and contexts hold that differs from run to run, so that no key depends on it."""

_WRITTEN_AS_REPR = (
    type(None),
    bool,
    int,
    float,
    complex,
    bytes,
    Decimal,
    datetime,
    date,
    time,
    timedelta,
    UUID,
    PurePath,
)


def digest(value: Any, place: str = "value") -> str:
    """Return the digest of a value, 32 hexadecimal digits.

    Args:
        value: Built-in values and containers, dates, decimals, paths, UUIDs, enums, dataclasses and pydantic models.
        place: How an error speaks of the value.

    Raises:
        SerializationError: The value holds something without a canonical form; names its type and where it is.
    """
    return _digest(value, place, 0).hex()


def fields_of(model: BaseModel) -> dict[str, Any]:
    """Return the fields of a model by name, extra ones included, however the model iterates over itself."""
    fields = {name: value for name, value in vars(model).items() if name in type(model).model_fields}
    return {**fields, **(model.__pydantic_extra__ or {})}


def _digest(value: object, place: str, depth: int) -> bytes:
    if depth > _DEEPEST:
        raise SerializationError(f"{place[:60]}... is nested more than {_DEEPEST} levels deep")
    kind = type(value)
    made = hashlib.blake2b(f"{kind.__module__}.{kind.__qualname__}:".encode(), digest_size=16)
    for part in _parts(value, place, depth + 1):
        made.update(part)
    return made.digest()


def _parts(value: Any, place: str, depth: int) -> Iterable[bytes]:
    """Return what makes up a value."""
    if isinstance(value, Flag):  # combined flags, and none at all, may have no name
        return (repr(value.value).encode(),)
    if isinstance(value, Enum):
        return (value.name.encode(),)
    if isinstance(value, str):
        return (value.encode("utf-8", "surrogatepass"),)
    if isinstance(value, _WRITTEN_AS_REPR):
        return (repr(value).encode(),)
    if is_sequence(value):
        return [_digest(item, f"{place}[{i}]", depth) for i, item in enumerate(value)]
    if is_set(value):
        return sorted(_digest(item, f"{place} member", depth) for item in value)
    if is_dict(value):
        return _sorted_pairs(value, place, depth)
    if isinstance(value, StepResult):  # of a branch that failed
        return _sorted_pairs(_lasting(value.as_dict()), place, depth)
    if isinstance(value, BaseModel):
        fields = fields_of(value)
        is_of_a_run = isinstance(value, PipelineResult | PipelineContext)
        return _sorted_pairs(_lasting(fields) if is_of_a_run else fields, place, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _sorted_pairs(fields, place, depth)
    raise SerializationError(f"{place} is a {type(value).__qualname__}, which has no canonical form for a cache key")


def _lasting(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in _OF_ONE_RUN}


def _sorted_pairs(pairs: dict[Any, Any], place: str, depth: int) -> list[bytes]:
    return sorted(
        _digest(key, f"{place} key", depth) + _digest(item, f"{place}.{key}", depth) for key, item in pairs.items()
    )
