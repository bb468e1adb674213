"""The clock of a run, replaceable in tests."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return the date and time, with its time zone."""
        ...

    def monotonic(self) -> float:
        """Return seconds from a fixed but unknown moment; never goes back."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the date and time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the seconds of `time.monotonic`."""
        return time.monotonic()


SYSTEM_CLOCK: Clock = SystemClock()
