"""How values of the standard library are written: each as a tag and parts that JSON or the codec can write.

Every entry gives back a value that is equal to the one written and of the same type.
"""

import base64
import ipaddress
import re
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic_core import TzInfo


@dataclass(slots=True, frozen=True)
class StandardType:
    """How values of one type are written and read.

    Attributes:
        tag: What they are marked with.
        parts_of: Takes a value; returns what it is made of, or raises `ValueError` if that says not all of it.
        make: Takes the parts, read back; returns the value.
    """

    tag: str
    parts_of: Callable[[Any], Any]
    make: Callable[[Any], Any]


_FACTORIES: dict[str, type] = {each.__name__: each for each in (bool, bytes, dict, float, int, list, set, str, tuple)}
"""What a `defaultdict` may make its values with."""


def _zone_parts(zone: tzinfo | None) -> Any:
    if zone is None or zone is UTC:
        return None if zone is None else "UTC"
    if type(zone) is timezone:
        offset: timedelta = zone.utcoffset(None)
        name = zone.tzname(None)
        return ["fixed", _delta_parts(offset), None if name == timezone(offset).tzname(None) else name]
    if type(zone) is TzInfo:
        return ["offset", int((zone.utcoffset(None) or timedelta()).total_seconds())]
    key: str | None = zone.key if type(zone) is ZoneInfo else None
    if key is not None:  # as it is for a zone that was read from a file
        return ["zone", key]
    raise ValueError(f"its time zone is a {type(zone).__name__}; use datetime.timezone or zoneinfo.ZoneInfo")


def _zone(parts: Any) -> tzinfo | None:
    match parts:
        case None:
            return None
        case "UTC":
            return UTC
        case ["fixed", delta, None]:
            return timezone(timedelta(*delta))
        case ["fixed", delta, name]:
            return timezone(timedelta(*delta), name)
        case ["offset", seconds]:
            return TzInfo(seconds)
        case ["zone", key]:
            return ZoneInfo(key)
        case _:
            raise ValueError(f"{parts!r} is no time zone")


def _delta_parts(delta: timedelta) -> list[int]:
    return [delta.days, delta.seconds, delta.microseconds]


def _datetime_parts(moment: datetime) -> list[Any]:
    return [moment.replace(tzinfo=None).isoformat(), moment.fold, _zone_parts(moment.tzinfo)]


def _datetime(parts: list[Any]) -> datetime:
    text, fold, zone = parts
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_zone(zone))


def _time_parts(moment: time) -> list[Any]:
    return [moment.replace(tzinfo=None).isoformat(), moment.fold, _zone_parts(moment.tzinfo)]


def _time(parts: list[Any]) -> time:
    text, fold, zone = parts
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_zone(zone))


def _pairs(values: dict[Any, Any]) -> list[list[Any]]:
    return list(map(list, values.items()))


def _default_parts(values: defaultdict[Any, Any]) -> list[Any]:
    factory: Any = values.default_factory
    if factory is not None and _FACTORIES.get(getattr(factory, "__name__", "")) is not factory:
        raise ValueError(f"its default factory is {factory!r}; use a built-in type such as list")
    return [None if factory is None else factory.__name__, _pairs(values)]


def _default(parts: list[Any]) -> defaultdict[Any, Any]:
    name, pairs = parts
    return defaultdict(None if name is None else _FACTORIES[name], map(tuple, pairs))


def _encoded(content: bytes | bytearray) -> str:
    return base64.b64encode(content).decode("ascii")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def float_parts(number: float) -> str:
    """Return the eight bytes of a float as hexadecimal digits; for those that JSON has not."""
    return struct.pack(">d", number).hex()


def float_of(digits: str) -> float:
    """Return the float of eight bytes."""
    (number,) = struct.unpack(">d", bytes.fromhex(digits))
    return float(number)


STANDARD_TYPES: dict[type, StandardType] = {
    bytes: StandardType("bytes", _encoded, _decoded),
    bytearray: StandardType("bytearray", _encoded, lambda text: bytearray(_decoded(text))),
    complex: StandardType(
        "complex", lambda z: [float_parts(z.real), float_parts(z.imag)], lambda p: complex(*map(float_of, p))
    ),
    Decimal: StandardType("Decimal", str, Decimal),
    Fraction: StandardType("Fraction", lambda f: [f.numerator, f.denominator], lambda p: Fraction(*p)),
    range: StandardType("range", lambda r: [r.start, r.stop, r.step], lambda p: range(*p)),
    type(...): StandardType("Ellipsis", lambda _: None, lambda _: ...),
    tuple: StandardType("tuple", list, tuple),
    OrderedDict: StandardType("OrderedDict", _pairs, lambda pairs: OrderedDict(map(tuple, pairs))),
    Counter: StandardType("Counter", _pairs, lambda pairs: Counter(dict(map(tuple, pairs)))),
    defaultdict: StandardType("defaultdict", _default_parts, _default),
    deque: StandardType("deque", lambda d: [d.maxlen, list(d)], lambda p: deque(p[1], p[0])),
    datetime: StandardType("datetime", _datetime_parts, _datetime),
    date: StandardType("date", date.isoformat, date.fromisoformat),
    time: StandardType("time", _time_parts, _time),
    timedelta: StandardType("timedelta", _delta_parts, lambda p: timedelta(*p)),
    timezone: StandardType("timezone", _zone_parts, _zone),
    ZoneInfo: StandardType("ZoneInfo", _zone_parts, _zone),
    UUID: StandardType("UUID", lambda uuid: uuid.hex, UUID),
    re.Pattern: StandardType("Pattern", lambda p: [p.pattern, p.flags], lambda p: re.compile(*p)),
    **{cls: StandardType(cls.__name__, str, cls) for cls in (PosixPath, WindowsPath, PurePosixPath, PureWindowsPath)},
    **{
        cls: StandardType(cls.__name__, str, cls)
        for cls in (
            *(ipaddress.IPv4Address, ipaddress.IPv4Network, ipaddress.IPv4Interface),
            *(ipaddress.IPv6Address, ipaddress.IPv6Network, ipaddress.IPv6Interface),
        )
    },
}
"""By exact type; a subclass is another type."""

MAKERS: dict[str, Callable[[Any], Any]] = {each.tag: each.make for each in STANDARD_TYPES.values()}
"""By tag, what makes a value of its parts."""
