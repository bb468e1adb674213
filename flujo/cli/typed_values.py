"""Makes values of text: what the first step of a pipeline takes, and the fields of a context.

A pipeline whose first step takes a string, or declares nothing, gets the text as it is.
For any other type the text is JSON; a text that is no JSON may still stand for a value by itself, such as a date.
"""

from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, NewType, TypeVar, Union, get_args, get_origin

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from flujo.cli.exit_codes import WrongUsageError
from flujo.domain.pipeline import BaseStep
from flujo.domain.type_compatibility import type_name

_FIELDS = TypeAdapter(dict[str, Any])


def fields_of(text: str, name: str) -> dict[str, Any]:
    """Return the fields that a JSON object gives.

    Args:
        text: The JSON.
        name: Where it comes from, such as `--context-data`.

    Raises:
        WrongUsageError: It is not a JSON object.
    """
    try:
        return _FIELDS.validate_json(text)
    except ValidationError as error:
        reason = explain(error) if _is_invalid_json(error) else "give a JSON object of context fields"
        raise WrongUsageError(f"{name}: {reason}") from error


def input_for(step: BaseStep[Any, Any], text: str) -> Any:
    """Return the text as the value that a pipeline's first step takes.

    Raises:
        WrongUsageError: It does not fit; the message names the field and the reason.
    """
    expected = step.input_type if step.input_key is None else dict[str, Any]
    return value_of(text, expected, "the input", step.describe())


def value_of(text: str, expected: Any, what: str, taker: str) -> Any:
    """Return a text as a value of a type.

    Args:
        text: The text.
        expected: The type.
        what: What the text is, such as `the input`.
        taker: Who takes it, such as `step 'draft'`.

    Raises:
        WrongUsageError: It does not fit; the message names the field and the reason.
    """
    if _takes_text(expected):
        return text
    adapter = _adapter(taker, expected)
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        if _is_invalid_json(error) and not _is_iterable(expected):
            try:
                return adapter.validate_python(text)
            except ValidationError:
                reason = explain(error)
        else:
            reason = explain(error)
    raise WrongUsageError(f"{what} does not fit {taker}, which takes {type_name(expected)}: {reason}")


def _takes_text(expected: Any) -> bool:
    if isinstance(expected, TypeVar) or any(expected is free for free in (Any, object, str)):
        return True
    parts: Sequence[Any] = ()
    if isinstance(expected, NewType):
        parts = (expected.__supertype__,)
    elif get_origin(expected) in (Union, UnionType):
        parts = get_args(expected)
    elif get_origin(expected) is Annotated:
        parts = get_args(expected)[:1]
    return any(_takes_text(part) for part in parts)


def _is_iterable(expected: Any) -> bool:
    """Return whether a type takes anything iterable, and so the characters of a text too."""
    kind: object = get_origin(expected) or expected
    return isinstance(kind, type) and kind.__module__ == "collections.abc"


def _adapter(taker: str, expected: Any) -> TypeAdapter[Any]:
    if get_origin(expected) is Iterable:  # pydantic would read it lazily, in the middle of the run
        expected = list[get_args(expected)]  # type: ignore[misc]  # made at run time
    try:
        return TypeAdapter(expected)
    except PydanticUserError as error:
        raise WrongUsageError(
            f"{taker} takes {type_name(expected)}, which cannot be made of text; run it from Python"
        ) from error


def _is_invalid_json(error: ValidationError) -> bool:
    """Return whether a text is not even JSON."""
    return any(problem["type"] == "json_invalid" for problem in error.errors(include_url=False))


def explain(error: ValidationError) -> str:
    """Return what is wrong with a value in one line: each field and the reason."""
    reasons: list[str] = []
    for problem in error.errors(include_url=False):
        place = ".".join(map(str, problem["loc"]))
        reasons.append(f"{place}: {problem['msg']}" if place else problem["msg"])
    return "; ".join(reasons)
