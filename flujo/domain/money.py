"""Exact money: US dollars as decimals that are never rounded.

Ten thousand charges of $0.0001 make exactly $1.
The decimal context here has no precision to run out of and traps `Inexact`, so a sum is either exact or an error.
"""

import decimal
from decimal import Decimal

ZERO = Decimal(0)

_EXACT = decimal.Context(
    prec=decimal.MAX_PREC,
    Emax=decimal.MAX_EMAX,
    Emin=decimal.MIN_EMIN,
    traps=[decimal.InvalidOperation, decimal.Overflow, decimal.Inexact],
)

_SMALLEST_EXPONENT = -400  # below the smallest float; bounds the digits that a sum can grow to
_LARGEST_EXPONENT = 15

add_usd = _EXACT.add
"""The exact sum of two amounts."""


def exact_usd(amount: Decimal | float | int) -> Decimal:
    """Return an amount of dollars as an exact decimal.

    A float is read as the decimal it prints as, so `0.1` is one tenth.

    Raises:
        ValueError: The amount is not a number, is negative, is infinite, or is beyond any real price
            (1e15 dollars and more, or digits below 1e-400).
    """
    if isinstance(amount, bool) or not isinstance(amount, Decimal | float | int):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise ValueError(f"an amount of dollars must be a number, not {amount!r}")
    exact = amount if isinstance(amount, Decimal) else Decimal(repr(amount))
    if not exact.is_finite() or exact < 0:
        raise ValueError(f"an amount of dollars must be finite and not negative, not {amount!r}")
    if exact and not _SMALLEST_EXPONENT < exact.adjusted() < _LARGEST_EXPONENT:
        raise ValueError(f"an amount of {amount!r} dollars is not a price")
    return exact


def format_usd(amount: Decimal) -> str:
    """Return an amount as people read it, such as `$0.05`: exact, without trailing zeros."""
    text = f"{amount:f}"
    return "$" + (text.rstrip("0").rstrip(".") if "." in text else text)
