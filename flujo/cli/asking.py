"""Asks the person at the terminal what a run waits for.

A type with fields, such as a model, is asked for field by field, and what does not fit is asked for again.
What an answer may be is read from the JSON schema of the type, which is the same for all kinds of classes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from flujo.cli.terminal import one_line, say, visible
from flujo.domain.results import Waiting
from flujo.exceptions import AnswerRejectedError, FlujoError
from flujo.utils.narrowing import is_dict, is_list

_Schema = Mapping[str, Any]

_TYPES = {
    "string": "text",
    "boolean": "yes or no",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list, as JSON",
    "object": "an object, as JSON",
}
_FORMATS = {"date": "a date, such as 2026-01-31", "date-time": "a date and time", "uuid": "a UUID", "uri": "a URL"}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matching {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}


class NobodyAnsweredError(FlujoError):
    """A run waits for a person, and there is none at the terminal."""


def describe_question(asked: Waiting) -> str:
    """Return who asks what, on one line."""
    return f"step {asked.step_name!r} at {'/'.join(asked.path)} asks: {one_line(asked.message)}"


def choose(waiting: Sequence[Waiting]) -> Waiting:
    """Ask which of several steps is answered.

    Raises:
        NobodyAnsweredError: The input ends.
    """
    for number, asked in enumerate(waiting, 1):
        say(f"{number}. {describe_question(asked)}")
    while True:
        text = _read(f"Which one do you answer (1-{len(waiting)})? ")
        if text.isdecimal() and 1 <= int(text) <= len(waiting):
            return waiting[int(text) - 1]
        say(f"  {text!r} is none of them")


def ask(asked: Waiting) -> Any:
    """Ask a person, until the answer fits.

    Raises:
        AnswerRejectedError: An answer of this type cannot be given as text.
        NobodyAnsweredError: The input ends.
    """
    say(f"Step {asked.step_name!r} at {'/'.join(asked.path)} asks:\n")
    say("".join(f"  {visible(line)}\n" for line in asked.message.splitlines()))
    if asked.input_schema is None:
        return _read("Answer: ")
    return _Form.of(asked).fill()


@dataclass(slots=True, frozen=True)
class _Field:
    """A part of an answer that is asked for by itself.

    Attributes:
        name: Its name.
        schema: What it may be.
        is_required: Whether it has no default.
        description: What the field itself, and not its type, says it is.
    """

    name: str
    schema: _Schema
    is_required: bool
    description: str


@dataclass(slots=True, frozen=True)
class _Form:
    """What is asked for one answer.

    Attributes:
        adapter: Checks an answer.
        schema: The JSON schema of the answer.
        definitions: What the schema refers to.
    """

    adapter: TypeAdapter[Any]
    schema: _Schema
    definitions: _Schema

    @classmethod
    def of(cls, asked: Waiting) -> "_Form":
        try:
            adapter = TypeAdapter[Any](asked.input_schema)
            schema = adapter.json_schema()
        except PydanticUserError as error:
            raise AnswerRejectedError(
                f"the answer to step {asked.step_name!r} cannot be given as text; resume the run from Python"
            ) from error
        definitions: _Schema = schema.get("$defs", {})
        return cls(adapter, _resolved(schema, definitions), definitions)

    def fill(self) -> Any:
        """Ask until what was said fits."""
        fields = self._fields()
        if not fields:
            return self._ask_until(lambda text: _value(text, self.schema, self.definitions), self.schema)
        given: dict[str, Any] = {}
        asked = fields
        while True:
            for field in asked:
                given.pop(field.name, None)
                self._ask_field(field, given)
            try:
                return self.adapter.validate_python(given)
            except ValidationError as error:
                wrong = _complain(error)
                asked = [field for field in fields if field.name in wrong] or fields

    def _fields(self) -> list[_Field]:
        properties = self.schema.get("properties")
        if not is_dict(properties):
            return []
        required = self.schema.get("required", [])
        return [
            _Field(name, _resolved(each, self.definitions), name in required, str(each.get("description", "")))
            for name, each in properties.items()
        ]

    def _ask_field(self, field: _Field, given: dict[str, Any]) -> None:
        if field.description:
            say(f"  {one_line(field.description)}")
        otherwise = "" if field.is_required else f"; Enter for {_shown(field.schema.get('default'))}"
        text = _read(f"{field.name} ({_described(field.schema, self.definitions)}{otherwise}): ")
        if text or field.is_required:
            given[field.name] = _value(text, field.schema, self.definitions)

    def _ask_until(self, value_of: Callable[[str], Any], schema: _Schema) -> Any:
        while True:
            text = _read(f"Answer ({_described(schema, self.definitions)}): ")
            try:
                return self.adapter.validate_python(value_of(text))
            except ValidationError as error:
                _complain(error)


def _complain(error: ValidationError) -> set[str]:
    """Say what is wrong, and return the fields it is wrong with."""
    wrong: set[str] = set()
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(map(str, problem["loc"]))
        say(f"  {place}: {problem['msg']}" if place else f"  {problem['msg']}")
        wrong |= {str(part) for part in problem["loc"][:1]}
    return wrong


def _read(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        say("")
        raise NobodyAnsweredError("nothing was answered; the run still waits") from None


def _resolved(schema: _Schema, definitions: _Schema) -> _Schema:
    """Return a schema with what it refers to in its place."""
    while (reference := schema.get("$ref")) is not None:
        schema = {**definitions[str(reference).rpartition("/")[2]], **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema


def _alternatives(schema: _Schema, definitions: _Schema) -> list[_Schema]:
    parts = schema.get("anyOf") or schema.get("oneOf")
    if not is_list(parts):
        return [schema]
    return [each for part in parts for each in _alternatives(_resolved(part, definitions), definitions)]


def _value(text: str, schema: _Schema, definitions: _Schema) -> Any:
    """Return what a text stands for: itself where text is welcome, otherwise JSON if it is some."""
    kinds = _alternatives(schema, definitions)
    if any(kind.get("type") == "string" for kind in kinds):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _described(schema: _Schema, definitions: _Schema) -> str:
    """Return in words what a schema takes."""
    words: list[str] = []
    for kind in _alternatives(schema, definitions):
        if kind.get("type") == "null":
            continue  # nothing is typed for it
        if "enum" in kind:
            words.append("one of " + ", ".join(map(str, kind["enum"])))
        elif "const" in kind:
            words.append(str(kind["const"]))
        else:
            word = _FORMATS.get(kind.get("format", "")) or _TYPES.get(kind.get("type", ""), "anything")
            bounds = [text.format(kind[key]) for key, text in _BOUNDS.items() if key in kind]
            words.append(", ".join([word, *bounds]))
    return " or ".join(dict.fromkeys(words)) or "null"


def _shown(default: Any) -> str:
    """Return a default as the person would type it."""
    if default is None:
        return "nothing"
    return default if isinstance(default, str) and default else json.dumps(default, ensure_ascii=False)
