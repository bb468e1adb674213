"""Budgets that many runs share: what may be spent in a window of time, and what has been."""

import reprlib
from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from flujo.domain.money import ZERO, add_usd, exact_usd, format_usd, subtract_usd
from flujo.exceptions import ConfigurationError

Per = Literal["hour", "day", "month"]
"""How long a window of a budget is."""

_PERS = get_args(Per)
_MILLISECOND = Decimal("0.001")


@dataclass(slots=True, frozen=True)
class Amounts:
    """What calls use.

    Attributes:
        usd: US dollars, exact.
        tokens: Input and output together.
        requests: How many calls; of an agent of a model, how many requests.
        seconds: How long they took, one after the other.

    Example:
        ```python
        from decimal import Decimal

        from flujo import Amounts

        assert (Amounts(usd=Decimal("0.1"), tokens=5) + Amounts(usd=Decimal("0.2"))).usd == Decimal("0.3")
        ```
    """

    usd: Decimal = ZERO
    tokens: int = 0
    requests: int = 0
    seconds: Decimal = ZERO

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            add_usd(self.usd, other.usd),
            self.tokens + other.tokens,
            self.requests + other.requests,
            add_usd(self.seconds, other.seconds),
        )

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            subtract_usd(self.usd, other.usd),
            self.tokens - other.tokens,
            self.requests - other.requests,
            subtract_usd(self.seconds, other.seconds),
        )

    def __bool__(self) -> bool:
        """Tell whether anything is used."""
        return bool(self.usd or self.tokens or self.requests or self.seconds)

    def __str__(self) -> str:
        """Return them as people read them, such as `$0.05, 120 tokens`."""
        return describe_amounts(self.usd, self.tokens, self.requests, self.seconds) or "nothing"


@dataclass(slots=True, frozen=True)
class AmountLimits:
    """What may be used; `None` is no limit.

    Attributes:
        usd: US dollars, exact.
        tokens: Input and output together.
        requests: How many calls.
        seconds: How long they may take, one after the other.
    """

    usd: Decimal | None = None
    tokens: int | None = None
    requests: int | None = None
    seconds: Decimal | None = None

    def plus(self, more: Amounts) -> "AmountLimits":
        """Return limits that allow so much more."""
        return AmountLimits(
            None if self.usd is None else add_usd(self.usd, more.usd),
            None if self.tokens is None else self.tokens + more.tokens,
            None if self.requests is None else self.requests + more.requests,
            None if self.seconds is None else add_usd(self.seconds, more.seconds),
        )

    def less(self, used: Amounts) -> "AmountLimits":
        """Return what is left of them; less than nothing if they are passed."""
        return AmountLimits(
            None if self.usd is None else subtract_usd(self.usd, used.usd),
            None if self.tokens is None else self.tokens - used.tokens,
            None if self.requests is None else self.requests - used.requests,
            None if self.seconds is None else subtract_usd(self.seconds, used.seconds),
        )

    def allow(self, used: Amounts) -> bool:
        """Tell whether they allow so much."""
        return (
            (self.usd is None or used.usd <= self.usd)
            and (self.tokens is None or used.tokens <= self.tokens)
            and (self.requests is None or used.requests <= self.requests)
            and (self.seconds is None or used.seconds <= self.seconds)
        )

    def __str__(self) -> str:
        """Return them as people read them, such as `$5, 100 requests`."""
        return describe_amounts(self.usd, self.tokens, self.requests, self.seconds, skips=None) or "no limit"


def describe_amounts(
    usd: Decimal | None,
    tokens: int | None,
    requests: int | None,
    seconds: Decimal | None,
    *,
    skips: Literal[0] | None = 0,
) -> str:
    """Return amounts as people read them, without those that are nothing (or, if `skips` is `None`, no limit)."""
    given = [(usd, None), (tokens, "token"), (requests, "request"), (seconds, "second")]
    return ", ".join(
        [
            format_usd(Decimal(amount)) if unit is None else f"{_plain(amount)} {unit}{'' if amount == 1 else 's'}"
            for amount, unit in given
            if amount is not None and (skips is None or amount != skips)
        ]
    )


def _plain(amount: Decimal | int) -> str:
    return format_usd(Decimal(amount)).removeprefix("$")


@dataclass(slots=True, frozen=True)
class Budget:
    """What all runs that name it may use together, kept in the store of their runner.

    Args:
        name: What it is called; all who say this name on one store share it.
        usd: US dollars (a float is read as the decimal it prints as); `None` for no limit.
        tokens: Input and output together.
        requests: How many calls.
        seconds: How long they may take, one after the other; thousandths of a second count.
        per: Begins anew in every `hour`, `day` or `month`; `None` for a budget that never does.
        timezone: The zone in which hours, days and months begin, such as `Europe/Berlin`.

    Raises:
        ConfigurationError: A limit is negative or no number, `per` is none of these, or there is no such zone.

    Example:
        ```python
        from flujo import Budget, Flujo, InMemoryBackend, Step

        team = Budget("team", usd=5, requests=1_000, per="day", timezone="Europe/Berlin")
        runner = Flujo(Step("shout", str.upper), budgets=[team], state_backend=InMemoryBackend())
        assert runner.run("hello").output == "HELLO"
        ```
    """

    name: str
    usd: Decimal | float | None = None
    tokens: int | None = None
    requests: int | None = None
    seconds: Decimal | float | None = None
    per: Per | None = None
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"a budget needs a name that is text and not empty, not {self.name!r}")
        if self.per is not None and self.per not in _PERS:
            known = ", ".join(map(repr, _PERS))
            raise ConfigurationError(f"budget {self.name!r}: per is {self.per!r}; it is one of {known}, or None")
        _zone(self)
        set_field = object.__setattr__  # past being frozen, while it is made
        set_field(self, "usd", self._exact("usd", self.usd))
        seconds = self._exact("seconds", self.seconds)
        set_field(self, "seconds", None if seconds is None else in_milliseconds(seconds))
        for kind in ("tokens", "requests"):
            self._check_count(kind, getattr(self, kind))

    def _exact(self, kind: str, amount: Decimal | float | None) -> Decimal | None:
        try:
            return None if amount is None else exact_usd(amount)
        except ValueError:
            raise self._no_amount(kind, amount) from None

    def _check_count(self, kind: str, amount: object) -> None:
        if amount is not None and (not isinstance(amount, int) or isinstance(amount, bool) or not 0 <= amount < 2**62):
            raise self._no_amount(kind, amount)

    def _no_amount(self, kind: str, amount: object) -> ConfigurationError:
        return ConfigurationError(
            f"budget {self.name!r}: {kind} is {reprlib.repr(amount)}; give a number of at least 0, or None for no limit"
        )

    @property
    def limits(self) -> AmountLimits:
        """What may be used in one window."""
        usd, seconds = self.usd, self.seconds
        assert usd is None or isinstance(usd, Decimal), "it was made exact"
        assert seconds is None or isinstance(seconds, Decimal), "likewise"
        return AmountLimits(usd, self.tokens, self.requests, seconds)

    def window(self, now: datetime) -> str:
        """Return the window that a moment is in, such as `2026-11-25`; empty if there is only one.

        An hour has its offset from UTC, because one of them comes twice when clocks are put back.
        """
        return window_of(self.per, self.timezone, now)


def window_of(per: str | None, timezone: str, now: datetime) -> str:
    """Return the window of a budget that a moment is in; see `Budget.window`."""
    if per is None:
        return ""
    local = now.astimezone(ZoneInfo(timezone))
    match per:
        case "hour":
            return local.replace(minute=0, second=0, microsecond=0).isoformat(timespec="minutes")
        case "day":
            return local.date().isoformat()
        case _:
            return f"{local.year:04d}-{local.month:02d}"


def window_end(per: str | None, timezone: str, now: datetime) -> datetime | None:
    """Return when the window that a moment is in ends, in the zone of the budget; `None` if it never does."""
    if per is None:
        return None
    zone = ZoneInfo(timezone)
    local = now.astimezone(zone)
    match per:
        case "hour":  # counted in UTC, because the clocks of the zone may be put back meanwhile
            begun = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
            return (now - begun + timedelta(hours=1)).astimezone(zone)
        case "day":
            last = local
        case _:
            last = local.replace(day=monthrange(local.year, local.month)[1])
    return datetime.combine(last.date() + timedelta(days=1), time(), zone)


def in_milliseconds(seconds: Decimal) -> Decimal:
    """Return seconds in whole thousandths, rounded up."""
    return seconds.quantize(_MILLISECOND, ROUND_CEILING)


def _zone(budget: Budget) -> ZoneInfo:
    try:
        return ZoneInfo(budget.timezone)
    except (KeyError, ValueError, TypeError, OSError):
        raise ConfigurationError(
            f"budget {budget.name!r}: there is no time zone {budget.timezone!r}; give one such as 'Europe/Berlin' "
            "(a system without time zones needs the package tzdata)"
        ) from None


@dataclass(slots=True, frozen=True)
class BudgetStatus:
    """How a budget stands in its present window.

    Attributes:
        name: What it is called.
        limit: What may be used in this window, with what was topped up.
        spent: What was used, the uncertain included.
        reserved: What calls in flight may use at the most.
        uncertain: The part of `spent` that was charged for calls of which nobody knows what they used.
        per: How long a window is; `None` if there is only one.
        timezone: The zone in which windows begin.
        window: The present window, such as `2026-11-25`; empty if there is only one.
        topped_up: The part of `limit` that was topped up in this window.
    """

    name: str
    limit: AmountLimits
    spent: Amounts
    reserved: Amounts
    uncertain: Amounts
    per: str | None
    timezone: str
    window: str
    topped_up: Amounts = Amounts()

    @property
    def left(self) -> AmountLimits:
        """What may be used yet; less than nothing if the limit is passed."""
        return self.limit.less(self.spent + self.reserved)

    @property
    def is_passed(self) -> bool:
        """Whether more was spent than may be."""
        return not self.limit.allow(self.spent)

    @property
    def label(self) -> str:
        """How errors speak of it, such as `budget 'team' of 2026-11-25`."""
        return f"budget {self.name!r} of {self.window}" if self.window else f"budget {self.name!r}"
