"""Whether a value of one declared type may be handed to what declares another.

The answer is no only where a mismatch is sure, and a form of type that is not understood fits everything.
Types are compared as the static checkers compare them, apart from three leniencies: containers are covariant,
protocols, callables, awaitables and files are not looked into, and `object` may turn out to be anything.
"""

import logging
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Container,
    Coroutine,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    MutableSequence,
    MutableSet,
    Reversible,
    Sequence,
)
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from io import IOBase
from types import NoneType, UnionType
from typing import IO, Annotated, Any, ForwardRef, Literal, NewType, NotRequired, Required, Union, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import ReadOnly, Unpack, is_protocol, is_typeddict

_logger = logging.getLogger(__name__)

_WRAPPERS = (Annotated, Required, NotRequired, ReadOnly)
_OPAQUE = (Callable, Awaitable, Coroutine, Hashable)
_FILES = (IO, IOBase)

_ALSO_TAKEN: dict[type, tuple[type, ...]] = {float: (int,), complex: (int, float)}
"""The numbers that are welcome where another kind of number is declared, as in the typing specification."""

_OF_ITEMS: frozenset[Any] = frozenset(
    {
        *(Iterable, Iterator, Collection, Container, Reversible, Sequence, MutableSequence),
        *(AbstractSet, MutableSet, list, set, frozenset, deque),
    }
)
"""Classes whose one parameter is what iterating gives."""

_ITEMS: dict[type, type] = {str: str, bytes: int, bytearray: int, memoryview: int, range: int}
"""What iterating gives, for classes without parameters."""

_STANDARD_MODULES = frozenset({"builtins", "collections", "collections.abc"})


@dataclass(slots=True, frozen=True)
class _Form:
    """A type taken apart: `list[int]` is the class `list` with the argument `int`."""

    cls: type[Any]
    arguments: tuple[Any, ...] = ()

    @property
    def is_standard(self) -> bool:
        """Whether the arguments mean what they mean for the standard containers."""
        return self.cls.__module__ in _STANDARD_MODULES


def fits(produced: Any, consumed: Any) -> bool:
    """Tell whether a value that is declared as `produced` may be handed to what declares `consumed`.

    Every member of a produced union must fit, as for a static checker: `int | None` does not fit `int`.
    """
    try:
        return _fits(produced, consumed)
    except Exception as error:  # classes run code of the user's when asked, and aliases may be recursive
        _logger.debug("%r counts as fitting %r: %s", produced, consumed, error)
        return True


def accepts(consumed: Any, value: object) -> bool:
    """Tell whether this value may be handed to what declares `consumed`.

    Of a container only the class is checked, not its items. It never raises.
    """
    try:
        return _accepts(consumed, value)
    except Exception as error:  # classes run code of the user's when asked
        _logger.debug("%r counts as accepting a %s: %s", consumed, type(value).__name__, error)
        return True


def members(t: Any) -> Sequence[Any]:
    """Return the types that a declared type stands for: those of a union, or the type itself, aliases resolved."""
    t = _unwrapped(t)
    return [t] if (inner := _members(t)) is None else [each for member in inner for each in members(member)]


def type_name(t: Any) -> str:
    """Return a type as people write it, without modules: `list[Draft]`, `int | None`."""
    if isinstance(t, list):  # the parameters of a callable
        return f"[{_names(t)}]"  # pyright: ignore[reportUnknownArgumentType]  # of any types
    origin, arguments = get_origin(t), get_args(t)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(map(type_name, arguments))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is None and isinstance(t, type):
        origin, arguments = _generic_model(t)
    name = _bare_name(t if origin is None else origin)
    return f"{name}[{_names(arguments)}]" if arguments else name


def _names(arguments: Iterable[Any]) -> str:
    return ", ".join(map(type_name, arguments))


def _bare_name(t: Any) -> str:
    if t is None or t is NoneType:
        return "None"
    match t:
        case str(name) | ForwardRef(__forward_arg__=name) | object(__name__=str(name)):
            return name
        case _:
            return "..." if t is ... else repr(t)


def _fits(produced: Any, consumed: Any) -> bool:
    produced, consumed = _unwrapped(produced), _unwrapped(consumed)
    if produced is consumed or consumed in (Any, object) or produced in (Any, object):
        return True
    if (members := _members(produced)) is not None:
        return all(_fits(member, consumed) for member in members)
    if get_origin(consumed) in (Union, UnionType):
        return any(_fits(produced, member) for member in get_args(consumed))
    if get_origin(produced) is Literal or get_origin(consumed) is Literal:
        return _literal_fits(produced, consumed)
    if is_typeddict(model := get_origin(consumed) or consumed):
        return _fits_typed_dict(produced, model)
    given, taken = _produced_form(produced), _form(consumed)
    if given is None or taken is None:
        return True
    return _is_kind_of(given.cls, taken.cls) and _arguments_fit(given, taken)


def _unwrapped(t: Any) -> Any:
    """Return a type without what is around it: annotations, the name of an alias or of a new type."""
    origin = get_origin(t)
    if t is None:
        return NoneType
    if origin in _WRAPPERS:
        return _unwrapped(get_args(t)[0])
    if isinstance(t, NewType):
        return _unwrapped(t.__supertype__)
    for alias in (t, origin):
        # The class is another one in typing and in typing_extensions.
        if type(alias).__name__ == "TypeAliasType":
            return _unwrapped(alias.__value__)
    return t


def _members(t: Any) -> Sequence[Any] | None:
    """Return the types that a union or a literal of several values stands for, `None` for a single type."""
    origin, arguments = get_origin(t), get_args(t)
    if origin in (Union, UnionType):
        return arguments
    if origin is Literal and len(arguments) > 1:
        return [Literal[value] for value in arguments]
    return None


def _literal_fits(produced: Any, consumed: Any) -> bool:
    """Compare where one side is a literal, or both; a type fits a literal if it is the type of a value."""
    if get_origin(consumed) is not Literal:
        (value,) = get_args(produced)
        return _fits(type(value), consumed)
    values = get_args(consumed)
    if get_origin(produced) is Literal:
        (value,) = get_args(produced)
        return (type(value), value) in [(type(each), each) for each in values]
    return any(_fits(produced, type(value)) for value in values)


def _fits_typed_dict(produced: Any, model: Any) -> bool:
    """Compare with a TypedDict: another one needs its required keys, and any other mapping fits."""
    other = get_origin(produced) or produced
    if is_typeddict(other):
        held: frozenset[str] = other.__required_keys__ | other.__optional_keys__
        return held.issuperset(model.__required_keys__)
    given = _produced_form(produced)
    return given is None or issubclass(given.cls, Mapping)


def _form(t: Any) -> _Form | None:
    """Return the class and the arguments of a type, `None` if it is not understood."""
    origin, arguments = get_origin(t), get_args(t)
    if origin is None and isinstance(t, type):
        origin, arguments = _generic_model(t)
        origin = origin or t
    if not isinstance(origin, type) or origin in _OPAQUE or is_protocol(origin) or _is_something_else(origin):
        return None
    return _Form(origin, arguments)


def _is_something_else(cls: type[Any]) -> bool:
    """Tell whether type checkers see another class: one of any type, a file, or an annotated type of pydantic."""
    if cls.__module__.startswith("pydantic.") and not issubclass(cls, BaseModel):
        return True
    return _is_anything(cls) or issubclass(cls, _FILES)


def _is_anything(cls: type[Any]) -> bool:
    """Tell whether type checkers let its objects pass everywhere, as those of mocks."""
    return Any in cls.__mro__ or cls.__module__ == "unittest.mock"


def _produced_form(t: Any) -> _Form | None:
    """Return the form of what is given: of a TypedDict that of a dict, of `type[X]` that of X's metaclass."""
    if is_typeddict(get_origin(t) or t):
        return _Form(dict, (str, object))
    form = _form(t)
    if form is not None and form.cls is type:
        classes = [each for each in form.arguments if isinstance(each, type)]
        return _Form(type(classes[0]) if classes else type, form.arguments)
    return form


def _generic_model(cls: type) -> tuple[type | None, tuple[Any, ...]]:
    """Return the origin and the arguments of a parametrised pydantic model, which is a class of its own."""
    if not issubclass(cls, BaseModel):
        return None, ()
    metadata = cls.__pydantic_generic_metadata__
    return metadata["origin"], metadata["args"]


def _is_kind_of(given: type, taken: type) -> bool:
    return issubclass(given, (taken, *_ALSO_TAKEN.get(taken, ())))


def _arguments_fit(given: _Form, taken: _Form) -> bool:
    """Compare the arguments of two forms of which one class is a kind of the other."""
    ours, theirs = given.arguments, taken.arguments
    if not theirs:
        return True
    if taken.cls is type:
        return not ours or _fits(ours[0], theirs[0])
    if taken.cls in _OF_ITEMS:
        return all(_fits(item, theirs[0]) for item in _items(given))
    if (given.cls, taken.cls) == (tuple, tuple):
        return _tuple_fits(ours, theirs)
    if len(ours) != len(theirs):
        return True
    if given.is_standard and issubclass(taken.cls, Mapping):
        return all(map(_fits, ours, theirs))
    # Which way the parameters of a class vary is not asked, so that one of both directions has to do.
    return given.cls is not taken.cls or all(
        _fits(our, their) or _fits(their, our) for our, their in zip(ours, theirs, strict=True)
    )


def _items(form: _Form) -> Sequence[Any]:
    """Return the types that iterating gives, none if that is not known."""
    if form.cls is tuple:
        return [] if _is_unpacking(form.arguments) else [each for each in form.arguments if each is not ...]
    for cls, item in _ITEMS.items():
        if issubclass(form.cls, cls):
            return [item]
    if form.is_standard and (form.cls in _OF_ITEMS or issubclass(form.cls, Mapping)):
        return form.arguments[:1]
    return []


def _tuple_fits(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Compare element by element; a tuple of any length may have the right one."""
    if not ours or _is_unpacking(ours) or _is_unpacking(theirs):
        return True
    if theirs[-1] is ...:
        return all(_fits(our, theirs[0]) for our in ours if our is not ...)
    if ours[-1] is ...:
        return all(_fits(ours[0], their) for their in theirs)
    return len(ours) == len(theirs) and all(map(_fits, ours, theirs))


def _is_unpacking(arguments: Iterable[Any]) -> bool:
    """Tell whether a tuple's arguments contain another tuple's, as in `tuple[int, *tuple[str, ...]]`."""
    for argument in arguments:
        match argument:
            case object(__unpacked__=True):
                return True
            case _ if get_origin(argument) is Unpack:
                return True
            case _:
                continue
    return False


def _accepts(consumed: Any, value: object) -> bool:
    consumed = _unwrapped(consumed)
    origin = get_origin(consumed)
    if consumed in (Any, object) or _is_anything(type(value)):
        return True
    if origin in (Union, UnionType):
        return any(_accepts(member, value) for member in get_args(consumed))
    if origin is Literal:
        return value in get_args(consumed)
    if is_typeddict(origin or consumed):
        return isinstance(value, Mapping)
    form = _form(consumed)
    return form is None or isinstance(value, (form.cls, *_ALSO_TAKEN.get(form.cls, ())))
