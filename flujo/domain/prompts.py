"""Prompts as templates over what a step is given, what the run shares, and what earlier steps gave."""

from collections.abc import Iterator, Mapping
from types import BuiltinMethodType
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from flujo.exceptions import ConfigurationError, NonRetryableError

_MOST_CHARACTERS = 4_000_000
"""Of a rendered prompt; more than any model takes."""

_PLAIN = (str, int, float)


class PromptTemplate:
    """A prompt in the language of Jinja, rendered in a sandbox.

    It knows `input`, `context`, and `steps`, the outputs of the finished steps before it by name. Values that are no
    text and no number are written as JSON. It calls nothing of the program's, and changes nothing.

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
        from jinja2 import TemplateError

        self.source = source
        try:
            self._compiled: Any = _environment().from_string(source)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            raise ConfigurationError(f"the prompt template is wrong in line {line}: {error}") from None
        except TypeError:
            raise ConfigurationError(f"a prompt template is text, not {source!r}") from None

    def __repr__(self) -> str:
        return f"PromptTemplate({self.source[:60]!r})"

    def render(self, data: Any, context: Any, steps: Mapping[str, Any]) -> str:
        """Return the prompt.

        Args:
            data: What the template calls `input`.
            context: The context.
            steps: Outputs of earlier steps by name.

        Raises:
            NonRetryableError: The template names something that is not there, or cannot be rendered.
        """
        from jinja2 import TemplateError

        try:
            return "".join(_bounded(self._compiled.generate(input=data, context=context, steps=steps)))
        except (TemplateError, PydanticSerializationError) as error:
            known = ", ".join(map(repr, steps)) or "none"
            raise NonRetryableError(
                f"the prompt cannot be rendered: {error}; it knows input, context and steps, and these steps: {known}"
            ) from error


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > _MOST_CHARACTERS:
            raise NonRetryableError(f"the prompt would have more than {_MOST_CHARACTERS} characters")
        yield piece


def _environment() -> Any:
    """Return the sandbox that templates are made in: nothing is called but methods of plain values."""
    from jinja2 import StrictUndefined, Undefined
    from jinja2.exceptions import SecurityError
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            is_number = isinstance(left, (int, float)) and isinstance(right, (int, float))
            if operator == "**" or not is_number:  # their results may be of any size
                raise SecurityError(f"a template may use {operator!r} for the product of numbers only")
            return super().call_binop(context, operator, left, right)

        def is_safe_callable(self, obj: Any) -> bool:
            is_plain = isinstance(obj, (BuiltinMethodType, Macro)) or obj in self.globals.values()
            return is_plain and super().is_safe_callable(obj)

    def written(value: Any) -> Any:
        is_ready = isinstance(value, (_PLAIN, Undefined)) or hasattr(value, "__html__")
        return value if is_ready and not isinstance(value, bool) else to_json(value).decode()

    return Sandbox(undefined=StrictUndefined, finalize=written, keep_trailing_newline=True)
