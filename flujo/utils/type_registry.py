"""The types that the program has registered, with how their values are written and read.

The registry is replaced as a whole at every change, so that reading it needs no lock.
"""

import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from flujo.domain.results import StepResult
from flujo.exceptions import ConfigurationError
from flujo.utils.declared_types import find_class, subclasses_of

_OF_JSON = (bool, dict, float, int, list, str, type(None))

Serializer = Callable[[Any], Any]
Deserializer = Callable[..., Any]


@dataclass(slots=True, frozen=True)
class _Entry:
    """How values of a type are read.

    Attributes:
        function: Takes what the serializer gave, and the class if `takes_class`.
        takes_class: Whether it serves subclasses too.
    """

    function: Deserializer
    takes_class: bool


class TypeRegistry:
    """Registered serializers and deserializers.

    Args:
        own: Types that are registered from the beginning and stay so: a serializer and a deserializer for each.
    """

    def __init__(self, own: Mapping[type, tuple[Serializer, Deserializer]]) -> None:
        self._lock = threading.Lock()
        self._own = own
        self._serializers: dict[type, Serializer] = {}
        self._deserializers: dict[type, _Entry] = {}
        self.clear()

    def add_serializer(self, cls: type, function: Serializer) -> None:
        """Register how values of a type are written; the newest registration counts."""
        _check(cls, function)
        with self._lock:
            self._serializers = {**self._serializers, cls: function}

    def add_deserializer(self, cls: type, function: Deserializer) -> None:
        """Register how values of a type are read; the newest registration counts."""
        _check(cls, function)
        entry = _Entry(function, _takes_class(function))
        with self._lock:
            self._deserializers = {**self._deserializers, cls: entry}

    def clear(self) -> None:
        """Forget everything that is registered."""
        with self._lock:
            self._serializers = {cls: write for cls, (write, _) in self._own.items()}
            self._deserializers = {cls: _Entry(read, _takes_class(read)) for cls, (_, read) in self._own.items()}

    def serializer_for(self, cls: type) -> Serializer | None:
        """Return what writes values of exactly this class, or of a base whose deserializer serves subclasses."""
        for base in cls.__mro__:
            function = self._serializers.get(base)
            if function is not None and (base is cls or self._serves_subclasses(base)):
                return function
        return None

    def deserializer_for(self, cls: type) -> Callable[[Any], Any] | None:
        """Return what reads values of a class."""
        for base in cls.__mro__:
            entry = self._deserializers.get(base)
            if entry is not None and (base is cls or entry.takes_class):
                return partial(_call_with_class, entry.function, cls) if entry.takes_class else entry.function
        return None

    def deserializer_named(self, name: str) -> Callable[[Any], Any] | None:
        """Return what reads values of the class of this name."""
        generous = [cls for cls, entry in self._deserializers.items() if entry.takes_class]
        cls = find_class(name, [*self._deserializers, *subclasses_of(generous)])
        return None if cls is None else self.deserializer_for(cls)

    def _serves_subclasses(self, cls: type) -> bool:
        entry = self._deserializers.get(cls)
        return entry is not None and entry.takes_class


def _call_with_class(function: Deserializer, cls: type, value: Any) -> Any:
    return function(value, cls)


def _check(cls: object, function: object) -> None:
    if not isinstance(cls, type):
        raise ConfigurationError(f"{cls!r} is no class; register the class of the values, such as type(value)")
    if cls in _OF_JSON:
        raise ConfigurationError(f"{cls.__name__} is a type that JSON has; it is always written as it is")
    if not callable(function):
        raise ConfigurationError(f"what is registered for {cls.__qualname__} cannot be called: {function!r}")


def _takes_class(function: Deserializer) -> bool:
    """Tell whether a deserializer can be called with a second argument, the class."""
    if isinstance(function, type):
        return False
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


_ALWAYS = ("name", "output", "status", "attempts")


def _step_result_parts(result: StepResult) -> dict[str, Any]:
    """Return what a result has to say: most have no cost, no feedback and no children."""
    parts = result.as_dict()
    for derived in ("success", "cost_usd"):
        del parts[derived]
    return {name: value for name, value in parts.items() if name in _ALWAYS or value}


def _step_result(parts: dict[str, Any]) -> StepResult:
    return StepResult(**parts)


REGISTRY = TypeRegistry({StepResult: (_step_result_parts, _step_result)})
"""What `register_custom_serializer` and `register_custom_deserializer` fill."""
