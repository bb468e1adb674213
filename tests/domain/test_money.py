"""Money is exact: it is read as it is written, summed without rounding, and shown without noise."""

import enum
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo.domain.money import ZERO, add_usd, exact_usd, format_usd


class Cents(enum.IntEnum):
    FIVE = 5


class Measured(float):
    """A float that is written as no number, as those of numpy are."""

    def __repr__(self) -> str:
        return f"Measured({float(self)})"


@pytest.mark.parametrize(
    ("amount", "exact"),
    [
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (2.5e-05, "0.000025"),
        (3, "3"),
        (0, "0"),
        (-0.0, "0"),
        (Decimal("0.10"), "0.10"),
        (Decimal("-0"), "0"),
        (Decimal("0E-1000000"), "0"),
        (999_999_999_999_999, "999999999999999"),
        (5e-324, "5E-324"),
        (Measured(0.1), "0.1"),
        (Cents.FIVE, "5"),
    ],
)
def test_an_amount_is_read_as_it_is_written(amount: Any, exact: str) -> None:
    """A float is the decimal it prints as, an integer and a decimal are themselves, and every zero is the same."""
    read = exact_usd(amount)

    assert read == Decimal(exact)
    assert not read.is_signed()


@pytest.mark.parametrize(
    "amount",
    [
        *(math.nan, math.inf, -math.inf, Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity")),
        *(-1, -0.01, Decimal("-0.000001")),
        *(1e15, 10**15, Decimal("1E+15"), Decimal("1E+1000000"), 10**400),
        *(Decimal("1E-400"), Decimal("1E-1000000"), Decimal("1." + "0" * 500 + "1")),
        *(True, "0.1", None, 1j, Fraction(1, 3), [1]),
    ],
    ids=lambda amount: str(amount)[:20],
)
def test_what_is_no_price_is_refused(amount: Any) -> None:
    """Amounts that are negative, infinite, beyond any price or no numbers are a `ValueError` of one line."""
    with pytest.raises(ValueError, match="dollars") as raised:
        exact_usd(amount)

    assert len(str(raised.value)) < 200


def test_ten_thousand_small_charges_make_one_dollar() -> None:
    """A sum is exact where a sum of floats is not."""
    total = ZERO
    for _ in range(10_000):
        total = add_usd(total, exact_usd(0.0001))

    assert total == 1
    assert format_usd(total) == "$1"


_amounts = st.one_of(
    st.floats(min_value=0, max_value=1e14, allow_nan=False),
    st.decimals(min_value=0, max_value=10**14, allow_nan=False, places=12),
    st.integers(min_value=0, max_value=10**14),
)


@given(st.lists(_amounts, max_size=8))
def test_a_sum_does_not_depend_on_its_order(amounts: list[Any]) -> None:
    """A sum is the exact one, whichever way it is added up."""

    def total(order: list[Any]) -> Decimal:
        result = ZERO
        for amount in order:
            result = add_usd(result, exact_usd(amount))
        return result

    exact = sum((Fraction(exact_usd(amount)) for amount in amounts), Fraction())

    assert Fraction(total(amounts)) == Fraction(total(amounts[::-1])) == exact


@given(_amounts)
def test_a_float_comes_back(amount: Any) -> None:
    """Reading an amount loses nothing: as a float it is the float it was."""
    assert float(exact_usd(amount)) == float(amount)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0"),
        ("0.05", "$0.05"),
        ("0.050", "$0.05"),
        ("1.00", "$1"),
        ("100", "$100"),
        ("1E+3", "$1000"),
        ("0.000025", "$0.000025"),
        ("1E-9", "$0.000000001"),
        ("1234.5", "$1234.5"),
    ],
)
def test_an_amount_is_shown_in_full(amount: str, text: str) -> None:
    """An amount is shown exactly, without an exponent and without trailing zeros."""
    assert format_usd(Decimal(amount)) == text
