"""Tells whether two values cannot be told apart, which is stricter than `==`."""

import copyreg
import logging
from collections.abc import Callable, Collection, Sequence
from enum import Enum
from types import BuiltinFunctionType, EllipsisType, FunctionType, NoneType
from typing import Any
from uuid import UUID

from pydantic import BaseModel

_logger = logging.getLogger(__name__)

COMPARED_BY_EQ: frozenset[type] = frozenset(
    {NoneType, EllipsisType, bool, int, str, bytes, UUID, type, FunctionType, BuiltinFunctionType}
)
"""Immutable types of which two equal values cannot be told apart."""

_MISSING: Any = object()


def same_value(a: object, b: object) -> bool:
    """Tell whether two values cannot be told apart, which is stricter than `==`.

    Types count at every depth, so `True`, `1` and `1.0` all differ, as do `0.0` and `-0.0`; NaN is the same as NaN.
    The order of a dict's keys does not count, and of models only the fields do.
    Any other object is the same as one that is made of the same parts, those that `copy.deepcopy` would make it of;
    an object that cannot be taken apart is asked by `==`, and differs if that fails or gives no bool.
    """
    return a is b or _same(a, b, {})


_Seen = dict[tuple[int, int], tuple[object, object]]
"""The pairs whose comparison has begun, which ends cycles: the first difference ends everything anyway.

The values are kept, so that no other object gets their identity meanwhile.
"""


def _same(a: object, b: object, seen: _Seen) -> bool:
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b):
        return False
    if kind in COMPARED_BY_EQ:
        return bool(a == b)
    if kind is float:
        return repr(a) == repr(b)
    comparer = _COMPARERS.get(kind)
    if comparer is not None and not a:
        return not b
    pair = (id(a), id(b))
    if pair in seen:
        return True
    seen[pair] = (a, b)
    if comparer is not None:
        return comparer(a, b, seen)
    if isinstance(a, BaseModel) and isinstance(b, BaseModel):
        return _same_model(a, b, seen)
    return _same_object(a, b, seen)


def _same_items(a: Sequence[object], b: Sequence[object], seen: _Seen) -> bool:
    return len(a) == len(b) and all(_same(x, y, seen) for x, y in zip(a, b, strict=True))


def _same_keys(a: Collection[object], b: Collection[object], seen: _Seen) -> bool:
    others = {key: key for key in b}
    return len(a) == len(others) and all(key in others and _same(key, others[key], seen) for key in a)


def _same_dict(a: dict[Any, Any], b: dict[Any, Any], seen: _Seen) -> bool:
    return _same_keys(a, b, seen) and all(_same(value, b[key], seen) for key, value in a.items())


def _same_model(a: BaseModel, b: BaseModel, seen: _Seen) -> bool:
    ours, theirs = vars(a), vars(b)
    return all(
        _same(ours.get(name, _MISSING), theirs.get(name, _MISSING), seen) for name in type(a).model_fields
    ) and _same(a.__pydantic_extra__, b.__pydantic_extra__, seen)


def _same_object(a: Any, b: Any, seen: _Seen) -> bool:
    if isinstance(a, Enum | type):
        return False
    if issubclass(type(a), set | frozenset):
        return _same_keys(a, b, seen)
    parts, other_parts = _parts_of(a), _parts_of(b)
    if parts is None or other_parts is None:
        return _equal(a, b)
    return _same_items(parts, other_parts, seen)


_COMPARERS: dict[type, Callable[[Any, Any, _Seen], bool]] = {
    dict: _same_dict,
    list: _same_items,
    tuple: _same_items,
    set: _same_keys,
    frozenset: _same_keys,
}


def _parts_of(value: object) -> list[object] | None:
    """Return what `copy.deepcopy` would make an object of, or `None` if it makes none.

    Source: `object.__reduce__` in the pickle protocol: a function, its arguments, a state, list items, dict items.
    """
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        recipe: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
    except Exception as error:  # this runs code of the user's, and not every object can be taken apart
        _logger.debug("a %s is compared by ==: %s", type(value).__name__, error)
        return None
    if isinstance(recipe, str):
        return None
    state, items, pairs, setter = [*recipe[2:], None, None, None, None][:4]
    return [recipe[0], recipe[1], state, list(items or ()), dict(pairs or ()), setter]


def _equal(a: Any, b: Any) -> bool:
    try:
        return (a == b) is True
    except Exception as error:  # == is code of the user's
        _logger.debug("two values of %s count as different: %s", type(a).__name__, error)
        return False
