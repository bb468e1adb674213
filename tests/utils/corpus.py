"""Values that have to survive being stored, and values that have to be refused."""

# ruff: noqa: DTZ001, DTZ901 - moments without a time zone have to survive too, and tables are wide

import ipaddress
import math
import re
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, PrivateAttr, RootModel, TypeAdapter

from flujo import HumanInteraction, PipelineContext, PipelineResult, RefinementCheck, StepResult

T = TypeVar("T")


class Color(Enum):
    RED = 1
    BLUE = "blue"
    MIXED = ("a", 1)


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mood(StrEnum):
    GLAD = "glad"


class Rights(Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    label: str = ""


@dataclass
class Plain:
    a: int
    b: list[Any] = field(default_factory=list[Any])


@dataclass(frozen=True, slots=True)
class Frozen:
    plain: Plain
    when: datetime | None = None


@dataclass
class Derived(Plain):
    c: str = "c"
    made: int = field(init=False, default_factory=lambda: 7)


class Animal(BaseModel):
    name: str = "animal"
    _secret: int = PrivateAttr(default=1)

    def keep_secret(self, secret: int) -> None:
        self._secret = secret


class Dog(Animal):
    tricks: list[str] = []

    @cached_property
    def loudness(self) -> int:
        return len(self.tricks)


class Owner(BaseModel):
    model_config = ConfigDict(frozen=True)

    pets: list[Animal] = []
    favourite: Animal | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    a: int = 0


class Box(BaseModel, Generic[T]):
    content: T


class Names(RootModel[list[str]]):
    pass


class Anything(BaseModel):
    value: Any = None


class Context(PipelineContext):
    value: Any = None
    owner: Owner | None = None


DECLARED = (
    *(Color, Level, Mood, Rights, Point, Plain, Frozen, Derived, Animal, Owner, Open, Box, Names, Anything, Context),
    *(StepResult, PipelineResult[Any], HumanInteraction, RefinementCheck),
)
"""What a workflow over these values would declare."""


def _dog() -> Dog:
    dog = Dog(name="Rex", tricks=["sit"])
    dog.keep_secret(5)
    assert dog.loudness == 1
    return dog


def _step_result() -> StepResult:
    child = StepResult("child", (1, 2), cost=Decimal("0.10"), token_counts=3, metadata_={"cache_hit": True})
    return StepResult(
        "parent", {"child": child}, status="failed", attempts=2, latency_s=0.5, feedback="no", step_history=[child]
    )


_NAN_WITH_PAYLOAD = struct.unpack(">d", bytes.fromhex("fff8000000000abc"))[0]
_BERLIN = ZoneInfo("Europe/Berlin")

TEXTS: tuple[str, ...] = (
    *("", " ", "text", "\x00", "a\x00b", "\n\r\t\x7f\x80", "é", "日本語", "😀", "\ufeff", "\u2028", '"\\/'),
    *("\ud800", "\udfff", "a\ud83dz", "\ud83d\ude00", "\udcff path", "$", "null", "NaN"),
)

NUMBERS: tuple[Any, ...] = (
    *(True, False, 0, 1, -1, 2**53 + 1, 2**63, -(2**64), 2**1024, -(2**1025), 10**5000),
    *(0.0, -0.0, 1.0, 0.1, 1e308, 5e-324, 1e16, math.nan, _NAN_WITH_PAYLOAD, math.inf, -math.inf),
    *(Decimal("0"), Decimal("-0"), Decimal("1.10"), Decimal("1E+999999"), Decimal("NaN"), Decimal("-sNaN12")),
    *(Decimal("Infinity"), Decimal(10) ** -400, Fraction(1, 3), Fraction(-(10**400), 7)),
    *(1j, complex(-0.0, math.inf), complex(math.nan, -0.0)),
)

MOMENTS: tuple[Any, ...] = (
    *(date.min, date(2024, 2, 29), date.max, datetime.min, datetime.max, datetime(2024, 1, 1, 12, 30, 15, 123456)),
    *(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 10, 27, 2, 30, tzinfo=_BERLIN, fold=1)),
    *(datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3, seconds=5), "odd")), datetime(2024, 1, 1, fold=1)),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    TypeAdapter(datetime).validate_python("2024-01-01T00:00:00+02:00"),
    TypeAdapter(datetime).validate_python("2024-01-01T00:00:00Z"),
    *(time.min, time(23, 59, 59, 999999), time(1, tzinfo=UTC), time(2, 30, fold=1)),
    *(timedelta(0), timedelta(-1, 5, 3), timedelta.max, timedelta.min, UTC, timezone(timedelta(hours=1)), _BERLIN),
)

CONTAINERS: tuple[Any, ...] = (  # pyright: ignore[reportUnknownVariableType]  # of anything
    *([], [[]], [None, [1, ["x"]]], (), ((),), (1, "a", None), ([1], {2}), set[int](), {1, "a", None}),
    *(frozenset[int](), frozenset({(1, 2), frozenset({3})}), {"": ""}, {"\ud800"}),
    *({}, {"a": {"b": [1, {"c": ()}]}}, {"$": 1}, {"$": {"$": {"v": 1, "t": "x:y"}}}, {"v": 1, "t": 2}),
    *({1: "int", "1": "text"}, {None: 0}, {True: 1}, {1.5: 0}, {(1, (2,)): {3}}, {b"k": b"v"}, {"\ud800": 1}),
    *({Color.RED: Color.BLUE}, {date(2024, 1, 1): 1}, {frozenset({1}): 1}, {math.inf: -math.inf}),
    *(OrderedDict([("b", 1), ("a", {2: 3})]), Counter("abca"), Counter({"x": -1, (1,): 0})),
    *(defaultdict(list, {1: [2]}), defaultdict(None, {"a": 1}), defaultdict(int)),
    *(deque([1, (2,)]), deque([1, 2], maxlen=2), deque(maxlen=0), range(0), range(10, 0, -3)),
    *([[1, [2, [3]]]] * 2, {"shared": [TEXTS, NUMBERS]}),
)  # fmt: skip

SCALARS: tuple[Any, ...] = (
    *(None, ..., b"", b"\x00\xff", bytes(range(256)), bytearray(b"ab"), UUID(int=0), UUID(int=2**128 - 1)),
    *(Path("a/b"), Path("/"), Path("/caf\udce9"), PurePosixPath(), PureWindowsPath("c:\\x")),
    *(re.compile("a(?i:b)", re.MULTILINE | re.VERBOSE), re.compile(b"\xff"), re.compile("(?a)x"), re.compile("")),
    *(ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8")),
    *(ipaddress.ip_interface("10.0.0.1/8"), ipaddress.ip_network("::/64"), ipaddress.ip_interface("::1/64")),
)

STRUCTURED: tuple[Any, ...] = (
    *(*Color, *Level, *Mood, Rights.READ, Rights.READ | Rights.WRITE, Rights(0)),
    *(Point(1), Point(2, "\ud800"), Plain(1), Plain(2, [Plain(3), (Color.RED,)]), Frozen(Plain(1), datetime.max)),
    *(Derived(1, [2], "x"), Animal(), _dog(), Owner(pets=[_dog(), Animal(name="")], favourite=_dog())),
    *(
        Owner.model_construct(),
        Open.model_validate({"a": 1, "b": [(1,)]}),
        Open(),
        Box[int](content=1),
        Box[list[Dog]](content=[_dog()]),
    ),
    *(Box[Any](content={1: 2}), Names(["a"]), Anything(value=[_dog(), Rights.READ])),
    *(
        Context(initial_prompt="\x00", value={(1,): {2}}, owner=Owner()),
        Context(initial_prompt="", scratchpad={"a": 1}),
    ),
    *(RefinementCheck(is_complete=True), StepResult("s", [Color.RED]), _step_result()),
    HumanInteraction(message_to_human="?", human_response={"ok": True}, timestamp=datetime(2024, 1, 1, tzinfo=UTC)),
    PipelineResult[Any](run_id="r", output=(1,), step_history=[_step_result()], total_cost=Decimal("0.1")),
)

NESTED: tuple[Any, ...] = (
    *({"a": (value,), "b": [{"c": value}]} for value in (*STRUCTURED[:12], *MOMENTS[4:12], *SCALARS[:6])),
    *(Anything(value={"deep": [Anything(value=(value,))]}) for value in NUMBERS[-8:]),
)

VALUES: tuple[Any, ...] = (*TEXTS, *NUMBERS, *MOMENTS, *CONTAINERS, *SCALARS, *STRUCTURED, *NESTED)


class Image:
    """A class of the user's that nobody registered."""


class Undeclared(BaseModel):
    a: int = 1


class Shade(Enum):
    DARK = 1


class Text(str):
    __slots__ = ()


class Numbers(dict[str, int]):
    pass


class _OddZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, when: datetime | None) -> None:
        return None

    def tzname(self, when: datetime | None) -> str:
        return "odd"


@dataclass
class Grown:
    a: int = 1


def _grown() -> Grown:
    grown = Grown()
    vars(grown)["b"] = 2
    return grown


REFUSED: tuple[Any, ...] = (  # pyright: ignore[reportUnknownVariableType]  # of anything
    *(Image(), Image, print, _dog, object(), Text("x"), Numbers(a=1), memoryview(b"x"), iter([1]), NotImplemented),
    *(ValueError("x"), Undeclared(), Shade.DARK, math, defaultdict(lambda: 1), datetime(2024, 1, 1, tzinfo=_OddZone())),
    *(_grown(), Animal.model_construct(name=Image()), Box[int].model_construct(), slice(1), (each for each in "x")),
)
"""Values that would not come back as they are."""
