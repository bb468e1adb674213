"""Values as JSON and back, for the types that flujo knows and for those that a program registers.

State backends, journals and caches write every value in this form, and get back values that are equal and of the
same types. Known are the values of Python that have a meaning outside of a process (text, numbers, bytes, dates,
decimals, UUIDs, paths, patterns, addresses, and containers of them with any keys), enums, and pydantic models,
dataclasses and named tuples of them. A type that flujo does not know is registered once:

```python
from flujo.utils.serialization import register_custom_deserializer, register_custom_serializer
from flujo.utils.serialization import safe_deserialize, safe_serialize

class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

register_custom_serializer(Celsius, lambda celsius: celsius.degrees)
register_custom_deserializer(Celsius, Celsius)

read_back = safe_deserialize(safe_serialize({"boiling": Celsius(100)}))
assert type(read_back["boiling"]) is Celsius and read_back["boiling"].degrees == 100
```
"""

from collections.abc import Callable
from typing import Any, TypeVar, overload

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from flujo.exceptions import SerializationError
from flujo.utils.codec import Codec
from flujo.utils.declared_types import DeclaredTypes
from flujo.utils.type_registry import REGISTRY

T = TypeVar("T")

_WRITER = Codec()


def register_custom_serializer(type: type[T], to_jsonable: Callable[[T], Any]) -> None:
    """Say how values of a type are written.

    Args:
        type: Values of exactly this class; of subclasses too if the deserializer takes the class.
        to_jsonable: Takes a value; returns anything that flujo can write.

    Raises:
        ConfigurationError: It is no class, or one that JSON has itself.
    """
    REGISTRY.add_serializer(type, to_jsonable)


@overload
def register_custom_deserializer(type: type[T], from_jsonable: Callable[[Any], T]) -> None: ...
@overload
def register_custom_deserializer(type: type[T], from_jsonable: Callable[[Any, type[T]], T]) -> None: ...
def register_custom_deserializer(type: type[T], from_jsonable: Callable[..., T]) -> None:
    """Say how values of a type are read.

    Args:
        type: Values of exactly this class, or of its subclasses too.
        from_jsonable: Takes what `to_jsonable` returned. A function that takes the class as a second argument is
            called with the class the value had, and serves subclasses.

    Raises:
        ConfigurationError: It is no class, or one that JSON has itself.
    """
    REGISTRY.add_deserializer(type, from_jsonable)


def reset_custom_serializer_registry() -> None:
    """Forget everything that is registered; for tests."""
    REGISTRY.clear()


def safe_serialize(obj: object) -> Any:
    """Return a value as JSON has it: text, numbers, booleans, `None`, lists, and dicts with text as keys.

    Models, dataclasses, named tuples and enums need no registration; whoever reads them has to declare their type.

    Raises:
        SerializationError: Something in the value is of an unknown type; names the type, its place, and what to call.
    """
    return _WRITER.encode(obj)


def serialize_to_json(obj: object) -> str:
    """Return a value as JSON text; raises what `safe_serialize` does."""
    return _WRITER.dumps(obj)


@overload
def safe_deserialize(data: Any) -> Any: ...
@overload
def safe_deserialize(data: Any, type: type[T]) -> T: ...
@overload
def safe_deserialize(data: Any, type: Any) -> Any: ...
def safe_deserialize(data: Any, type: Any = None) -> Any:
    """Return the value that `safe_serialize` gave `data` for.

    Args:
        data: What `safe_serialize` returned.
        type: The declared type of the value, such as `list[Draft]`; the classes it names may be read.
            What was not written by flujo, such as plain JSON for a model, is validated against it.

    Raises:
        SerializationError: It holds a class that is neither registered nor declared, or does not fit the type.
    """
    if type is None:
        return Codec(DeclaredTypes()).decode(data)
    value = Codec(DeclaredTypes([type])).decode(data)
    try:
        validated = _adapter(type).validate_python(value)
    except ValidationError as error:
        reasons = "; ".join(
            ".".join(map(str, problem["loc"])) + (": " if problem["loc"] else "") + problem["msg"]
            for problem in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise SerializationError(f"the value does not fit its type: {reasons}") from error
    return value if validated == value else validated  # an integer where a float is declared stays one


def _adapter(declared: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(declared)
    except PydanticSchemaGenerationError:  # a registered type, which pydantic does not know
        return TypeAdapter(declared, config=ConfigDict(arbitrary_types_allowed=True))
