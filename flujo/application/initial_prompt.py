"""The `initial_prompt` of a context: a run's input as text, readable and of bounded length."""

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from pydantic import BaseModel

from flujo.utils.narrowing import is_dict, is_list, is_sequence, is_set

PROMPT_CHARACTERS = 2000
"""The most characters of `initial_prompt` that are made of an input that is no string."""

_ITEMS, _LEAF_CHARACTERS, _DEPTH = 50, 500, 6  # what is shown of one container, of one value, of what nests
_MORE = "..."


def prompt_of(data: Any) -> str:
    """Return a run's input as text: a string as it is, anything else readable and of bounded length.

    Containers are written as Python does, models and dataclasses as the dict of those fields that their `repr` shows.
    `...` stands for what is left out: the end of a long string, all after the first 50 items of a container,
    what is nested more than 6 deep or contains itself, and whatever is past `PROMPT_CHARACTERS`.
    No more of the input is looked at than is written, so its size does not matter.
    """
    if isinstance(data, str):
        return data
    pieces: list[str] = []
    length = 0
    for piece in _pieces(data, ()):
        pieces.append(piece)
        length += len(piece)
        if length > PROMPT_CHARACTERS:
            return "".join(pieces)[: PROMPT_CHARACTERS - len(_MORE)] + _MORE
    return "".join(pieces)


def _pieces(value: object, around: tuple[int, ...]) -> Iterator[str]:
    """Yield a value's text bit by bit; `around` identifies the containers that it is in."""
    if (fields := _fields(value)) is not None:
        yield from _mapping(value, fields, around)
    elif is_dict(value):
        yield from _mapping(value, value.items(), around)
    elif is_list(value):
        yield from _sequence(value, "[", value, "]", around)
    elif is_sequence(value):  # a tuple, since it is no list
        yield from _sequence(value, "(", value, ",)" if len(value) == 1 else ")", around)
    elif is_set(value) and value:
        start, end = ("frozenset({", "})") if isinstance(value, frozenset) else ("{", "}")
        yield from _sequence(value, start, sorted(islice(value, _ITEMS + 1), key=_leaf), end, around)
    else:
        yield _leaf(value)


def _fields(value: object) -> Iterator[tuple[str, object]] | None:
    """Return the fields of a model or a dataclass that its `repr` would show; `None` for any other value."""
    if isinstance(value, BaseModel):
        held = vars(value)
        shown = [(name, held[name]) for name, field in type(value).model_fields.items() if field.repr and name in held]
        return iter([*shown, *(value.__pydantic_extra__ or {}).items()])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # an instance may lack a field that nothing has set yet
        return iter([(each.name, getattr(value, each.name, _MORE)) for each in dataclasses.fields(value) if each.repr])
    return None


def _mapping(value: object, entries: Iterable[tuple[object, object]], around: tuple[int, ...]) -> Iterator[str]:
    if _is_left_out(value, around):
        yield "{...}"
        return
    around = (*around, id(value))
    yield "{"
    for number, (key, entry) in enumerate(islice(entries, _ITEMS + 1)):
        if number:
            yield ", "
        if number == _ITEMS:
            yield _MORE
            break
        yield from _pieces(key, around)
        yield ": "
        yield from _pieces(entry, around)
    yield "}"


def _sequence(value: object, start: str, items: Iterable[object], end: str, around: tuple[int, ...]) -> Iterator[str]:
    if _is_left_out(value, around):
        yield f"{start}{_MORE}{end}"
        return
    around = (*around, id(value))
    yield start
    for number, item in enumerate(islice(items, _ITEMS + 1)):
        if number:
            yield ", "
        if number == _ITEMS:
            yield _MORE
            break
        yield from _pieces(item, around)
    yield end


def _is_left_out(value: object, around: tuple[int, ...]) -> bool:
    return len(around) >= _DEPTH or id(value) in around


def _leaf(value: object) -> str:
    """Return the text of a value that is not looked into."""
    if isinstance(value, str | bytes | bytearray) and len(value) > _LEAF_CHARACTERS:
        return repr(value[:_LEAF_CHARACTERS]) + _MORE
    try:
        text = repr(value)
    except Exception as error:  # a repr is code of the user's; an input without one can be run on all the same
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _LEAF_CHARACTERS else text[:_LEAF_CHARACTERS] + _MORE
