"""Cache keys: a digest of a value in a canonical form.

Equal values of the same types have the same digest, in every process and whatever the hash seed;
dicts and sets are brought in order by the digests of their members.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
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
from flujo.utils.standard_types import STANDARD_TYPES
from flujo.utils.type_registry import REGISTRY

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
)


def digest(value: Any, place: str = "value") -> str:
    """Return the digest of a value, 32 hexadecimal digits.

    Args:
        value: What `flujo.utils.serialization` can write: built-in values and containers, dates, decimals, paths and
            the like, enums, named tuples, dataclasses, pydantic models, and registered types.
        place: How an error speaks of the value.

    Raises:
        SerializationError: The value holds something without a canonical form; names its type and where it is.
    """
    return Digester().digest(value, place).hex()


def fields_of(model: BaseModel) -> dict[str, Any]:
    """Return the fields of a model by name, extra ones included, however the model iterates over itself."""
    fields = {name: value for name, value in vars(model).items() if name in type(model).model_fields}
    return {**fields, **(model.__pydantic_extra__ or {})}


def joined(kind: str, parts: Iterable[bytes]) -> bytes:
    """Return the digest of parts that are digests or the whole text of something, for what is of one kind."""
    made = hashlib.blake2b(f"{kind}:".encode("utf-8", "surrogatepass"), digest_size=16)
    for part in parts:
        made.update(part)
    return made.digest()


class Digester:
    """Makes digests; a subclass says what to do with values that have no canonical form of their own."""

    def digest(self, value: object, place: str, depth: int = 0) -> bytes:
        """Return the digest of a value.

        Raises:
            SerializationError: It is nested too deep, or holds something without a canonical form.
        """
        if depth > _DEEPEST:
            raise SerializationError(f"{place[:60]}... is nested more than {_DEEPEST} levels deep")
        parts = self.parts(value, place, depth + 1)
        return self.unknown(value, place, depth) if parts is None else joined(_kind(value), parts)

    def unknown(self, value: object, place: str, depth: int) -> bytes:
        """Return the digest of a value without canonical form; there is none."""
        name = type(value).__qualname__
        raise SerializationError(
            f"{place} is a {name}, which has no canonical form for a cache key; "
            f"call register_custom_serializer({name}, ...)"
        )

    def field(self, owner: object, name: str, value: object, place: str, depth: int) -> bytes:
        """Return the digest of what `owner` has under a name."""
        return self.digest(value, place, depth)

    def parts(self, value: Any, place: str, depth: int) -> Iterable[bytes] | None:
        """Return what makes up a value, or `None` if it has no canonical form."""
        kind = _type_of(value)
        if isinstance(value, Flag):  # combined flags, and none at all, may have no name
            return (repr(value.value).encode(),)
        if isinstance(value, Enum):
            return (value.name.encode("utf-8", "surrogatepass"),)
        if isinstance(value, StepResult):  # of a branch that failed
            return self.pairs(_lasting(value.as_dict()), place, depth)
        serializer = REGISTRY.serializer_for(kind)
        if serializer is not None:
            return (self.digest(_serialized(serializer, value, place), place, depth),)
        if isinstance(value, str):
            return (value.encode("utf-8", "surrogatepass"),)
        if isinstance(value, PurePath):
            return (str(value).encode("utf-8", "surrogatepass"),)
        if isinstance(value, _WRITTEN_AS_REPR):
            return (repr(value).encode(),)
        if is_sequence(value):
            return [self.digest(item, f"{place}[{i}]", depth) for i, item in enumerate(value)]
        if is_set(value):
            return sorted(self.digest(item, f"{place} member", depth) for item in value)
        if is_dict(value):
            return self.pairs(value, place, depth)
        if isinstance(value, BaseModel):
            return self._model(value, place, depth)
        if dataclasses.is_dataclass(kind):
            fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
            return self.fields(value, fields, place, depth)
        standard = STANDARD_TYPES.get(kind)
        return None if standard is None else (self.digest(standard.parts_of(value), place, depth),)

    def pairs(self, pairs: Mapping[Any, Any], place: str, depth: int) -> list[bytes]:
        """Return the digests of keys and values, in the order of the digests."""
        return sorted(
            self.digest(key, f"{place} key", depth) + self.digest(item, f"{place}.{key}", depth)
            for key, item in pairs.items()
        )

    def fields(self, owner: object, fields: Mapping[str, Any], place: str, depth: int) -> list[bytes]:
        """Return the digests of what a value has, by name."""
        return sorted(
            self.digest(name, place, depth) + self.field(owner, name, value, f"{place}.{name}", depth)
            for name, value in fields.items()
        )

    def _model(self, model: BaseModel, place: str, depth: int) -> list[bytes]:
        fields = fields_of(model)
        is_of_a_run = isinstance(model, PipelineResult | PipelineContext)
        written = self.fields(model, _lasting(fields) if is_of_a_run else fields, place, depth)
        private = model.__pydantic_private__
        return [*written, b"private", *self.fields(model, private, place, depth)] if private else written


def _type_of(value: object) -> type[Any]:
    return type(value)


def _kind(value: object) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _serialized(serializer: Any, value: object, place: str) -> Any:
    try:
        return serializer(value)
    except Exception as error:  # it is code of the user's
        raise SerializationError(
            f"{place} is a {type(value).__qualname__}, whose serializer failed: {type(error).__name__}: {error}"
        ) from error


def _lasting(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in _OF_ONE_RUN}
