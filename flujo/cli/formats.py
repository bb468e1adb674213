"""How the command line writes durations, money, and the parts of a step's path."""

from decimal import Decimal

from flujo.domain.money import format_usd

_SMALLEST_SHOWN_USD = Decimal("0.000001")
_SMALLEST_RUNNING_USD = Decimal("0.001")


def duration(seconds: float) -> str:
    """Return seconds as people read them, such as `20 ms`, `12.3 s` or `2 min 03 s`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"


def money(amount: Decimal) -> str:
    """Return US dollars to a millionth, such as `$0.05`."""
    if 0 < amount < _SMALLEST_SHOWN_USD:
        return f"<{format_usd(_SMALLEST_SHOWN_USD)}"
    return format_usd(round(amount, 6))


def running_money(amount: Decimal) -> str:
    """Return US dollars that change while they are looked at, with four places, such as `$0.0400`; more for less."""
    return _with_places(money(amount if amount < _SMALLEST_RUNNING_USD else round(amount, 4)), 4)


def whole_money(amount: Decimal) -> str:
    """Return US dollars exactly, with cents at the least, such as `$0.50`."""
    return _with_places(format_usd(amount), 2)


def _with_places(text: str, places: int) -> str:
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.ljust(places, '0')}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number of things, such as `1 step` or `1,200 steps`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def label_of(part: str) -> str:
    """Return one part of a path in words, such as `branch legal` for `branch:legal`; nothing for a position."""
    return "" if part.isdecimal() else part.replace(":", " ", 1)
