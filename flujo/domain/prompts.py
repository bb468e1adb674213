"""Prompts as templates over what a step is given, what the run shares, and what earlier steps gave."""

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from flujo.exceptions import ConfigurationError, NonRetryableError
from flujo.utils.stable_json import stable_json

_MOST_CHARACTERS = 4_000_000
"""Of a rendered prompt; more than any model takes."""

_MOST_NAMES = 20
"""That an error lists."""

_PLAIN = (str, bytes, int, float, Decimal, date, time, timedelta, UUID, list, tuple, dict, set, frozenset)
"""Whose own methods a template may call; those that change a value are refused besides."""

_ANOTHER_EACH_TIME = ("lipsum", "random")
"""What would make another prompt when a run goes on."""


class PromptTemplate:
    """A prompt in the language of Jinja, rendered in a sandbox.

    It knows `input`, `context`, and `steps`, the outputs of the finished steps before it by name. Values that are no
    text and no number are written as JSON, without quotes if that is text. It calls nothing of the program's but
    properties, and changes nothing.

    Args:
        source: The template.

    Raises:
        ConfigurationError: It is no template; the line is named.

    Example:
        ```python
        from flujo import Flujo, PromptTemplate, Step

        async def ask(prompt: str) -> str:
            return prompt

        prompt = PromptTemplate("Name a river in {{ input.country }}.")
        assert Flujo(Step("ask", ask, prompt=prompt)).run({"country": "Egypt"}).output == "Name a river in Egypt."
        ```
    """

    def __init__(self, source: str) -> None:
        from jinja2 import TemplateError, nodes

        if not isinstance(source, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"a prompt template is text, not {reprlib.repr(source)}")
        self.source = source
        environment = _environment()
        try:
            parsed = environment.parse(source)
            other = next(parsed.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None)
            if other is not None:
                raise ConfigurationError(
                    f"the prompt template is wrong in line {other.lineno}: it uses another template; a prompt is made "
                    "of one, so write its text here"
                )
            self._compiled: Any = environment.from_string(parsed)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            raise ConfigurationError(f"the prompt template is wrong in line {line}: {error}") from None

    def __repr__(self) -> str:
        return f"PromptTemplate({self.source[:60]!r})"

    def render(self, data: Any, context: Any, steps: Mapping[str, Any]) -> str:
        """Return the prompt.

        Args:
            data: What the template calls `input`.
            context: The context.
            steps: Outputs of earlier steps by name.

        Raises:
            NonRetryableError: The template names something that is not there, or cannot be rendered; the line is named.
        """
        try:
            return "".join(_bounded(self._compiled.generate(input=data, context=context, steps=_Outputs(steps))))
        except NonRetryableError:
            raise
        except Exception as error:  # properties of the values are code of the user's
            message = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            line = self._line(error)
            where = "" if line is None else f" in line {line}"
            raise NonRetryableError(f"the prompt cannot be rendered{where}: {message}") from error

    def _line(self, error: BaseException) -> int | None:
        """Return the line of the template that an error comes out of."""
        found, traceback = None, error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == "<template>":
                found = traceback.tb_lineno
            traceback = traceback.tb_next
        return found


class _Outputs(dict[str, Any]):
    """Outputs of steps by name."""


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > _MOST_CHARACTERS:
            raise NonRetryableError(f"the prompt would have more than {_MOST_CHARACTERS} characters")
        yield piece


def _written(value: Any) -> str:
    """Return a value as it stands in a prompt."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (BuiltinMethodType, MethodType, FunctionType)):
        raise ValueError(f"{value.__qualname__} is a function; write ['{value.__name__}'] for a key of that name")
    text = stable_json(value)
    return str(json.loads(text)) if text.startswith('"') else text


def _not_there(owner: Any, name: Any) -> str:
    """Say that a value has no such part, and which it has."""
    if isinstance(owner, _Outputs):
        return f"no step before this one is called {name!r}; {_listed(owner, 'there is', 'none')}"
    kind, fields = type(owner).__name__, getattr(owner, "__dataclass_fields__", None)
    if isinstance(owner, dict):
        return f"a dict has no {name!r}; {_listed(owner, 'it has')}"  # pyright: ignore[reportUnknownArgumentType]  # of any keys
    if isinstance(owner, (list, tuple)) and isinstance(name, int):
        return f"a {kind} has no item {name}; it has {len(owner)}"  # pyright: ignore[reportUnknownArgumentType]  # of any items
    if isinstance(owner, BaseModel):
        return f"{kind} has no {name!r}; {_listed([*type(owner).model_fields, *(owner.model_extra or ())], 'it has')}"
    if fields is not None:
        return f"{kind} has no {name!r}; {_listed(fields, 'it has')}"
    return f"{'null' if owner is None else kind} has no {name!r}"


def _listed(names: Iterable[Any], before: str, none: str = "nothing") -> str:
    listed = [repr(name) for name in names]
    more = ["..."] if len(listed) > _MOST_NAMES else []
    return f"{before} {', '.join(listed[:_MOST_NAMES] + more) or none}"


@cache
def _environment() -> Any:
    """Return the sandbox that templates are made in: nothing is called but Jinja's own, and methods of plain values."""
    from jinja2 import StrictUndefined, Undefined, sandbox
    from jinja2.exceptions import SecurityError
    from jinja2.runtime import LoopContext, Macro
    from jinja2.utils import Cycler, Joiner, missing

    class Missing(StrictUndefined):
        __slots__ = ()

        @property
        def _undefined_message(self) -> str:
            if self._undefined_hint:
                return self._undefined_hint
            if self._undefined_obj is missing:
                return f"there is no {self._undefined_name!r}; a prompt knows input, context and steps"
            return _not_there(self._undefined_obj, self._undefined_name)

    class Sandbox(sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**":  # its results may be of any size
                raise SecurityError("a template may not use '**'")
            made = len(left) if hasattr(left, "__len__") else len(right) if hasattr(right, "__len__") else 0
            times = left if hasattr(right, "__len__") else right
            if made and isinstance(times, int) and made * times > _MOST_CHARACTERS:
                raise SecurityError(f"{operator!r} would make something of more than {_MOST_CHARACTERS} parts")
            return super().call_binop(context, operator, left, right)

        def is_safe_callable(self, obj: Any) -> bool:
            if isinstance(obj, (BuiltinMethodType, MethodType)):
                is_own = isinstance(obj.__self__, (LoopContext, Cycler))
                is_plain = isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, _PLAIN)
            elif isinstance(obj, FunctionType):
                is_own = obj.__globals__ is sandbox.__dict__  # what stands for `format` of text
                is_plain = False
            else:
                is_own, is_plain = isinstance(obj, (Macro, LoopContext, Joiner, Undefined)), False
            is_given = any(obj is each for each in self.globals.values())
            return (is_own or is_plain or is_given) and bool(super().is_safe_callable(obj))

    def finalized(value: Any) -> Any:
        return value if isinstance(value, Undefined) else _written(value)

    def as_json(value: Any, indent: int | None = None) -> str:
        return stable_json(value, indent=indent)

    made = Sandbox(undefined=Missing, finalize=finalized, keep_trailing_newline=True)
    made.filters["tojson"] = as_json  # Jinja's own is for HTML
    for name in _ANOTHER_EACH_TIME:
        made.globals.pop(name, None)
        made.filters.pop(name, None)
    return made
