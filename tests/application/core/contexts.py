"""Contexts and values that the tests of copying, comparing, updating and merging share."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)

from flujo.application.core.merging import merge_branches
from flujo.domain.models import PipelineContext
from flujo.utils.copying import copy_context

NAN = float("nan")


class Color(Enum):
    RED = 1


@dataclass
class Point:
    x: Any
    tags: list[str] = field(default_factory=list[str])


@dataclass(eq=False)
class Thing:
    """Equal only to itself, as far as `==` knows."""

    x: Any


class Array:
    """Compares as arrays of numbers do: element by element."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def __eq__(self, other: object) -> Any:
        return [True]

    __hash__ = None  # type: ignore[assignment]  # as for arrays


class Closed:
    """Cannot be taken apart, and `==` answers whatever it is told to."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self.answer = answer

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("closed")

    def __eq__(self, other: object) -> Any:
        return self.answer()

    __hash__ = None  # type: ignore[assignment]  # not needed


class Client:
    """Holds a lock, so that there is no copy of it."""

    def __init__(self) -> None:
        self.peers: list[object] = [self]
        self.lock = threading.Lock()


class Note(BaseModel):
    text: str
    marks: list[int] = []


class Context(PipelineContext):
    count: int = 0
    label: str = ""
    items: list[Any] = Field(default_factory=list[Any])
    table: dict[str, Any] = Field(default_factory=dict[str, Any])
    tags: set[int] = Field(default_factory=set[int])
    pair: tuple[Any, ...] = ()
    note: Note | None = None
    client: Any = None

    _secret: list[int] = PrivateAttr(default_factory=list[int])

    def remember(self, number: int) -> Self:
        """Add to a private attribute."""
        self._secret.append(number)
        return self

    @property
    def remembered(self) -> list[int]:
        """What is in the private attribute."""
        return self._secret


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    count: int = 0


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)

    count: int = 0
    items: tuple[int, ...] = ()
    log: list[str] = []


class Range(BaseModel):
    low: int = 0
    high: int = 10
    width: int = 10
    log: list[str] = []

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse a range that ends before it begins."""
        if self.low > self.high:
            raise ValueError("low is above\nhigh")
        vars(self)["width"] = self.high - self.low
        return self


def make_context(**values: Any) -> Context:
    """Return a context of run r1 that was told hello."""
    return Context(initial_prompt="hello", run_id="r1", **values)


def merged(
    base: Any,
    strategy: Any,
    *writes: Callable[[Any], object],
    exclude: frozenset[str] = frozenset({"run_id", "initial_prompt", "hitl_history"}),
    field_mapping: dict[str, list[str]] | None = None,
) -> Any:
    """Run each write on a branch called a, b, c, ..., merge the branches and return the context."""
    branches = {chr(ord("a") + number): copy_context(base) for number in range(len(writes))}
    for write, branch in zip(writes, branches.values(), strict=True):
        write(branch)
    merge_branches(base, branches, base, strategy, field_mapping, exclude)
    return base


_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(width=16),
    st.sampled_from(["", "a", "b"]),
    st.decimals(places=1, min_value=0, max_value=1),
    st.sampled_from([Color.RED, b"x"]),
)
values = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
        st.sets(st.integers(0, 3), max_size=3),
        st.lists(inner, max_size=2).map(tuple),
        st.builds(Point, inner),
        st.builds(Thing, inner),
        st.builds(Note, text=st.just("n"), marks=st.lists(st.integers(0, 2), max_size=2)),
    ),
    max_leaves=8,
)


def mutable_parts(value: Any) -> set[int]:
    """Return the identities of all mutable objects in a value."""
    if isinstance(value, BaseModel | Point | Thing):
        return {id(value)}.union(*map(mutable_parts, vars(value).values()))
    if isinstance(value, dict):
        return {id(value)}.union(*map(mutable_parts, value.values()))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # of anything
    if isinstance(value, list | set):
        return {id(value)}.union(*map(mutable_parts, value))  # pyright: ignore[reportUnknownArgumentType]  # of anything
    if isinstance(value, tuple):
        return set[int]().union(*map(mutable_parts, value))  # pyright: ignore[reportUnknownArgumentType]  # of anything
    return set()
