"""Exact money: US dollars as decimals that are never rounded.

Ten thousand charges of $0.0001 make exactly $1.
The decimal context here has no precision to run out of and traps `Inexact`, so a sum is either exact or an error.
"""

import decimal
import reprlib
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

subtract_usd = _EXACT.subtract
"""The exact difference of two amounts."""

multiply_usd = _EXACT.multiply
"""The exact product of an amount and a number."""

scale_usd = _EXACT.scaleb
"""An amount times ten to the power of an integer, exactly."""


def exact_usd(amount: Decimal | float | int) -> Decimal:
    """Return an amount of dollars as an exact decimal.

    A float is read as the decimal it prints as, so `0.1` is one tenth.

    Raises:
        ValueError: The amount is not a number, is negative, is infinite, or is beyond any real price
            (1e15 dollars and more, or digits below 1e-400).
    """
    # The text of a number is taken from its built-in class, because that of a subclass may be anything.
    if isinstance(amount, float):
        exact = Decimal(float.__repr__(amount))
    elif isinstance(amount, int) and not isinstance(amount, bool):
        exact = Decimal(int(amount))
    elif isinstance(amount, Decimal):
        exact = amount
    else:
        raise ValueError(f"an amount of dollars must be a number, not {amount!r}")
    if not exact.is_finite() or exact < 0:
        raise ValueError(f"an amount of dollars must be finite and not negative, not {amount!r}")
    if not exact:
        return ZERO
    if exact.adjusted() >= _LARGEST_EXPONENT or _last_place(exact) <= _SMALLEST_EXPONENT:
        raise ValueError(f"an amount of {reprlib.repr(amount)} dollars is not a price")
    return exact


def _last_place(amount: Decimal) -> int:
    exponent = amount.as_tuple().exponent
    assert isinstance(exponent, int), "the amount is finite"
    return exponent


def format_usd(amount: Decimal) -> str:
    """Return an amount as people read it, such as `$0.05`: exact, without trailing zeros."""
    text = f"{amount:f}"
    return "$" + (text.rstrip("0").rstrip(".") if "." in text else text)
