"""Declared types are compared before a run, and values with declared types."""

# ruff: noqa: UP006, UP007, UP035, UP045 - users write types both ways

import enum
import io
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
    Sized,
)
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from types import GenericAlias
from typing import (
    Annotated,
    Any,
    Dict,
    ForwardRef,
    Generic,
    List,
    Literal,
    NamedTuple,
    Never,
    NewType,
    NotRequired,
    Optional,
    ParamSpec,
    Protocol,
    SupportsInt,
    TextIO,
    Tuple,
    Type,
    TypedDict,
    TypeVar,
    Union,
    runtime_checkable,
)
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, EmailStr
from typing_extensions import TypeAliasType

from flujo.domain.results import PipelineResult
from flujo.domain.type_compatibility import accepts, fits, type_name

T = TypeVar("T")
P = ParamSpec("P")
UserId = NewType("UserId", int)
Json = TypeAliasType("Json", dict[str, Any] | list[Any] | int | str)
Names = TypeAliasType("Names", list[str])
ListOf = TypeAliasType("ListOf", list[T], type_params=(T,))


class Draft(BaseModel):
    text: str = ""


class LongDraft(Draft): ...


class Box(BaseModel, Generic[T]):
    item: T


class IntBox(Box[int]): ...


class Crate(Generic[T]): ...


class Shape(ABC):
    @abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    def area(self) -> float:
        return 1.0


@dataclass
class Point:
    x: int = 0


class Pair(NamedTuple):
    a: int
    b: str


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Word(str, enum.Enum):  # noqa: UP042 - both ways of writing it occur
    YES = "yes"


class Level(enum.IntEnum):
    LOW = 1


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class RatedMovie(Movie):
    rating: float


class Closeable(Protocol):
    def close(self) -> None: ...


@runtime_checkable
class Named(Protocol):
    name: str


class Stubborn(type):
    """Classes that fail when they are asked for their instances and subclasses."""

    def __instancecheck__(cls, instance: object) -> bool:
        raise RuntimeError("no answer")

    def __subclasscheck__(cls, subclass: type) -> bool:
        raise RuntimeError("no answer")


class Loose(Any): ...  # type: ignore[misc]  # as users write it


class Refusing(metaclass=Stubborn): ...


_FITTING: list[tuple[Any, Any]] = [
    # anything, nothing and what is not understood
    *[(t, Any) for t in (int, None, list[int], Draft, Any)],
    *[(t, object) for t in (int, None, list[int], Draft)],
    *[(Any, t) for t in (int, None, list[int], Draft)],
    *[(object, int), (Never, int)],
    *[(int, t) for t in (T, P, "int", "Draft", ForwardRef("Draft"), 5, Closeable, Named, SupportsInt, Refusing)],
    *[(t, int) for t in (T, P, "str", ForwardRef("Draft"), 5, Closeable)],
    *[(list, Hashable), (io.StringIO, TextIO), (EmailStr, str), (str, EmailStr), (datetime, AwareDatetime)],
    *[(Mock, int), (Loose, list[int])],
    *[(list[T], list[int]), (list[int], list[T]), (list["Draft"], list[int])],  # type: ignore[valid-type]  # types are values here
    # the same, and wrapped
    *[(int, int), (None, None), (None, type(None)), (type(None), None), (Json, Json)],
    *[(Annotated[int, "x"], int), (int, Annotated[int, "x"]), (list[Annotated[int, 1]], list[int])],
    *[(UserId, int), (int, UserId), (UserId, UserId), (UserId, float), (list[UserId], list[int])],
    *[(Names, list[str]), (list[str], Names), (Json, Json | None), (ListOf[int], list[int])],
    # unions
    *[(int, int | None), (None, int | None), (None, Optional[int]), (int, Union[int, str])],
    *[(int | None, int | None), (int | None, None | str | int), (int | None, Any), (bool | int, int)],
    *[(list[int] | None, Sequence[int] | None), (Annotated[int | None, 1], Optional[int])],
    # literals
    *[(Literal["a"], str), (Literal["a"], Literal["a", "b"]), (Literal["a", "b"], Literal["b", "a", "c"])],
    *[(str, Literal["a", "b"]), (Literal["a", 1], str | int), (Literal[1], float), (Literal[None], None)],
    *[(bool, Literal[True, False]), (Literal["a", None], Literal["a"] | None), (Color, Literal[Color.RED])],
    *[(Literal["a"], Sequence[str]), (Literal[Color.RED], Color)],
    # classes
    *[(bool, int), (int, float), (bool, float), (int, complex), (float, complex), (bool, complex)],
    *[(Level, int), (Level, float), (Word, str), (Color, enum.Enum), (datetime, date)],
    *[(LongDraft, Draft), (LongDraft, BaseModel), (Square, Shape), (Point, Point), (Pair, tuple)],
    *[(int, Hashable), (list, Sized), (str, Sized), (Pair, Sequence), (Pair, tuple[int, str])],
    # containers
    *[(list[int], list), (list, list[int]), (list[Any], list[int]), (list[int], list[Any])],
    *[(List, list[int]), (List[int], list[int]), (Dict[str, int], dict[str, int]), (list[bool], list[int])],
    *[(list[int], list[float]), (list[int], list[int | None]), (list[LongDraft], list[Draft])],
    *[(list[int], Sequence[int]), (list[int], Iterable[int]), (list[int], Collection[int])],
    *[
        (list[int], MutableSequence[int]),
        (list[int], Iterable),
        (list, Iterable[int]),
        (deque[int], Iterable[int]),
        (deque[int], deque[int]),
    ],
    *[(set[int], AbstractSet[int]), (frozenset[int], AbstractSet[int]), (set[int], Iterable[float])],
    *[(str, Sequence[str]), (str, Iterable[str]), (str, Collection[str]), (bytes, Sequence[int])],
    *[(range, Iterable[int]), (Word, Iterable[str])],
    *[(Generator[int, None, None], Iterator[int]), (Generator[int, None, str], Iterable[str])],
    # mappings
    *[
        (dict[str, int], Mapping[str, int]),
        (dict[str, int], MutableMapping[str, int]),
        (dict[str, int], dict[str, int]),
    ],
    *[(dict, dict[str, int]), (dict[str, int], dict), (dict[str, int], dict[str, Any])],
    *[(dict[str, Any], dict[str, int]), (dict[str, int], Mapping[str, float])],
    *[(dict[str, int], Iterable[str]), (dict[str, int], Collection[str]), (Mapping[str, int], Iterable[str])],
    *[(defaultdict[str, int], dict[str, int]), (OrderedDict[str, int], Mapping[str, int])],
    *[(Counter[str], Mapping[str, int]), (Counter[str], dict[str, int])],
    # tuples
    *[(tuple[int, str], tuple), (tuple, tuple[int, str]), (Tuple[int, str], tuple[int, str])],
    *[(tuple[int, str], tuple[int, str]), (tuple[bool, str], tuple[float, str | None])],
    *[(tuple[int, int], tuple[int, ...]), (tuple[int, ...], tuple[int, ...])],
    *[(tuple[int, ...], tuple[int, int]), (tuple[bool, ...], tuple[int, ...])],
    *[(tuple[int, bool], Sequence[int]), (tuple[int, ...], Iterable[int]), (tuple[int, str], Iterable[int | str])],
    *[(tuple[int, *tuple[str, ...]], tuple[int, str, str]), (tuple[int, str], tuple[int, *tuple[str, ...]])],
    (tuple[int, *tuple[str, ...]], Iterable[int]),
    # typed dicts
    *[(Movie, t) for t in (dict, dict[str, Any], dict[str, object], Mapping[str, Any], Mapping, Iterable[str])],
    *[(Movie, Movie), (RatedMovie, Movie), (dict[str, Any], Movie), (dict, Movie), (Mapping[str, int], Movie)],
    *[(Movie | None, dict[str, Any] | None), (T, Movie)],
    # generic models and classes
    *[(PipelineResult[int], PipelineResult), (PipelineResult, PipelineResult[int])],
    *[(PipelineResult[int], PipelineResult[int]), (PipelineResult[int], PipelineResult[float])],
    *[(Box[int], BaseModel), (IntBox, Box), (IntBox, Box[int]), (Box[Any], Box[int]), (Box[int], Box[Any])],
    *[(Crate[int], Crate[int]), (Crate[int], Crate), (Crate, Crate[int]), (Crate[Draft], Crate[LongDraft])],
    # classes as values, and what is not looked into
    *[(type[int], type), (type, type[int]), (type[bool], type[int]), (Type[int], type[int])],
    *[(type[LongDraft], type[Draft]), (type[int | str], type[int | str]), (type[Color], Iterable[Color])],
    *[(type[int], type[Any]), (type[Any], type[int]), (type[Color], type(Color)), (type[int], Callable[..., int])],
    *[(Callable[[int], str], Callable[[str], int]), (Callable[..., int], Square), (int, Callable[..., int])],
    *[(Awaitable[int], Awaitable[str]), (Coroutine[Any, Any, int], int), (AsyncIterator[int], AsyncIterator[int])],
]

_MISMATCHED: list[tuple[Any, Any]] = [
    # plain
    *[(int, str), (str, int), (float, int), (complex, float), (int, bool), (int, Decimal), (None, int)],
    *[(int, None), (str, bytes), (Draft, str), (Draft, LongDraft), (Shape, Square), (Draft, Point)],
    *[(date, datetime), (Color, int), (str, Word), (Point, dict), (Draft, dict[str, Any]), (dict, Draft)],
    *[(int, Sized), (dict, Sequence)],
    # wrapped
    *[(Annotated[int, "x"], str), (int, Annotated[str, "x"]), (UserId, str), (str, UserId)],
    *[(Names, list[int]), (list[int], Names), (Json, list[Json])],
    # unions
    *[(int | None, int), (Optional[int], int), (Union[int, str], int), (int, str | None), (int | str, str | None)],
    *[(list[int] | None, list[int]), (list[int], list[str] | None), (list[int | None], list[int])],
    # literals
    *[(Literal["a"], int), (Literal["a", 1], str), (Literal["a"], Literal["b"]), (Literal["a", "b"], Literal["a"])],
    *[(int, Literal["a"]), (Literal[1], Literal[True]), (Literal[True], Literal[1]), (None, Literal["a"])],
    *[(Literal["a"], Sequence[int]), (Color, Literal["RED"]), (Literal["a"], Movie)],
    # containers
    *[(list[int], list[str]), (list[int], tuple), (list, tuple), (tuple[int, ...], list[int]), (list[int], set[int])],
    *[(list[int], Sequence[str]), (list[int], Iterable[str]), (list[int], Collection[str])],
    (list[int], MutableSequence[str]),
    *[(Sequence[int], list[int]), (Iterable[int], Sequence[int]), (list[list[int]], list[list[str]])],
    *[(str, Sequence[int]), (str, list[str]), (bytes, Iterable[str]), (range, Sequence[str])],
    *[(set[int], Sequence[int]), (set[int], AbstractSet[str]), (deque[int], deque[str]), (int, Iterable[int])],
    *[(dict[str, int], dict[str, str]), (dict[int, str], Mapping[str, str]), (dict[str, int], list[str])],
    *[(dict[str, int], Iterable[int]), (Mapping[str, int], dict[str, int]), (list[int], Mapping[int, int])],
    *[(defaultdict[str, int], dict[str, str]), (dict[str, list[int]], dict[str, list[str]])],
    *[(tuple[int, str], tuple[int]), (tuple[int, str], tuple[str, int]), (tuple[int, str], tuple[int, ...])],
    *[(tuple[str, ...], tuple[int, int]), (tuple[str, ...], tuple[int, ...]), (tuple[int, str], Sequence[int])],
    # typed dicts
    *[(Movie, RatedMovie), (int, Movie), (Draft, Movie), (Movie, dict[int, Any]), (Movie, list), (Movie, str)],
    # generic models and classes
    *[(PipelineResult[int], PipelineResult[str]), (Box[int], PipelineResult), (Box[int], Box[str]), (Box, IntBox)],
    *[(PipelineResult[int], int), (int, PipelineResult[int]), (Crate[int], Crate[str]), (Crate[int], Box[int])],
    # classes as values
    *[
        (type[int], type[str]),
        (type[Draft], Draft),
        (Draft, type[Draft]),
        (type[int], int),
        (type[int | str], type[int]),
    ],
]


@pytest.mark.parametrize(("produced", "consumed"), _FITTING)
def test_what_may_be_handed_on_fits(produced: Any, consumed: Any) -> None:
    """A value of the one type may be handed to what declares the other, or there is no telling."""
    assert fits(produced, consumed)


@pytest.mark.parametrize(("produced", "consumed"), _MISMATCHED)
def test_a_sure_mismatch_does_not_fit(produced: Any, consumed: Any) -> None:
    """A value of the one type is none that the other declares."""
    assert not fits(produced, consumed)


_types = st.recursive(
    st.sampled_from(
        [int, str, bool, float, None, Draft, LongDraft, Point, Color, bytes, Literal["a", "b"], Movie, Any]
    ),
    lambda inner: st.one_of(
        inner.map(lambda t: list[t]),  # type: ignore[valid-type]  # a value here
        inner.map(lambda t: Sequence[t]),  # type: ignore[valid-type]  # a value here
        inner.map(lambda t: dict[str, t]),  # type: ignore[valid-type]  # a value here
        inner.map(lambda t: tuple[t, ...]),  # type: ignore[valid-type]  # a value here
        inner.map(lambda t: Annotated[t, "note"]),
        st.tuples(inner, inner).map(lambda pair: Union[pair]),
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),  # type: ignore[valid-type]  # a value here
    ),
    max_leaves=6,
)


@given(_types)
def test_every_type_fits_itself(t: Any) -> None:
    """A value may be handed to what declares the very same type, an optional one, or anything."""
    assert fits(t, t)
    assert fits(t, Optional[t])
    assert fits(t, Any)


@given(_types, _types, _types)
def test_a_union_fits_where_all_its_members_do(a: Any, b: Any, consumed: Any) -> None:
    """A produced union is refused exactly if one of its members is, and a consumed union takes what a member takes."""
    assert fits(Union[a, b], consumed) == (fits(a, consumed) and fits(b, consumed))
    if fits(consumed, a):
        assert fits(consumed, Union[a, b])


_ACCEPTED: list[tuple[Any, Any]] = [
    *[(Any, 1), (object, None), (int, 1), (int, True), (float, 1), (float, True), (complex, 1.0), (complex, 1)],
    *[(None, None), (type(None), None), (int | None, None), (Optional[str], "a"), (Union[int, str], "a")],
    *[(Literal["a", 1], "a"), (Literal[Color.RED], Color.RED), (Color, Color.RED), (str, Word.YES)],
    *[(Draft, LongDraft()), (Shape, Square()), (Point, Point()), (UserId, 1), (Annotated[int, "x"], 1)],
    *[(list, [1]), (list[int], ["not looked at"]), (Sequence[int], (1,)), (Iterable[int], "abc"), (list[int], [])],
    *[(dict[str, int], {}), (Mapping[str, int], {1: 1}), (tuple[int, str], ()), (tuple[int, str], Pair(1, "a"))],
    *[(Movie, {}), (Movie, OrderedDict()), (Movie | None, {"title": 1}), (Json, 1), (Names, []), (ListOf[int], [])],
    *[(Box[int], Box(item=1)), (Box[int], Box[int](item=1)), (Box, Box[int](item=1)), (Crate[int], Crate())],
    *[(type[int], str), (type, int), (Callable[..., int], len), (Callable[..., int], 5), (Awaitable[int], 5)],
    *[(T, 1), (P, 1), ("int", "a"), (ForwardRef("Draft"), 1), (Closeable, 1), (Named, 1), (5, 1), (Never, 1)],
    *[(int, Mock()), (list[int], Loose()), (EmailStr, "a@b.c"), (TextIO, io.StringIO())],
    *[(Refusing, 1), (Refusing | None, 1), (list[T], [])],  # type: ignore[valid-type]  # types are values here
]

_REFUSED: list[tuple[Any, Any]] = [
    *[(int, "a"), (str, 1), (int, 1.0), (float, 1j), (int, None), (None, 0), (bool, 1), (bytes, "a")],
    *[(int | None, "a"), (Union[int, str], 1.0), (Literal["a"], "b"), (Literal["a"], 1), (Color, 1), (Word, "yes")],
    *[(Draft, {}), (LongDraft, Draft()), (Point, Draft()), (UserId, "a"), (Annotated[int, "x"], "a")],
    *[(list, ()), (list[int], (1,)), (Sequence[int], {1}), (dict[str, int], []), (tuple[int, str], [1, "a"])],
    *[(Mapping[str, int], Draft()), (Movie, []), (Movie, Draft()), (Movie | None, 1), (Json, 1.5), (Names, "a")],
    *[(Box[int], 1), (Crate[int], 1), (type[int], 1), (type, 1), (ListOf[int], ())],
]


@pytest.mark.parametrize(("consumed", "value"), _ACCEPTED)
def test_a_value_that_may_be_right_is_accepted(consumed: Any, value: object) -> None:
    """The value is of the declared class, or there is no telling."""
    assert accepts(consumed, value)


@pytest.mark.parametrize(("consumed", "value"), _REFUSED)
def test_a_value_of_another_class_is_not_accepted(consumed: Any, value: object) -> None:
    """The value is surely none that the type declares."""
    assert not accepts(consumed, value)


def test_recursive_aliases_end() -> None:
    """Two aliases that contain themselves are taken to fit, as nobody can follow them to the end."""

    def recursive() -> Any:
        alias: Any = type("TypeAliasType", (), {})()
        alias.__value__ = GenericAlias(list, alias) | GenericAlias(dict, (str, alias))
        return alias

    assert fits(recursive(), recursive())
    assert not fits(recursive(), list[int])
    assert not accepts(recursive(), 1)


def test_a_value_that_cannot_be_compared_is_accepted() -> None:
    """Nothing a value does makes the question fail."""

    class Wild:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no answer")

        __hash__ = None  # type: ignore[assignment]  # not needed

    assert accepts(Literal["a"], Wild())
    assert accepts(Wild(), 1)
    assert fits(Wild(), Wild())


@pytest.mark.parametrize(
    ("t", "name"),
    [
        *[(int, "int"), (None, "None"), (type(None), "None"), (Any, "Any"), (Draft, "Draft"), (object, "object")],
        *[(list[int], "list[int]"), (list, "list"), (List[int], "list[int]"), (List, "list")],
        *[(dict[str, Draft], "dict[str, Draft]"), (tuple[int, ...], "tuple[int, ...]"), (Pair, "Pair")],
        *[(int | None, "int | None"), (Optional[Draft], "Draft | None"), (Union[int, str], "int | str")],
        *[(Sequence[list[int | None]], "Sequence[list[int | None]]"), (Iterable[Any], "Iterable[Any]")],
        *[(Literal["a", 1], "Literal['a', 1]"), (Annotated[int, "x"], "int"), (UserId, "UserId"), (Json, "Json")],
        *[(Callable[[int, Draft], str], "Callable[[int, Draft], str]"), (Callable[..., int], "Callable[..., int]")],
        *[
            (type[Draft], "type[Draft]"),
            (PipelineResult[Draft], "PipelineResult[Draft]"),
            (Box[int | None], "Box[int | None]"),
        ],
        *[(PipelineResult, "PipelineResult"), (Crate[Draft], "Crate[Draft]"), (ListOf[int], "ListOf[int]")],
        *[(T, "T"), (P, "P"), ("Draft", "Draft"), (ForwardRef("Draft"), "Draft"), (Movie, "Movie"), (5, "5")],
        *[(Never, "Never"), (Closeable, "Closeable"), (Color, "Color"), (list["Draft"], "list[Draft]")],
    ],
)
def test_a_type_is_named_as_people_write_it(t: Any, name: str) -> None:
    """Names come without modules."""
    assert type_name(t) == name


@given(_types)
def test_a_name_is_python(t: Any) -> None:
    """The name of a type, evaluated, is that type, as far as `fits` can tell."""
    names = {"Draft": Draft, "LongDraft": LongDraft, "Point": Point, "Color": Color, "Movie": Movie}
    evaluated = eval(type_name(t), {**names, "Sequence": Sequence, "Literal": Literal, "Any": Any})

    assert fits(t, evaluated)
    assert fits(evaluated, t)
