"""Malformed JSON of models is repaired before the model is asked again, which would have to be paid for.

A repair changes the form of what was said, never what was said: valid JSON stays as it is, an answer that was cut off
is not completed, and what was repaired is validated like any other answer.
Imported only once an agent of pydantic-ai is run, because pydantic-ai takes a second to import.
"""

import logging
from collections.abc import Sequence
from typing import Any

from json_repair import repair_json
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.output import OutputContext
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_core import from_json, to_json

from flujo.utils.narrowing import is_dict

_log = logging.getLogger("flujo.agents")

_ENDS = ("}", "]")
"""What a document ends with whose last brackets are all that is missing; after anything else a value may go on."""


def repaired(text: str) -> str | None:
    """Return malformed JSON of an object as JSON; `None` if it is valid, or cannot be repaired for sure.

    Fences, prose around it, comments, trailing commas, quotes of other kinds, values as Python writes them, line
    breaks in strings, JSON within a string, and brackets missing at the end are repaired.
    """
    try:
        value = from_json(text)
    except ValueError:
        value = _guessed(text)
    else:
        if not isinstance(value, str):
            return None
        value = _parsed(value)  # an object as JSON within a string of JSON
    return to_json(value, inf_nan_mode="constants").decode() if is_dict(value) else None


def _parsed(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return _guessed(text)


def _guessed(text: str) -> Any:
    end = max(map(text.rfind, _ENDS)) + 1
    if '"' in text[end:] or text.replace('\\"', "").count('"') % 2:  # it breaks off in a string, or after a key
        return None
    value: Any = repair_json(text[:end], return_objects=True)
    is_whole = value == repair_json(text, return_objects=True)  # what follows the last bracket is no part of it
    return value if is_whole else None


class Repairing(AbstractCapability[Any]):
    """Repairs the JSON of an agent's structured answers and of the arguments of its tools.

    Example:
        ```python
        from pydantic_ai import Agent
        from pydantic_ai.models.test import TestModel

        from flujo.agents.repair import Repairing

        agent = Agent(TestModel(), capabilities=[Repairing()])
        ```
    """

    async def before_tool_validate(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: str | dict[str, Any],
    ) -> str | dict[str, Any]:
        """Return the arguments of a tool, repaired if they are malformed."""
        return _usable(args, ctx.messages, f"the arguments of the tool {tool_def.name!r}")

    async def before_output_validate(
        self, ctx: RunContext[Any], *, output_context: OutputContext, output: str | dict[str, Any]
    ) -> str | dict[str, Any]:
        """Return a structured answer, repaired if it is malformed; one that is still coming stays as it is."""
        return output if ctx.partial_output else _usable(output, ctx.messages, "an answer")


def _usable(given: str | dict[str, Any], messages: Sequence[ModelMessage], what: str) -> str | dict[str, Any]:
    if not isinstance(given, str) or _was_cut_off(messages):
        return given
    made = repaired(given)
    if made is None:
        return given
    _log.info("%s was malformed JSON, and is repaired", what)
    return made


def _was_cut_off(messages: Sequence[ModelMessage]) -> bool:
    """Tell whether the last answer of the model ended because it was as long as it may be."""
    last = next((message for message in reversed(messages) if isinstance(message, ModelResponse)), None)
    return last is not None and last.finish_reason == "length"
