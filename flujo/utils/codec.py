"""Writes values as JSON and reads them back, equal and of the same type, or refuses loudly.

JSON's own values are written as they are: text, numbers, booleans, `None`, lists, and dicts whose keys are text.
Any other value is an object with a tag, `{"$": "tuple", "v": [1, 2]}`; a dict that has a key `$` is tagged itself,
so that no value can pass for another. Four things carry the name of a class: models, dataclasses and named tuples,
enums, and what is registered; reading looks the name up among the classes the program has registered or declared.

Nothing is pickled, nothing is imported, and no code of the user's runs but the registered functions:
models and dataclasses are rebuilt field by field, past their validators, which may well change what they are given.
What is shared within a value is written as often as it occurs; a cycle is refused, as is nesting beyond `DEEPEST`.
"""

import dataclasses
import json
import re
import reprlib
from collections.abc import Callable, Mapping
from enum import Enum, Flag
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from flujo.exceptions import SerializationError
from flujo.utils.declared_types import DeclaredTypes, is_named_tuple, is_structured, name_of
from flujo.utils.standard_types import MAKERS, STANDARD_TYPES, float_of, float_parts
from flujo.utils.type_registry import REGISTRY

DEEPEST = 200
"""Levels of nesting that a value may have."""

_MOST_PARTS = 8  # of either end of a place that an error shows
_MOST_BITS = 1024  # an integer beyond is written in hexadecimal digits, which have no limit as decimal ones have
_PAIRED = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")  # between two halves of one character
_BUILT_IN = {dict, list, set, tuple, str, bytes, int, float}
_TAG, _TYPE, _VALUE = "$", "t", "v"

_set_attribute = object.__setattr__  # reaches the fields of what is frozen


to_json_text = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
"""Return what `Codec.encode` gives as JSON text, which is ASCII."""


class _RefusedError(Exception):
    """A value cannot be written; collects its place from the inside to the outside."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.parts: list[str] = []

    def within(self, part: str) -> "_RefusedError":
        self.parts.append(part)
        return self


class Codec:
    """Writes and reads values.

    Args:
        declared: The classes whose values may be read besides the registered ones.
            With `None` any model, dataclass, named tuple or enum is written, and only registered ones are read.
    """

    def __init__(self, declared: DeclaredTypes | None = None) -> None:
        self._declared = declared
        self._writers: dict[type, Callable[[Any, int], Any]] = {
            float: self._float,
            int: self._int,
            str: self._str,
            list: self._list,
            dict: self._dict,
            set: self._set,
            frozenset: self._set,
        }

    def encode(self, value: object, place: str = "value") -> Any:
        """Return a value as JSON has it.

        Args:
            value: Any value.
            place: How an error speaks of the value.

        Raises:
            SerializationError: The value, or something within it, would not come back as it is.
        """
        try:
            return self._encode(value, 0)
        except _RefusedError as refused:
            raise SerializationError(f"{_shortened(place, refused.parts)} {refused}") from refused.__cause__

    def dumps(self, value: object, place: str = "value") -> str:
        """Return a value as JSON text, which is ASCII; arguments and errors are those of `encode`."""
        return to_json_text(self.encode(value, place))

    def decode(self, data: Any) -> Any:
        """Return the value that was written as `data`.

        Raises:
            SerializationError: It names a class that is neither registered nor declared, or was not written by a codec.
        """
        return self._decode(data, 0)

    def loads(self, text: str | bytes) -> Any:
        """Return the value that was written as JSON text; errors are those of `decode`."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SerializationError(f"this is not JSON that flujo wrote: {error}") from error
        return self.decode(data)

    # Writing

    def _encode(self, value: Any, depth: int) -> Any:
        kind = _type_of(value)
        if kind is bool or value is None:
            return value
        if depth > DEEPEST:
            raise _RefusedError(f"is nested more than {DEEPEST} levels deep, or contains itself; store it flatter")
        writer = self._writers.get(kind)
        if writer is not None:
            return writer(value, depth)
        registered = REGISTRY.serializer_for(kind)
        if registered is not None:
            made = self._registered(registered, value, kind)
            return {_TAG: "custom", _TYPE: name_of(kind), _VALUE: self._encode(made, depth + 1)}
        standard = STANDARD_TYPES.get(kind)
        if standard is not None:
            try:
                parts = standard.parts_of(value)
            except ValueError as error:
                raise _RefusedError(f"is a {kind.__name__} that cannot be stored: {error}") from None
            return {_TAG: standard.tag, _VALUE: self._encode(parts, depth + 1)}
        if not is_structured(kind) or (self._declared is not None and kind not in self._declared):
            raise _RefusedError(_unknown(kind))
        return {**self._structured(value, kind, depth), _TYPE: name_of(kind)}

    def _float(self, number: float, depth: int) -> Any:
        if number - number == 0:  # neither infinite nor NaN
            return number
        return {_TAG: "float", _VALUE: float_parts(number)}

    def _int(self, number: int, depth: int) -> Any:
        return number if number.bit_length() <= _MOST_BITS else {_TAG: "int", _VALUE: hex(number)}

    def _str(self, text: str, depth: int) -> Any:
        """Return text, in parts where two surrogates would be read as one character."""
        if text.isascii() or not _PAIRED.search(text):
            return text
        return {_TAG: "str", _VALUE: _PAIRED.split(text)}

    def _list(self, values: list[Any], depth: int) -> list[Any]:
        written: list[Any] = []
        try:
            for value in values:
                written.append(self._encode(value, depth + 1))  # noqa: PERF401 - its length is the place of an error
        except _RefusedError as refused:
            raise refused.within(f"[{len(written)}]") from refused.__cause__
        return written

    def _dict(self, values: dict[Any, Any], depth: int) -> Any:
        if not all(type(key) is str and (key.isascii() or not _PAIRED.search(key)) for key in values):
            return {_TAG: "dict", _VALUE: [self._pair(pair, depth) for pair in values.items()]}
        written = self._fields(values, depth)
        return {_TAG: "dict", _VALUE: list(map(list, written.items()))} if _TAG in written else written

    def _pair(self, pair: tuple[Any, Any], depth: int) -> list[Any]:
        key, value = pair
        try:
            written = self._encode(key, depth + 1)
        except _RefusedError as refused:
            raise refused.within(" key") from refused.__cause__
        try:
            return [written, self._encode(value, depth + 1)]
        except _RefusedError as refused:
            raise refused.within(_part(key)) from refused.__cause__

    def _fields(self, values: Mapping[str, Any], depth: int) -> dict[str, Any]:
        written: dict[str, Any] = {}
        name = ""
        try:
            for name, value in values.items():
                written[name] = self._encode(value, depth + 1)
        except _RefusedError as refused:
            raise refused.within(_part(name)) from refused.__cause__
        return written

    def _set(self, values: set[Any] | frozenset[Any], depth: int) -> Any:
        """Return a set with its members in the order of their texts, which does not depend on hashes."""
        try:
            members = [self._encode(value, depth + 1) for value in values]
        except _RefusedError as refused:
            raise refused.within(" member") from refused.__cause__
        return {_TAG: type(values).__name__, _VALUE: sorted(members, key=_text)}

    def _registered(self, serializer: Callable[[Any], Any], value: Any, kind: type) -> Any:
        if self._declared is not None and REGISTRY.deserializer_for(kind) is None:
            raise _RefusedError(
                f"is a {kind.__qualname__}, which has a serializer but could not be read back; "
                f"call register_custom_deserializer({kind.__qualname__}, ...)"
            )
        try:
            return serializer(value)
        except Exception as error:  # it is code of the user's
            message = f"is a {kind.__qualname__}, whose serializer failed: {type(error).__name__}: {error}"
            raise _RefusedError(message) from error

    def _structured(self, value: Any, kind: type, depth: int) -> dict[str, Any]:
        if isinstance(value, Enum):
            member = value.value if isinstance(value, Flag) else value.name
            return {_TAG: "enum", _VALUE: self._encode(member, depth + 1)}
        if isinstance(value, BaseModel):
            return self._model(value, depth)
        if is_named_tuple(kind):
            return {_TAG: "named", _VALUE: self._list(list(value), depth)}
        return {_TAG: "data", _VALUE: self._fields(_data_fields(value, kind), depth)}

    def _model(self, model: BaseModel, depth: int) -> dict[str, Any]:
        """Return a model's fields, and what it has besides: fields that were not set, extra and private values."""
        names = type(model).model_fields
        fields = {name: value for name, value in vars(model).items() if name in names}
        if len(fields) < len(names):
            missing = ", ".join(repr(name) for name in names if name not in fields)
            raise _RefusedError(f"is a {type(model).__qualname__} without the fields {missing}; give it all its fields")
        written: dict[str, Any] = {_TAG: "model", _VALUE: self._fields(fields, depth)}
        extra, private = model.__pydantic_extra__, model.__pydantic_private__
        if extra:
            written["extra"] = self._fields(extra, depth)
        if private:
            written["private"] = self._fields(private, depth)
        if unset := [name for name in fields if name not in model.__pydantic_fields_set__]:
            written["unset"] = unset
        return written

    # Reading

    def _decode(self, data: Any, depth: int) -> Any:
        kind = _type_of(data)
        if kind is not dict and kind is not list:
            return data
        if depth > 2 * DEEPEST + 2:  # a tag takes a level of its own
            raise SerializationError("this was not written by flujo: it is nested too deep")
        if kind is list:
            return [self._decode(item, depth + 1) for item in data]
        if _TAG not in data:
            return {name: self._decode(item, depth + 1) for name, item in data.items()}
        try:
            return self._tagged(data, depth + 1)
        except SerializationError:
            raise
        except Exception as error:  # what was not written by a codec fails in every way there is
            raise SerializationError(f"this was not written by flujo: {_TAG}={data[_TAG]!r:.40}: {error}") from error

    def _tagged(self, data: dict[str, Any], depth: int) -> Any:
        tag, value = data[_TAG], data[_VALUE]
        if (cls_name := data.get(_TYPE)) is not None:
            return self._of_class(tag, cls_name, data, depth)
        match tag:
            case "float":
                return float_of(value)
            case "int":
                return int(value, 16)
            case "str":
                return "".join(value)
            case "dict":
                return {self._decode(key, depth): self._decode(item, depth) for key, item in value}
            case "set":
                return {self._decode(item, depth) for item in value}
            case "frozenset":
                return frozenset(self._decode(item, depth) for item in value)
            case _:
                return MAKERS[tag](self._decode(value, depth))

    def _of_class(self, tag: str, name: str, data: dict[str, Any], depth: int) -> Any:
        if tag == "custom":
            return _rebuild_registered(name, self._decode(data[_VALUE], depth))
        cls = None if self._declared is None else self._declared.find(name)
        if cls is None:
            module, _, qualname = name.partition(":")
            raise SerializationError(
                f"a value is of the class {qualname} of {module}, which this program has neither declared nor "
                f"registered; declare it where the value is used, or call register_custom_deserializer({qualname}, ...)"
            )
        value = self._decode(data[_VALUE], depth)
        if tag == "enum" and issubclass(cls, Enum):
            return cls(value) if issubclass(cls, Flag) else cls[value]
        if tag == "model" and issubclass(cls, BaseModel):
            more = {part: self._decode(data[part], depth) for part in ("extra", "private") if part in data}
            return _make_model(cls, value, frozenset(data.get("unset", ())), **more)
        if tag == "named" and is_named_tuple(cls):
            return tuple.__new__(cls, value)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # of any items
        if tag == "data" and dataclasses.is_dataclass(cls):
            return _make_dataclass(cls, value)
        raise SerializationError(f"{name} is not what it was when this was written")


def _part(key: object) -> str:
    """Return a field or a key as people write it: `.image`, or `['an image']`."""
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{reprlib.repr(key)}]"


def _shortened(place: str, parts: list[str]) -> str:
    """Return a place from the outside to the inside, with `...` for the middle of a long one."""
    outer, inner = parts[: -_MOST_PARTS - 1 : -1], parts[:-_MOST_PARTS][:_MOST_PARTS][::-1]
    left_out = len(parts) > len(outer) + len(inner)
    return f"{place}{''.join(outer)}{'...' if left_out else ''}{''.join(inner)}"


def _text(data: Any) -> str:
    return json.dumps(data, sort_keys=True)


def _unknown(kind: type) -> str:
    name = kind.__qualname__
    return (
        f"is a {name}, which flujo cannot store; call register_custom_serializer({name}, ...) and "
        f"register_custom_deserializer({name}, ...)"
        + (", or declare the type where the value is used" if is_structured(kind) else "")
    )


def _type_of(value: object) -> type[Any]:
    return type(value)


def _data_fields(value: Any, kind: type[Any]) -> dict[str, Any]:
    """Return the fields of a dataclass's instance, which must be all it has."""
    names = {field.name for field in dataclasses.fields(kind)}
    attributes: dict[str, Any] = getattr(value, "__dict__", {})  # an instance with slots may have none
    besides = [name for name in attributes if name not in names and not _is_cached(kind, name)]
    if besides or not _BUILT_IN.isdisjoint(kind.__mro__):
        more = ", ".join(map(repr, besides)) or "what it derives from"
        raise _RefusedError(f"is a {kind.__qualname__} that has more than its fields ({more}); {_register(kind)}")
    missing = [name for name in names if not hasattr(value, name)]
    if missing:
        raise _RefusedError(f"is a {kind.__qualname__} without {', '.join(map(repr, missing))}; {_register(kind)}")
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}


def _register(kind: type) -> str:
    return f"call register_custom_serializer({kind.__qualname__}, ...) and register_custom_deserializer(...)"


def _is_cached(kind: type, name: str) -> bool:
    return any(isinstance(base.__dict__.get(name), cached_property) for base in kind.__mro__)


def _rebuild_registered(name: str, value: Any) -> Any:
    deserializer = REGISTRY.deserializer_named(name)
    if deserializer is None:
        module, _, qualname = name.partition(":")
        raise SerializationError(
            f"a value is of the class {qualname} of {module}, for which nothing is registered; "
            f"call register_custom_deserializer({qualname}, ...)"
        )
    try:
        return deserializer(value)
    except Exception as error:  # it is code of the user's
        raise SerializationError(
            f"the deserializer of {name.partition(':')[2]} failed: {type(error).__name__}: {error}"
        ) from error


def _make_model(
    cls: type[BaseModel],
    values: dict[str, Any],
    unset: frozenset[str],
    extra: dict[str, Any] | None = None,
    private: dict[str, Any] | None = None,
) -> BaseModel:
    fields = cls.model_fields
    _check_names(cls, values, fields)
    for name in fields:
        if name not in values:
            values[name] = _default(cls, name)
            unset |= {name}
    made = cls.__new__(cls)
    takes_extra = cls.model_config.get("extra") == "allow"
    has_private = bool(cls.__private_attributes__)
    _set_attribute(made, "__dict__", {name: values[name] for name in fields})
    _set_attribute(made, "__pydantic_fields_set__", {*values, *(extra or ())} - unset)
    _set_attribute(made, "__pydantic_extra__", (extra or {}) if takes_extra else None)
    _set_attribute(made, "__pydantic_private__", (private or {}) if has_private else None)
    return made


def _default(cls: type[BaseModel], name: str) -> Any:
    """Return the default of a field that the class did not have yet when the value was written."""
    field = cls.model_fields[name]
    if field.is_required() or field.default_factory_takes_validated_data:
        raise SerializationError(f"{cls.__qualname__} has a field {name!r} now, which the stored value lacks")
    return field.get_default(call_default_factory=True)


def _make_dataclass(cls: type[Any], values: dict[str, Any]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    _check_names(cls, values, fields)
    made = object.__new__(cls)
    for name, field in fields.items():
        if name in values:
            value = values[name]
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise SerializationError(f"{cls.__qualname__} has a field {name!r} now, which the stored value lacks")
        _set_attribute(made, name, value)
    return made


def _check_names(cls: type, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    gone = [name for name in values if name not in known]
    if gone:
        raise SerializationError(f"{cls.__qualname__} has no field {', '.join(map(repr, gone))} any more")
