"""Copies of contexts and values that share nothing which can change.

Copies are structural: containers and models are rebuilt and immutable values are shared, without validation and,
for the usual types, without `copy.deepcopy`, because ten thousand branches mean ten thousand copies.
A memo from identities to copies, the same that `copy.deepcopy` keeps, makes cycles end and shared parts stay shared.
"""

import copy
import logging
import re
from collections.abc import Callable, Collection
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flujo.utils.sameness import COMPARED_BY_EQ

_logger = logging.getLogger(__name__)

ContextT = TypeVar("ContextT", bound=BaseModel)
ValueT = TypeVar("ValueT")

_Memo = dict[int, Any]

_IMMUTABLE: frozenset[type] = COMPARED_BY_EQ | {
    *(float, complex, Decimal, Fraction, range, frozenset, re.Pattern),
    *(datetime, date, time, timedelta, timezone),
    *(PosixPath, PurePosixPath, WindowsPath, PureWindowsPath),
}
"""Types whose values every copy shares; what is in a set or a key of a dict counts as immutable too."""

_CARRIED = ("run_id", "initial_prompt")  # a branch works for the same run, whatever else it gets

set_slot = object.__setattr__
"""Reaches the slots of a model past its validation, frozen or not."""


def copy_context(context: ContextT, *, include: Collection[str] | None = None) -> ContextT:
    """Return an independent copy of a context, for a branch.

    What cannot be copied, such as a client or a lock, is shared; so are the elements of sets and the keys of dicts.
    Parts that are shared within the context are shared within the copy.

    Args:
        context: Any pydantic model; private attributes are copied as well.
        include: The fields to copy; the others have their defaults.
            Required fields, `run_id` and `initial_prompt` are copied in any case. `None` for all fields.
    """
    if include is None:
        return _copy_model(context, {})
    return _copy_included(context, include)


def copy_value(value: ValueT) -> ValueT:
    """Return an independent copy of a value, by the rules of `copy_context`."""
    return _copy(value, {})


def _copy(value: ValueT, memo: _Memo) -> ValueT:
    copier = _COPIERS.get(type(value), _copy_other)
    return value if copier is None else copier(value, memo)


# A copier is given a value that is not immutable, and a memo to look it up in.
# The loops below are `_copy` written out, which halves the time that a context takes.


def _copy_dict(values: dict[Any, object], memo: _Memo) -> dict[Any, Any]:
    known: dict[Any, Any] | None = memo.get(id(values))
    if known is not None:
        return known
    copied: dict[Any, Any] = {}
    memo[id(values)] = copied
    for key, value in values.items():
        copier = _COPIERS.get(type(value), _copy_other)
        copied[key] = value if copier is None else copier(value, memo)
    return copied


def _copy_list(values: list[object], memo: _Memo) -> list[Any]:
    known: list[Any] | None = memo.get(id(values))
    if known is not None:
        return known
    copied: list[Any] = []
    memo[id(values)] = copied
    for value in values:
        copier = _COPIERS.get(type(value), _copy_other)
        copied.append(value if copier is None else copier(value, memo))
    return copied


def _copy_set(values: set[Any], memo: _Memo) -> set[Any]:
    known: set[Any] | None = memo.get(id(values))
    if known is None:
        known = memo[id(values)] = values.copy()
    return known


def _copy_tuple(values: tuple[Any, ...], memo: _Memo) -> tuple[Any, ...]:
    known: tuple[Any, ...] | None = memo.get(id(values))
    if known is not None:
        return known
    copied = tuple([_copy(value, memo) for value in values])
    if all(new is old for new, old in zip(copied, values, strict=True)):
        copied = values
    # A tuple that contains itself through a list was copied on the way, and that copy is the one in use.
    return memo.setdefault(id(values), copied)  # type: ignore[no-any-return]  # the memo has no type for it


def _copy_other(value: ValueT, memo: _Memo) -> ValueT:
    known: ValueT | None = memo.get(id(value))
    if known is not None:
        return known
    if isinstance(value, BaseModel) and type(value).__deepcopy__ is BaseModel.__deepcopy__:
        return _copy_model(value, memo)
    return _copy_object(value, memo)


_Copier = Callable[[Any, _Memo], Any]

_COPIERS: dict[type, _Copier | None] = {
    **dict.fromkeys(_IMMUTABLE),
    dict: _copy_dict,
    list: _copy_list,
    set: _copy_set,
    tuple: _copy_tuple,
}
"""How each exact type is copied; `None` for the immutable ones."""


def _copy_model(model: ContextT, memo: _Memo) -> ContextT:
    cls = type(model)
    copied = cls.__new__(cls)
    memo[id(model)] = copied
    values: dict[str, object] = vars(model).copy()
    for name, value in values.items():
        if (copier := _COPIERS.get(type(value), _copy_other)) is not None:
            values[name] = copier(value, memo)
    extra, private = model.__pydantic_extra__, model.__pydantic_private__
    set_slot(copied, "__dict__", values)
    set_slot(copied, "__pydantic_fields_set__", model.__pydantic_fields_set__.copy())
    set_slot(copied, "__pydantic_extra__", extra if extra is None else _copy_dict(extra, memo))
    set_slot(copied, "__pydantic_private__", private if private is None else _copy_dict(private, memo))
    return copied


def _copy_object(value: ValueT, memo: _Memo) -> ValueT:
    """Return a deep copy, or the object itself where there can be none."""
    known = len(memo)
    try:
        return copy.deepcopy(value, memo)
    except RecursionError:
        raise  # it could be copied, and sharing it would let branches write to each other
    except Exception as error:  # copying runs code of the user's; a lock or a socket has no copy
        _logger.debug("branches share a %s: %s", type(value).__name__, error)
        while len(memo) > known:  # half-made copies, in the order they were begun
            memo.popitem()
        memo[id(value)] = value
        return value


def _copy_included(context: ContextT, include: Collection[str]) -> ContextT:
    """Return a copy with the defaults of the fields that are not included."""
    held, memo = vars(context), _Memo()
    values: dict[str, Any] = {}
    kept = {*include, *_CARRIED}
    for name, make_default in _default_makers(type(context)).items():
        if make_default is not None and name not in kept:
            values[name] = make_default(values)
        elif name in held:
            kept.add(name)
            values[name] = _copy(held[name], memo)
    extra, private = context.__pydantic_extra__, context.__pydantic_private__
    if extra is not None:
        extra = {name: _copy(value, memo) for name, value in extra.items() if name in kept}
    if private is not None:
        private = _copy_dict(private, memo)
    return make_model(type(context), values, context.__pydantic_fields_set__ & kept, extra, private)


@lru_cache
def _default_makers(
    cls: type[BaseModel],
) -> dict[str, Callable[[dict[str, Any]], Any] | None]:
    """Return by field what makes its default of the fields before it; `None` for a required field."""
    return {name: None if field.is_required() else _default_maker(field) for name, field in cls.model_fields.items()}


def _default_maker(field: FieldInfo) -> Callable[[dict[str, Any]], Any]:
    factory: Any = field.default_factory
    if factory is None:
        return lambda values: copy_value(field.default)
    return factory if field.default_factory_takes_validated_data else lambda values: factory()


def make_model(
    cls: type[ContextT],
    values: dict[str, Any],
    fields_set: set[str],
    extra: dict[str, Any] | None,
    private: dict[str, Any] | None,
) -> ContextT:
    """Return a model of these parts, without validation."""
    made = cls.__new__(cls)
    set_slot(made, "__dict__", values)
    set_slot(made, "__pydantic_fields_set__", fields_set)
    set_slot(made, "__pydantic_extra__", extra)
    set_slot(made, "__pydantic_private__", private)
    return made
