"""JSON for people and models to read, the same in every process: sets have an order that does not depend on hashes."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeGuard

from pydantic import BaseModel
from pydantic_core import to_json, to_jsonable_python

from flujo.utils.narrowing import is_dict, is_list


def stable_json(value: object, *, fallback: Callable[[Any], Any] | None = None, indent: int | None = None) -> str:
    """Return a value as JSON text, as pydantic writes it but for the order of sets.

    Args:
        value: Any value that pydantic can write.
        fallback: Called with what it cannot.
        indent: Spaces for each level; `None` for one line.

    Raises:
        pydantic_core.PydanticSerializationError: Something in it cannot be written.
    """
    written = to_jsonable_python(value, fallback=fallback)
    return to_json(_in_order(value, written), indent=indent).decode()


def _in_order(value: object, written: Any) -> Any:
    """Return what was written of a value, with its sets in order."""
    if is_list(written):
        if _is_set(value):
            return sorted(written, key=to_json)
        if isinstance(value, (list, tuple)) and len(value) == len(written):  # pyright: ignore[reportUnknownArgumentType]  # of any items
            return [_in_order(item, of_item) for item, of_item in zip(value, written, strict=True)]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # of any items
    elif is_dict(written):
        if is_dict(value) and len(value) == len(written):
            items = zip(value.values(), written.items(), strict=True)
            return {name: _in_order(item, of_item) for item, (name, of_item) in items}
        if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
            return {name: _in_order(getattr(value, name, None), of_field) for name, of_field in written.items()}
    return written


def _is_set(value: object) -> TypeGuard[set[Any] | frozenset[Any]]:
    return isinstance(value, (set, frozenset))
