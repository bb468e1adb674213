"""The clock of the machine tells dates with a zone, and seconds that never go back."""

from datetime import UTC, datetime, timedelta

from flujo.testing import ManualClock
from flujo.utils.clock import SYSTEM_CLOCK, Clock, SystemClock


def test_the_date_is_that_of_the_machine_in_utc() -> None:
    """The date lies between two looks at the machine's own, and has its zone."""
    before = datetime.now(UTC)
    told = SYSTEM_CLOCK.now()

    assert before <= told <= datetime.now(UTC)
    assert told.utcoffset() == timedelta(0)


def test_seconds_do_not_go_back() -> None:
    """Of many looks at the clock none is before the one before."""
    looks = [SYSTEM_CLOCK.monotonic() for _ in range(1000)]

    assert looks == sorted(looks)


def test_clocks_are_exchangeable() -> None:
    """The clock of the machine and the one of tests tell the same things."""
    clocks: list[Clock] = [SystemClock(), ManualClock(), SYSTEM_CLOCK]

    assert all(clock.now().tzinfo is not None and isinstance(clock.monotonic(), float) for clock in clocks)
