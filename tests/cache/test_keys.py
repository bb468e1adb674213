"""Cache keys: equal values have equal keys everywhere, and different values have different keys."""

import math
import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, Flag, IntEnum, auto
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from flujo import SerializationError
from flujo.cache.keys import digest


class Color(Enum):
    RED = 1
    BLUE = 2


class Size(IntEnum):
    ONE = 1


class Rights(Flag):
    READ = auto()
    WRITE = auto()


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass
class Place:
    x: Any
    y: Any = 0


@dataclass(frozen=True)
class Tagged:
    tags: frozenset[str] = field(default_factory=frozenset[str])


class Note(BaseModel):
    text: str
    marks: list[Any] = []

    @cached_property
    def length(self) -> int:
        """The length of the text."""
        return len(self.text)


class Memo(BaseModel):
    text: str
    marks: list[Any] = []


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Pair(NamedTuple):
    a: int
    b: int


def _pairs(value: Any) -> list[Any]:
    return list(value.items())


DIFFERENT: list[Any] = [
    None,
    True,
    1,
    1.0,
    "1",
    b"1",
    Decimal(1),
    Decimal("1.0"),
    1 + 0j,
    0.0,
    -0.0,
    math.inf,
    "",
    b"",
    [],
    (),
    {},
    set[int](),
    frozenset[int](),
    [[]],
    [1],
    (1,),
    {1},
    frozenset({1}),
    {1: 1},
    {"1": 1},
    {1: "1"},
    [1, 2],
    [2, 1],
    [[1], 2],
    [1, [2]],
    ["ab", "c"],
    ["a", "bc"],
    {"a": "bc"},
    {"ab": "c"},
    Color.RED,
    Color.BLUE,
    Size.ONE,
    Rights(0),
    Rights.READ,
    Rights.READ | Rights.WRITE,
    Point(1),
    Point(1, 2),
    Place(1),
    Pair(1, 2),
    Note(text="a"),
    Note(text="b"),
    Memo(text="a"),
    {"text": "a", "marks": []},
    Open.model_validate({"a": 1}),
    Open.model_validate({"b": 1}),
    date(2026, 1, 1),
    datetime(2026, 1, 1, tzinfo=UTC),
    timedelta(seconds=1),
    UUID(int=1),
    PurePosixPath("a"),
    Path("a"),
    "\ud800",
    "\x00",
    "é",
    "e\u0301",
]


def test_different_values_have_different_keys() -> None:
    """Values of different types, orders, shapes and names are told apart, all of them."""
    keys = [digest(value) for value in DIFFERENT]

    assert len(set(keys)) == len(DIFFERENT)


EQUAL: list[tuple[Any, Any]] = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a", "b", "c"}, {"c", "b", "a"}),
    (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)),
    ({(1, "x"): {"k": {1, 2}}}, {(1, "x"): {"k": {2, 1}}}),
    (Note(text="a", marks=[1]), Note(marks=[1], text="a")),
    (math.nan, float("nan")),
    (10**400, 10**400),
    (Tagged(frozenset("ab")), Tagged(frozenset("ba"))),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_values_have_equal_keys(one: Any, other: Any) -> None:
    """The order of dicts, sets and fields does not count."""
    assert digest(one) == digest(other)


def test_what_a_model_computed_does_not_count() -> None:
    """A cached property is no part of a model's value."""
    fresh, used = Note(text="abc"), Note(text="abc")
    assert used.length == 3

    assert digest(fresh) == digest(used)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(_VALUES, _VALUES)
def test_keys_are_equal_exactly_if_the_values_print_alike(one: Any, other: Any) -> None:
    """For values that `repr` writes exactly, equal keys mean equal text; dicts in any order."""

    def canonical(value: Any) -> Any:
        if isinstance(value, dict):
            return ("dict", sorted((repr(key), repr(canonical(item))) for key, item in _pairs(value)))
        if type(value) in (list, tuple):
            return (type(value).__name__, [canonical(item) for item in value])
        return repr(value)

    assert (digest(one) == digest(other)) == (canonical(one) == canonical(other))


_PROGRAM = """
from dataclasses import dataclass
from pathlib import PurePosixPath
from pydantic import BaseModel
from flujo.cache.keys import digest

@dataclass
class Point:
    tags: frozenset

class Note(BaseModel):
    words: set[str]
    table: dict[str, int]

words = {"alpha", "beta", "gamma", "delta"}
print(digest([words, frozenset(words), {w: len(w) for w in words}, Point(frozenset(words)), PurePosixPath("a/b"),
              Note(words=words, table={w: 1 for w in words}), 1.5, "x", b"y", None]))
"""


def test_keys_are_the_same_in_every_process() -> None:
    """Whatever `PYTHONHASHSEED` is."""
    keys = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }

    assert len(keys) == 1


class Opaque:
    """Has no canonical form."""


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


_CYCLE: list[Any] = []
_CYCLE.append(_CYCLE)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Opaque(), "value is a Opaque"),
        ({"a": [1, Opaque()]}, r"value\.a\[1\] is a Opaque"),
        (Point(x={"k": Opaque()}), r"value\.x\.k is a Opaque"),
        (Note(text="a", marks=[Opaque()]), r"value\.marks\[0\] is a Opaque"),
        ({1, print}, "value member is a builtin_function_or_method"),
        (Point, "value is a type"),
        (iter([1]), "value is a list_iterator"),
        (_nested(500), "nested more than 200 levels deep"),
        (_CYCLE, "nested more than 200 levels deep"),
    ],
)
def test_a_value_without_canonical_form_is_refused(value: Any, said: str) -> None:
    """The error names the type and the place."""
    with pytest.raises(SerializationError, match=said):
        digest(value)
