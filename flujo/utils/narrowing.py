"""`isinstance` for values of the user's, whose containers hold anything.

A type checker that narrows a value by `isinstance(value, dict)` does not know what the dict holds and complains at
every use of it; these say that it holds `Any`.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any, TypeGuard

from pydantic import BaseModel


def is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    """Tell whether a value is a dict."""
    return isinstance(value, dict)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Tell whether a value is a mapping."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Tell whether a value is a list."""
    return isinstance(value, list)


def is_sequence(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Tell whether a value is a list or a tuple."""
    return isinstance(value, list | tuple)


def is_set(value: object) -> TypeGuard[Set[Any]]:
    """Tell whether a value is a set or a frozenset."""
    return isinstance(value, set | frozenset)


def is_items(value: object) -> TypeGuard[Iterable[Any]]:
    """Tell whether a value is made of items: iterable, but neither text, bytes, a mapping nor a plain model."""
    if isinstance(value, BaseModel) and type(value).__iter__ is BaseModel.__iter__:
        return False  # it gives pairs of fields and values, which nobody means
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
