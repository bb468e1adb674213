"""Which classes a program has declared, so that values of them may be read back.

Whoever writes `list[Draft]` as an annotation has declared `Draft`, the classes that its fields declare, and so on,
and the subclasses of all of them that the program defines. A class is found by its name among these and nowhere else:
nothing is imported, and a name that is not declared is only a name.
"""

import dataclasses
import itertools
import typing
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Annotated, Any, Literal, NewType, TypeGuard, TypeVar, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import is_typeddict

from flujo.utils.narrowing import is_list

_FOUNDATIONS = ("builtins", "enum", "pydantic", "typing", "abc", "collections")
"""Modules whose classes everything derives from, so that naming one of them declares nothing."""


def name_of(cls: type) -> str:
    """Return the name by which a class is found, such as `shop.models:Order`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def is_structured(cls: type[Any]) -> bool:
    """Tell whether values of a class are made of fields or members that can be written one by one."""
    return issubclass(cls, BaseModel | Enum) or dataclasses.is_dataclass(cls) or is_named_tuple(cls)


def is_named_tuple(cls: type[Any]) -> TypeGuard[type[tuple[Any, ...]]]:
    """Tell whether a class was made by `typing.NamedTuple` or `collections.namedtuple`."""
    return tuple in cls.__mro__ and "_fields" in cls.__dict__


class DeclaredTypes:
    """The classes that some annotations declare.

    Args:
        annotations: Types, such as those of a step's input and output.
    """

    def __init__(self, annotations: Iterable[Any] = ()) -> None:
        self._classes: dict[str, type] = {}
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # so that no identity in `_seen` is taken by another type
        for annotation in annotations:
            self.add(annotation)

    def add(self, annotation: Any) -> None:
        """Declare the classes of an annotation."""
        waiting = [annotation]
        while waiting:
            current = waiting.pop()
            if id(current) in self._seen:
                continue
            self._seen.add(id(current))
            self._kept.append(current)
            if isinstance(current, type) and get_origin(current) is None and _declares(current):
                self._classes[name_of(current)] = current
            waiting.extend(_parts_of(current))

    def __contains__(self, cls: type) -> bool:
        """Tell whether a class, or one it derives from, is declared."""
        name = name_of(cls)
        known = self._classes.get(name)
        if known is None and any(self._classes.get(name_of(base)) is base for base in cls.__mro__[1:]):
            self.add(cls)
            return True
        return known is cls

    def find(self, name: str) -> type | None:
        """Return the declared class of that name, or `None`."""
        if name not in self._classes:
            declared = list(self._classes.values())
            found = find_class(name, [*declared, *subclasses_of(declared)])
            if found is None:
                return None
            self.add(found)
            return found
        return self._classes[name]


def find_class(name: str, candidates: Iterable[type]) -> type | None:
    """Return the class of a name among some.

    A file is `__main__` when it is run and has another name when it is imported, and modules move;
    so a class of another module will do if it is the only one that is called so.
    """
    called_so: dict[int, type] = {}
    for cls in candidates:
        if name_of(cls) == name:
            return cls
        if cls.__qualname__ == name.partition(":")[2]:
            called_so[id(cls)] = cls
    return next(iter(called_so.values())) if len(called_so) == 1 else None


def _is_class(value: object) -> TypeGuard[type[Any]]:
    return isinstance(value, type)


def _declares(cls: type) -> bool:
    return is_structured(cls) and cls.__module__.partition(".")[0] not in _FOUNDATIONS


def subclasses_of(classes: Iterable[type]) -> Iterator[type]:
    """Yield all classes that derive from some, nearer ones first; those that the program has defined so far."""
    for cls in classes:
        found: list[type] = type.__subclasses__(cls)
        yield from found
        yield from subclasses_of(found)


def _parts_of(annotation: Any) -> Iterable[Any]:
    """Return the types that a type is made of."""
    if isinstance(annotation, NewType):
        return [annotation.__supertype__]
    if isinstance(annotation, TypeVar):
        bound = annotation.__bound__
        return annotation.__constraints__ if bound is None else (bound,)
    if type(annotation).__name__ == "TypeAliasType":  # another class in typing and in typing_extensions
        return [annotation.__value__]
    origin: Any = get_origin(annotation)
    arguments: tuple[Any, ...] = get_args(annotation)
    if origin is Literal:
        return [type(value) for value in arguments]
    if origin is Annotated:
        return arguments[:1]
    if origin is not None:
        return [origin, *itertools.chain.from_iterable(map(_listed, arguments))]
    if _is_class(annotation) and (_declares(annotation) or is_typeddict(annotation)):
        return fields_of(annotation)
    return ()


def _listed(argument: Any) -> list[Any]:
    """Return the types of one argument; the parameters of a callable are one that is a list."""
    return argument if is_list(argument) else [argument]


def fields_of(cls: type) -> Iterable[Any]:
    """Return the declared types of the fields of a model, dataclass, named tuple or TypedDict."""
    if issubclass(cls, BaseModel):
        return [
            *(field.annotation for field in cls.model_fields.values()),
            *cls.__pydantic_generic_metadata__["args"],
        ]
    return () if issubclass(cls, Enum) else _hints_of(cls)


def _hints_of(annotated: Any) -> Iterable[Any]:
    try:
        return typing.get_type_hints(annotated).values()
    except (NameError, TypeError, AttributeError, SyntaxError):  # what cannot be evaluated here declares nothing
        return ()
