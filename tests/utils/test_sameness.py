"""Two values are the same only if they cannot be told apart."""

from collections import OrderedDict, defaultdict, deque
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from hypothesis import given

from flujo.utils.copying import copy_value
from flujo.utils.sameness import same_value
from tests.application.core.contexts import NAN, Array, Closed, Note, Open, Point, Thing, mutable_parts, values

_SAME: list[tuple[Any, Any]] = [
    (NAN, float("nan")),
    ([1, {"a": (NAN,)}], [1, {"a": (float("nan"),)}]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1, 2}, {2, 1}),
    (frozenset({"a"}), frozenset({"a"})),
    (Note(text="a"), Note(text="a", marks=[])),
    (Point(1), Point(1)),
    (Thing([1]), Thing([1])),
    (Array(1), Array(1)),
    (OrderedDict(a=1), OrderedDict(a=1)),
    (defaultdict(list, a=[1]), defaultdict(list, a=[1])),
    (Decimal("NaN"), Decimal("NaN")),
    (partial(max, 1), partial(max, 1)),
    (Closed(lambda: True), Closed(lambda: True)),
    (Open.model_validate({"x": 1}), Open.model_validate({"x": 1})),
]

_DIFFERENT: list[tuple[Any, Any]] = [
    (True, 1),
    (1, 1.0),
    (0.0, -0.0),
    (None, False),
    ([1], [True]),
    ([1], (1,)),
    ([1], [1, 2]),
    ([], [1]),
    ([1], []),
    ({"a": 1}, {"a": True}),
    ({1: "a"}, {True: "a"}),
    ({"a": None}, {"b": None}),
    ({1}, {True}),
    ({1}, {2}),
    (Point(x=1), Point(x=True)),
    (Thing([1]), Thing([2])),
    (Array(1), Array(2)),
    (OrderedDict(a=1), OrderedDict(a=True)),
    (deque([1]), deque([True])),
    (Decimal("1.0"), Decimal("1.00")),
    (complex(0.0, 0.0), complex(0.0, -0.0)),
    (
        datetime(2025, 1, 1, 1, tzinfo=UTC),
        datetime(2025, 1, 1, 2, tzinfo=timezone(timedelta(hours=1))),
    ),
    (Note(text="a"), Note(text="b")),
    (Open.model_validate({"x": 1}), Open.model_validate({"x": True})),
    (Closed(lambda: False), Closed(lambda: False)),
    (Closed(lambda: [True]), Closed(lambda: [True])),
    (Closed(lambda: 1 / 0), Closed(lambda: 1 / 0)),
    (int, str),
    (lambda: 1, lambda: 1),
]


@pytest.mark.parametrize(("a", "b"), _SAME)
def test_values_that_cannot_be_told_apart_are_the_same(a: object, b: object) -> None:
    """Equality in all parts makes two values the same, both ways."""
    assert same_value(a, b)
    assert same_value(b, a)


@pytest.mark.parametrize(("a", "b"), _DIFFERENT)
def test_values_that_differ_anywhere_are_different(a: object, b: object) -> None:
    """A difference in type, sign or precision counts at any depth, and inside any container."""
    assert not same_value(a, b)
    assert not same_value([{"k": (b,)}], [{"k": (a,)}])
    assert same_value([a], [a])


def test_cycles_are_compared() -> None:
    """Two cycles of one shape are the same until something in them differs."""
    one: list[Any] = [{}]
    one[0]["up"] = one
    other = copy_value(one)

    assert same_value(one, other)

    other[0]["more"] = 1

    assert not same_value(one, other)


@given(values)
def test_a_copy_is_the_same_and_shares_nothing(value: object) -> None:
    """Whatever a value is made of, its copy is the same and has no mutable part in common."""
    copied = copy_value(value)

    assert same_value(copied, value)
    assert not mutable_parts(copied) & mutable_parts(value)


@given(values, values)
def test_being_the_same_holds_both_ways(a: object, b: object) -> None:
    """Which of two values comes first does not matter."""
    assert same_value(a, b) == same_value(b, a)
