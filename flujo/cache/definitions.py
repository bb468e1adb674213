"""Tells whether a step is still the step that a stored result was made by.

The definition of a step is a digest of all that decides what it gives: the kind of step, its name and settings, its
agent, its validators, plugins, processors and other functions, and those of the steps within it. A function counts by
its name, its code, what it has captured, and the globals it mentions; an object by its class and its attributes;
so a step that is built twice, or in another process, has the same definition, and one that was changed has another.

Agents change as they work: they count their calls, or keep what they were asked. What the code that runs changes
itself therefore counts as it was when it was first seen; what is changed from outside makes another definition.

What cannot be described, such as a connection, counts as itself: nothing but that very object, in this process, has
its definition.
"""

import functools
import inspect
import logging
import sys
import sysconfig
import threading
import uuid
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, TypeGuard

from flujo.cache.code import MUTATORS, CodeFacts, facts_of
from flujo.cache.keys import Digester, joined
from flujo.domain.pipeline import BaseStep
from flujo.exceptions import SerializationError
from flujo.utils.declared_types import name_of
from flujo.utils.narrowing import is_list

_CALLED: tuple[str, ...] = ("run", "stream", "__call__", "validate", "process", "name")
"""Methods that steps call; what they mention is called too."""

_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes)
_CONTAINERS = (list, dict, set, deque, bytearray)
_MOST_PARTS = 20_000
_MOST_REMEMBERED = 4096

_NO_PART = frozenset(
    {
        *("meta", "input_type", "output_type", "is_guarded", "cache_backend", "own_cache", "_call", "_compiled"),
        *("cache", "hooks", "clock", "_cache_backend", "_clock", "_dispatcher", "_hooks", "_manager_parts", "_runs"),
        *("_state_backend", "_is_checked", "_has_step_limits", "_delete_on_completion", "_origin", "pipeline_version"),
    }
)
"""Attributes of flujo's own objects that decide nothing about a result."""

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def definition_of(step: BaseStep[Any, Any]) -> str:
    """Return the definition of a step, 32 hexadecimal digits."""
    try:
        first = _Describer(frozenset(), frozenset())
        found = first.digest(step, "step")
        assigned, changed = first.written()
        if not first.seen.isdisjoint(assigned | changed):
            found = _Describer(assigned, changed).digest(step, "step")
    except (SerializationError, RecursionError):  # it is too large or too deep to be described
        found = _token(step, *(getattr(inner, "agent", None) for inner in step.walk()))
    return found.hex()


class _ByIdentity:
    """Remembers something of objects, the latest ones; the same identity in another object's hands is noticed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._known: OrderedDict[tuple[int, str], tuple[Any, Any]] = OrderedDict()

    def get(self, owner: object, name: str) -> Any:
        with self._lock:
            reference, known = self._known.get((id(owner), name), (None, None))
            if reference is None or _referred(reference) is not owner:
                return None
            self._known.move_to_end((id(owner), name))
            return known

    def set(self, owner: object, name: str, known: object) -> None:
        with self._lock:
            self._known[id(owner), name] = (_reference(owner), known)
            self._known.move_to_end((id(owner), name))
            while len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)


def _reference(owner: object) -> Any:
    try:
        return weakref.ref(owner)
    except TypeError:  # lists and the like are kept
        return (owner,)


def _referred(reference: Any) -> object:
    return reference[0] if isinstance(reference, tuple) else reference()  # pyright: ignore[reportUnknownVariableType]  # of anything


_TOKENS = _ByIdentity()
_FIRST_SEEN = _ByIdentity()
_NAMED: dict[str, Any] = {}  # by the place of what is reached through a global, the first object seen there


def _token(*owners: object) -> bytes:
    """Return digests that are of these very objects, and never of any others."""
    tokens: list[bytes] = []
    for owner in owners:
        token = _TOKENS.get(owner, "")
        if token is None:
            token = uuid.uuid4().bytes
            _TOKENS.set(owner, "", token)
        tokens.append(token)
    return joined("token", tokens)


class _Describer(Digester):
    """Makes the digest of a step and all that it is made of.

    Args:
        assigned: Names that the code which runs assigns to.
        changed: Names whose values it changes in place.
    """

    def __init__(self, assigned: frozenset[str], changed: frozenset[str]) -> None:
        self._assigned, self._changed = assigned, changed
        self.seen: set[str] = set()
        self._done: dict[int, bytes] = {}
        self._open: dict[int, int] = {}
        self._kept: list[object] = []  # so that no identity is taken by another object meanwhile
        self._functions: list[CodeFacts] = []
        self._methods: list[tuple[str, CodeFacts]] = []
        self._global_depth = 0
        self._method: str | None = None

    def written(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the names that the code which runs assigns to, and those whose values it changes in place."""
        reached, names = list(self._functions), set(_CALLED)
        waiting = self._methods
        while True:
            names.update(*(facts.names for facts in reached))
            found = [facts for name, facts in waiting if name in names]
            waiting = [(name, facts) for name, facts in waiting if name not in names]
            if not found:
                break
            reached += found
        return (
            frozenset[str]().union(*(facts.assigned for facts in reached)),
            frozenset[str]().union(*(facts.changed for facts in reached)),
        )

    def digest(self, value: object, place: str, depth: int = 0) -> bytes:
        if isinstance(value, _IMMUTABLE) and type(value) in _IMMUTABLE:
            return super().digest(value, place, depth)
        known = id(value)
        if known in self._done:
            return self._done[known]
        if known in self._open:
            return joined("cycle", [str(len(self._open) - self._open[known]).encode()])
        if len(self._kept) > _MOST_PARTS:
            raise SerializationError(f"{place} is made of too many parts")
        self._kept.append(value)
        self._open[known] = len(self._open)
        parts = self._described(value, place, depth + 1)
        made = super().digest(value, place, depth) if parts is None else joined(type(value).__name__, parts)
        if _is_structured(value):
            made = joined("of", [made, self.digest(type(value), place, depth + 1)])
        del self._open[known]
        self._done[known] = made
        return made

    def field(self, owner: object, name: str, value: object, place: str, depth: int) -> bytes:
        """Return the digest of what an owner has; of what the code changes itself, as it was when first seen."""
        self.seen.add(name)
        if name in self._assigned:
            first = _FIRST_SEEN.get(owner, name)
            if first is None:
                first = self.digest(value, place, depth)
                _FIRST_SEEN.set(owner, name, first)
            return bytes(first)
        if name in self._changed and isinstance(value, _CONTAINERS):
            return self._first_contents(value, place, depth)
        return self.digest(value, place, depth)

    def _first_contents(self, container: Any, place: str, depth: int) -> bytes:
        """Return the digest of what a container held when first seen; a list that lost its beginning is another one."""
        first = _FIRST_SEEN.get(container, "")
        if first is not None:
            count, known = first
            if count is None or self.digest(container[:count], place, depth) == known:
                return bytes(known)
        is_listed = is_list(container)
        made = self.digest(container[:] if is_listed else container, place, depth)
        _FIRST_SEEN.set(container, "", (len(container) if is_listed else None, made))
        return made

    def _described(self, value: Any, place: str, depth: int) -> list[bytes] | None:
        """Return the parts of what is no value: steps, functions, classes, modules."""
        if _is_step(value):
            return self._object(value, _attributes(value), place, depth)
        if isinstance(value, FunctionType):
            return self._function(value, place, depth)
        if isinstance(value, SimpleNamespace):
            return self.fields(value, vars(value), place, depth)
        if isinstance(value, MethodType):
            function = inspect.unwrap(value.__func__)
            if isinstance(function, FunctionType):
                self._note(facts_of(function.__code__))
            return [self.digest(value.__func__, place, depth), self.digest(value.__self__, place, depth)]
        if isinstance(value, functools.partial):
            given: tuple[Any, ...] = (value.func, value.args, value.keywords)  # pyright: ignore[reportUnknownMemberType]  # of any function
            return [self.digest(part, place, depth) for part in given]
        if _is_class(value):
            return self._class(value, place, depth)
        if isinstance(value, ModuleType):
            return [value.__name__.encode()]
        if isinstance(value, logging.Logger):
            return [value.name.encode("utf-8", "surrogatepass")]
        if inspect.isroutine(value):
            return [_routine_name(value).encode(), *self._bound(value, place, depth)]
        if isinstance(value, (property, functools.cached_property, staticmethod, classmethod)):
            inner = [each for each in _functions_in(value) if each is not None]
            return [self.digest(each, place, depth) for each in inner]
        wrapped = inspect.getattr_static(value, "__wrapped__", None) if callable(value) else None
        if isinstance(wrapped, FunctionType):
            return [name_of(_type_of(value)).encode(), self.digest(wrapped, place, depth)]
        return None

    def _bound(self, routine: Any, place: str, depth: int) -> Iterator[bytes]:
        """Yield the digest of what a built-in method is bound to."""
        owner: object = routine.__self__ if isinstance(routine, BuiltinFunctionType) else None
        if type(owner) in _CONTAINERS and routine.__name__ in MUTATORS:
            yield self._first_contents(owner, place, depth)
        elif owner is not None and not isinstance(owner, ModuleType):
            yield self.digest(owner, place, depth)

    def unknown(self, value: object, place: str, depth: int) -> bytes:
        """Return the digest of an object: of its class and attributes, or of that very object."""
        kind = type(value)
        if isinstance(value, BaseException):
            state = {"args": value.args, **vars(value)}
        elif _is_library(kind.__module__, only_standard=True) or not _has_state(kind):
            return self._opaque(value, place)
        else:
            state = _attributes(value)
        return joined("object", self._object(value, state, place, depth))

    def _object(self, value: object, state: Mapping[str, Any], place: str, depth: int) -> list[bytes]:
        if _is_step(value) or type(value).__module__.partition(".")[0] == "flujo":
            state = {name: part for name, part in state.items() if name not in _NO_PART}
        kind = self.digest(_type_of(value), place, depth)
        return [kind, *self.fields(value, state, place, depth)]

    def _opaque(self, value: object, place: str) -> bytes:
        """Return what stands for an object that cannot be described; the first one of a global goes by its name."""
        if self._global_depth and not type(value).__module__.startswith("unittest"):
            known = _NAMED.setdefault(place, _reference(value))
            if _referred(known) is value:
                return joined("named", [place.encode("utf-8", "surrogatepass"), name_of(type(value)).encode()])
        return _token(value)

    def _note(self, facts: CodeFacts) -> None:
        """Note a function that runs, or that runs if a method of that name is called."""
        if self._method is None:
            self._functions.append(facts)
        else:
            self._methods.append((self._method, facts))

    def _function(self, function: FunctionType, place: str, depth: int) -> list[bytes]:
        facts = facts_of(function.__code__)
        self._note(facts)
        parts = [f"{function.__module__}:{function.__qualname__}".encode("utf-8", "surrogatepass"), facts.digest]
        parts += [self.digest(each, place, depth) for each in (function.__defaults__, function.__kwdefaults__)]
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if _is_filled(cell):
                parts.append(self.field(cell, name, cell.cell_contents, f"{place}.{name}", depth))
        if not _is_library(function.__module__):
            parts += self._globals(function.__globals__, facts.names, depth)
        return parts

    def _globals(self, namespace: dict[str, Any], names: Iterable[str], depth: int) -> Iterator[bytes]:
        """Yield the digests of the globals that a function mentions, and of what it mentions of its own modules."""
        self._global_depth += 1
        module = str(namespace.get("__name__"))
        for name in sorted(names):
            if name not in namespace or name.startswith("__"):
                continue
            value = namespace[name]
            yield joined(name, [self.field(namespace, name, value, f"{module}:{name}", depth)])
            if isinstance(value, ModuleType) and not _is_library(value.__name__):
                yield from self._globals(vars(value), names, depth + 1) if depth < 20 else ()
        self._global_depth -= 1

    def _class(self, cls: type, place: str, depth: int) -> list[bytes]:
        parts = [name_of(cls).encode("utf-8", "surrogatepass")]
        for base in cls.__mro__:
            if _is_library(base.__module__, only_standard=True) or base.__module__.startswith("pydantic"):
                continue
            self._methods.extend(_methods_of(base))
            if not _is_library(base.__module__):
                parts += self._members(base, depth)
        return parts

    def _members(self, cls: type, depth: int) -> Iterator[bytes]:
        """Yield the digests of the methods and values of a class."""
        self._global_depth += 1
        outer = self._method
        for name, member in sorted(vars(cls).items()):
            is_code = any(True for _ in _functions_in(member))
            is_inner = isinstance(member, (MemberDescriptorType, GetSetDescriptorType))
            if is_inner or (name.startswith(("__", "_abc_", "model_")) and not is_code):
                continue
            self._method = name if is_code else outer
            yield joined(name, [self.field(cls, name, member, f"{name_of(cls)}.{name}", depth)])
        self._method = outer
        self._global_depth -= 1


def _is_filled(cell: CellType) -> bool:
    """Tell whether a captured variable has a value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _type_of(value: object) -> type[Any]:
    return type(value)


def _is_step(value: object) -> TypeGuard[BaseStep[Any, Any]]:
    return isinstance(value, BaseStep)


def _is_class(value: object) -> TypeGuard[type[Any]]:
    return isinstance(value, type)


def _functions_in(member: Any) -> Iterator[Any]:
    """Yield the functions that a member of a class is made of."""
    match member:
        case FunctionType():
            yield member
        case staticmethod() | classmethod():
            yield member.__func__  # pyright: ignore[reportUnknownMemberType]  # of any function
        case property():
            yield from (member.fget, member.fset)
        case functools.cached_property():
            yield member.func  # pyright: ignore[reportUnknownMemberType]  # of any function
        case _:
            return


@functools.lru_cache(maxsize=1024)
def _methods_of(cls: type) -> list[tuple[str, CodeFacts]]:
    """Return the methods of a class by name; of a property what reads it."""
    found: list[tuple[str, CodeFacts]] = []
    for name, member in vars(cls).items():
        function = next(_functions_in(member), None)
        while isinstance(function, FunctionType):
            found.append((name, facts_of(function.__code__)))
            function = getattr(function, "__wrapped__", None)
    return found


def _is_structured(value: object) -> bool:
    """Tell whether a value has a class with code of its own that its digest does not tell of yet."""
    kind = type(value)
    return hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__pydantic_fields__")


def _routine_name(routine: Any) -> str:
    owner = getattr(routine, "__objclass__", None)
    return f"{getattr(routine, '__module__', None) or getattr(owner, '__module__', '')}:{routine.__qualname__}"


def _has_state(kind: type) -> bool:
    """Tell whether all that an object holds is in attributes: it derives from nothing that is written in C."""
    return all(base is object or base.__dictoffset__ != 0 or "__slots__" in vars(base) for base in kind.__mro__)


def _attributes(value: object) -> dict[str, Any]:
    """Return the attributes of an object, those in slots included."""
    found: dict[str, Any] = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        for name, member in vars(base).items():
            if isinstance(member, MemberDescriptorType) and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


@functools.lru_cache(maxsize=4096)
def _is_library(module: str | None, *, only_standard: bool = False) -> bool:
    """Tell whether a module is installed rather than written here; what is installed counts by its name."""
    top = (module or "builtins").partition(".")[0]
    if top in sys.stdlib_module_names:
        return top != "__main__"
    if only_standard:
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return top == "flujo" or (file is not None and file.startswith(_LIBRARIES))
