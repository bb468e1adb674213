"""Repairs JSON that a model wrote badly, so that it need not be asked again, which costs another request.

What is repaired is how the JSON is written, never what it says: a fence or prose around it, comments, trailing or
missing commas, quotes of another kind or none, Python's literals, raw newlines, brackets missing at the end, an object
that was encoded twice. The package `json_repair` makes the repair; it also completes what is incomplete and drops what
it cannot read, so its work is used only if the words and numbers of the object are those of the text, all of them and
in their order. An answer that was cut off is left as it is.

Imported only once an agent of pydantic-ai is run.
"""

import json
import logging
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from json_repair import loads
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.output import OutputContext
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_core import from_json

from flujo.utils.narrowing import is_dict, is_list

_log = logging.getLogger("flujo.agents")

_MOST_CHARACTERS = 200_000  # a repair takes about a second for as many, in which the event loop stands still
_QUOTES = {'"': '"', "'": "'", "\N{LEFT DOUBLE QUOTATION MARK}": "\N{RIGHT DOUBLE QUOTATION MARK}"}
_LEFT_OUT = ("...", "\N{HORIZONTAL ELLIPSIS}")
_COMMENT = re.compile(r"//[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)
_AFTER_STRING = re.compile(r"\s*(?:[,:}\]]|//|/\*|#|$)")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_RUN_TOGETHER = re.compile(r"""^["']|["']$|["']\s*[+:,{}\[\]]""")
_NUMBER = re.compile(r"(?<![\w.])-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])")


class RepairsJson(AbstractCapability[Any]):
    """Repairs malformed JSON in what a model answers and calls tools with, before it is asked again.

    Example:
        ```python
        from pydantic_ai import Agent
        from pydantic_ai.models.test import TestModel

        from flujo.agents.repairs import RepairsJson

        helper = Agent(TestModel(), capabilities=[RepairsJson()])
        ```
    """

    async def before_tool_validate(
        self, ctx: RunContext[Any], *, call: ToolCallPart, tool_def: ToolDefinition, args: str | dict[str, Any]
    ) -> str | dict[str, Any]:
        """Return the arguments of a tool, repaired, and let the model see them so when it is asked the next time."""
        repaired = self._repaired(ctx, args, f"the arguments of the tool {call.tool_name!r}")
        if repaired is not args and not ctx.partial_output:
            call.args, call.id = repaired, None  # under its identity the provider would find its own copy
        return repaired

    async def before_output_validate(
        self, ctx: RunContext[Any], *, output_context: OutputContext, output: str | dict[str, Any]
    ) -> str | dict[str, Any]:
        """Return the answer, repaired."""
        return output if ctx.partial_output else self._repaired(ctx, output, "the answer")

    def _repaired(self, ctx: RunContext[Any], written: str | dict[str, Any], what: str) -> str | dict[str, Any]:
        if not isinstance(written, str):
            return written
        response = next((each for each in reversed(ctx.messages) if isinstance(each, ModelResponse)), None)
        reason = None if response is None else response.finish_reason
        if reason not in (None, "stop", "tool_call"):
            return written
        # Clients of servers that do not say why an answer ends make a reason up, which is not among the details.
        is_whole = response is not None and "finish_reason" in (response.provider_details or {})
        repaired = repair_object(written, is_whole=is_whole)
        if repaired is None:
            return written
        _log.info("malformed JSON in %s of the model %r was repaired", what, ctx.model.model_name)
        return repaired


def repair_object(text: str, *, is_whole: bool) -> str | None:
    """Return the JSON object that a text says, if it is badly written.

    Args:
        text: What a model wrote.
        is_whole: Whether the model ended by itself, so that nothing but brackets can be missing at the end.

    Returns:
        `None` if the text is JSON already, or if it is not certain which object it says.
    """
    if not text or len(text) > _MOST_CHARACTERS:
        return None
    inner = _parsed(text)
    if inner is not None:
        is_object = isinstance(inner, str) and is_dict(_parsed(inner))
        return inner if is_object else repair_object(inner, is_whole=is_whole) if _is_text(inner) else None
    document = _find_document(text, is_whole=is_whole)
    if document is None:
        return None
    try:
        value: Any = loads(document, skip_json_loads=True, strict=True)
    except (ValueError, RecursionError):
        return None
    if not is_dict(value) or not _says_the_same(_leaves(value), document):
        return None
    repaired = json.dumps(value)
    return repaired if is_dict(_parsed(repaired)) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("{")


def _parsed(text: str) -> Any | None:
    try:
        return from_json(text)
    except (ValueError, TypeError):  # a lone surrogate is no text to it
        return None


@dataclass(slots=True)
class _Scan:
    """How far a text was read, and what of it belongs to the object."""

    at: int
    kept: list[str] = field(default_factory=list[str])
    depth: int = 0
    ends_in_value: bool = False
    """The last thing read is a string with its end, or a bracket that closes."""


def _find_document(text: str, *, is_whole: bool) -> str | None:
    """Return the only object in a text without its comments, closed or with brackets missing at its end."""
    start = text.find("{")
    if start < 0 or text[:start].rstrip().endswith(("[", '"', "'")):
        return None
    scan = _Scan(start)
    while scan.at < len(text):
        if not _read_next(text, scan):
            return None
        if scan.depth == 0:
            return None if "{" in text[scan.at :] else "".join(scan.kept)
    return "".join(scan.kept) if is_whole and scan.ends_in_value else None


def _read_next(text: str, scan: _Scan) -> bool:
    """Read a bracket, a string, a comment or a character; tell whether that worked."""
    character = text[scan.at]
    if character in _QUOTES:
        end = _end_of_string(text, scan.at)
        if end is None:
            return False
        scan.kept.append(text[scan.at : end])
        scan.at, scan.ends_in_value = end, True
        return True
    if (comment := _COMMENT.match(text, scan.at)) is not None:
        scan.at = comment.end()
        scan.kept.append(" ")
        return True
    if text.startswith(_LEFT_OUT, scan.at):
        return False
    scan.at += 1
    if text.startswith("```", scan.at - 1):  # the end of a fence, whose object has no end
        is_end = not text[scan.at :].strip("`\n ")
        scan.at = len(text)
        return is_end
    scan.kept.append(character)
    scan.depth += (character in "{[") - (character in "}]")
    if not character.isspace():
        scan.ends_in_value = character in "}]"
    return True


def _end_of_string(text: str, start: int) -> int | None:
    """Return where a string ends: at a quote that something follows which may follow a string."""
    closing, at = _QUOTES[text[start]], start + 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == closing and _AFTER_STRING.match(text, at + 1):
            return at + 1
        at += 1
    return None


def _unescaped(escape: re.Match[str]) -> str:
    code, character = escape.groups()
    if code is not None:
        return chr(int(code, 16))
    return " " if character in "nrtbf\n" else character


def _says_the_same(leaves: list[str], document: str) -> bool:
    """Tell whether keys and values are the words and numbers of a text, and none of them runs into its neighbour."""
    if any(_RUN_TOGETHER.search(leaf) for leaf in leaves):
        return False
    return _words(" ".join(leaves)) == _words(_ESCAPE.sub(_unescaped, document))


def _leaves(value: Any) -> list[str]:
    if is_dict(value):
        return [leaf for key, inner in value.items() for leaf in (str(key), *_leaves(inner))]
    if is_list(value):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [str(value)]


def _words(text: str) -> str:
    """Return the letters and digits of a text, its numbers and nothings written in one way."""
    text = _NUMBER.sub(lambda number: f" {Decimal(number[0]).normalize() + 0} ", text)
    text = re.sub(r"\b(?:null|None)\b", "none", text)
    return "".join(character for character in text if character.isalnum()).casefold()
