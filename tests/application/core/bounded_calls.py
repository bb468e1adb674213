"""Calls of which it is known what they can use at the most, for tests of limits."""

from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from flujo.domain.metering import Bound


@cache
def of_units(number: int) -> Bound:
    """Return what so many units use: a cent and a token each, so that both limits matter."""
    return Bound(Decimal(number) / 100, number)


@dataclass(frozen=True, slots=True)
class Shrinking:
    """A call of any number of units, from the fewest to the most."""

    fewest: int
    most: int

    @property
    def least(self) -> Bound:
        """What the fewest units use."""
        return of_units(self.fewest)

    def within(self, usd: Decimal | None, tokens: int | None) -> Bound | None:
        """Return what as many units use as fit; `None` if those are too few."""
        fitting = self.most
        if usd is not None:
            fitting = min(fitting, int(usd * 100))
        if tokens is not None:
            fitting = min(fitting, tokens)
        return of_units(fitting) if fitting >= self.fewest else None
