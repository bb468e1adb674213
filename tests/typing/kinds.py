"""One of every kind of type that a step may declare."""

import contextlib
import datetime
import enum
import io
import os
import re
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Container,
    Generator,
    Hashable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    MutableSequence,
    Reversible,
    Sequence,
    Sized,
    ValuesView,
)
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import (
    IO,
    Any,
    Generic,
    Literal,
    LiteralString,
    NamedTuple,
    Never,
    NewType,
    Protocol,
    SupportsInt,
    TextIO,
    TypedDict,
    TypeVar,
)
from unittest.mock import Mock

from pydantic import AwareDatetime, BaseModel, EmailStr, PastDate, PositiveInt, RootModel, SecretStr
from typing_extensions import TypeAliasType

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
K = TypeVar("K")
V = TypeVar("V")


class Draft(BaseModel):
    text: str = ""


class LongDraft(Draft): ...


class Box(BaseModel, Generic[T]):
    item: T


class IntBox(Box[int]): ...


class Crate(Generic[T_co]): ...


class Swapped(dict[V, K], Generic[K, V]): ...


class Ints(list[int]): ...


class Rows:
    def __iter__(self) -> Iterator[int]:
        return iter([1])


class Closeable(Protocol):
    def close(self) -> None: ...


class Door:
    def close(self) -> None: ...


@dataclass
class Point:
    x: int = 0


class Pair(NamedTuple):
    a: int
    b: str


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Movie(TypedDict):
    title: str


class Film(TypedDict):
    title: str


class RatedMovie(Movie):
    rating: float


UserId = NewType("UserId", int)
Json = TypeAliasType("Json", dict[str, Any] | list[Any] | int | str)

KINDS: dict[str, Any] = {
    "int": int,
    "str": str,
    "bytes": bytes,
    "bool": bool,
    "float": float,
    "complex": complex,
    "None": None,
    "object": object,
    "Any": Any,
    "Decimal": Decimal,
    "Path": Path,
    "os.PathLike[str]": os.PathLike[str],
    "int | None": int | None,
    "str | int": str | int,
    "Literal['a']": Literal["a"],
    "Literal['a', 'b']": Literal["a", "b"],
    "Literal[True, False]": Literal[True, False],
    "Literal[Color.RED, Color.BLUE]": Literal[Color.RED, Color.BLUE],
    "Literal[1]": Literal[1],
    "LiteralString": LiteralString,
    "Color": Color,
    "Level": Level,
    "Word": Word,
    "UserId": UserId,
    "Json": Json,
    "PositiveInt": PositiveInt,
    "EmailStr": EmailStr,
    "AwareDatetime": AwareDatetime,
    "PastDate": PastDate,
    "SecretStr": SecretStr,
    "datetime.datetime": datetime.datetime,
    "datetime.date": datetime.date,
    "list[int]": list[int],
    "list[str]": list[str],
    "list[Never]": list[Never],
    "list[Any]": list[Any],
    "Ints": Ints,
    "UserList[int]": UserList[int],
    "deque[int]": deque[int],
    "set[int]": set[int],
    "frozenset[int]": frozenset[int],
    "tuple[int, ...]": tuple[int, ...],
    "tuple[int, str]": tuple[int, str],
    "tuple[()]": tuple[()],
    "tuple[int, *tuple[str, ...]]": tuple[int, *tuple[str, ...]],
    "Pair": Pair,
    "range": range,
    "Sequence[int]": Sequence[int],
    "Sequence[str]": Sequence[str],
    "Sequence[object]": Sequence[object],
    "MutableSequence[int]": MutableSequence[int],
    "Iterable[int]": Iterable[int],
    "Iterable[str]": Iterable[str],
    "Iterable[tuple[str, int]]": Iterable[tuple[str, int]],
    "Iterator[int]": Iterator[int],
    "Collection[str]": Collection[str],
    "Container[int]": Container[int],
    "Reversible[int]": Reversible[int],
    "Sized": Sized,
    "Hashable": Hashable,
    "Generator[int, None, None]": Generator[int, None, None],
    "AsyncIterator[int]": AsyncIterator[int],
    "dict[str, int]": dict[str, int],
    "dict[str, Any]": dict[str, Any],
    "defaultdict[str, int]": defaultdict[str, int],
    "OrderedDict[str, int]": OrderedDict[str, int],
    "Counter[str]": Counter[str],
    "ChainMap[str, int]": ChainMap[str, int],
    "UserDict[str, int]": UserDict[str, int],
    "Swapped[int, str]": Swapped[int, str],
    "Mapping[str, int]": Mapping[str, int],
    "Mapping[str, object]": Mapping[str, object],
    "MutableMapping[str, int]": MutableMapping[str, int],
    "KeysView[str]": KeysView[str],
    "ValuesView[int]": ValuesView[int],
    "ItemsView[str, int]": ItemsView[str, int],
    "AbstractSet[int]": AbstractSet[int],
    "enumerate[str]": enumerate[str],
    "Movie": Movie,
    "Film": Film,
    "RatedMovie": RatedMovie,
    "Draft": Draft,
    "LongDraft": LongDraft,
    "BaseModel": BaseModel,
    "Box[int]": Box[int],
    "Box[str]": Box[str],
    "IntBox": IntBox,
    "RootModel[list[int]]": RootModel[list[int]],
    "Crate[int]": Crate[int],
    "Crate[float]": Crate[float],
    "Point": Point,
    "Rows": Rows,
    "Closeable": Closeable,
    "Door": Door,
    "SupportsInt": SupportsInt,
    "Mock": Mock,
    "type[int]": type[int],
    "type[LongDraft]": type[LongDraft],
    "type[Draft]": type[Draft],
    "type[Color]": type[Color],
    "Iterable[Color]": Iterable[Color],
    "Callable[[str], int]": Callable[[str], int],
    "Callable[..., Draft]": Callable[..., Draft],
    "Awaitable[int]": Awaitable[int],
    "TextIO": TextIO,
    "IO[str]": IO[str],
    "io.StringIO": io.StringIO,
    "re.Pattern[str]": re.Pattern[str],
    "contextlib.AbstractContextManager[int]": contextlib.AbstractContextManager[int],
    "ValueError": ValueError,
    "Exception": Exception,
}
"""The types, by how they are written here."""
