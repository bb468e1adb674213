"""Whether values of a declared type can be stored at all, told before the first of them is paid for.

The answer is no only where it is sure: a class that JSON does not have, that flujo does not know, that is not made of
fields and that nobody has registered. What may be anything, such as a protocol or an abstract class, counts as
storable, and so does a union if one of its members is.
"""

import inspect
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

from typing_extensions import is_protocol, is_typeddict

from flujo.utils.declared_types import fields_of, is_structured, subclasses_of
from flujo.utils.standard_types import STANDARD_TYPES
from flujo.utils.type_registry import REGISTRY

_WRITTEN = frozenset({bool, dict, float, frozenset, int, list, set, str, tuple, NoneType, object, *STANDARD_TYPES})


def unstorable_class(declared: Any) -> type | None:
    """Return a class because of which no value of a declared type can be stored; `None` if there may be one."""
    return _find(declared, [])


def _find(declared: Any, around: list[Any]) -> type | None:
    """Return the class; what is `around` is being looked into already."""
    origin: Any = get_origin(declared)
    arguments: tuple[Any, ...] = get_args(declared)
    if origin is Annotated:
        return _find(arguments[0], around)
    if isinstance(declared, NewType):
        return _find(declared.__supertype__, around)
    if type(declared).__name__ == "TypeAliasType":  # another class in typing and in typing_extensions
        return _first([declared.__value__], declared, around)
    if origin in (Union, UnionType):
        found = [_find(member, around) for member in arguments]
        return found[0] if all(each is not None for each in found) else None
    cls = declared if origin is None else origin
    if origin is Literal or not isinstance(cls, type):
        return None
    return _find_in_class(cls, around) or _first(arguments if origin is not None else (), declared, around)


def _first(parts: Iterable[Any], whole: Any, around: list[Any]) -> type | None:
    """Return the first class among the parts of a type, which may contain itself."""
    if any(each is whole for each in around):
        return None
    around = [*around, whole]
    return next((found for part in parts if (found := _find(part, around)) is not None), None)


def _find_in_class(cls: type[Any], around: list[Any]) -> type | None:
    if cls in _WRITTEN or Any in cls.__mro__ or _is_registered(cls):
        return None
    if cls.__module__.startswith("pydantic."):  # values of its types are of other classes
        return None
    if is_typeddict(cls) or is_structured(cls):
        return _first(fields_of(cls), cls, around)
    if is_protocol(cls) or inspect.isabstract(cls) or any(map(_may_be_stored, subclasses_of([cls]))):
        return None
    return cls


def _may_be_stored(cls: type[Any]) -> bool:
    return cls in _WRITTEN or _is_registered(cls)


def _is_registered(cls: type[Any]) -> bool:
    return REGISTRY.serializer_for(cls) is not None and REGISTRY.deserializer_for(cls) is not None
