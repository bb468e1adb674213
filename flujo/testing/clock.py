"""A clock that only moves when it is told to."""

from datetime import UTC, datetime, timedelta

_START = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A clock for tests; hand it to whatever takes a `clock`.

    Example:
        ```python
        from flujo import InMemoryCache
        from flujo.testing import ManualClock

        clock = ManualClock()
        cache = InMemoryCache(ttl=60, clock=clock)
        clock.advance(61)
        ```
    """

    def __init__(self, start: datetime = _START) -> None:
        self._start = start
        self._passed_s = 0.0

    def now(self) -> datetime:
        """Return the start, and what has passed since."""
        return self._start + timedelta(seconds=self._passed_s)

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self._passed_s

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: `seconds` is negative; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot advance by {seconds} seconds")
        self._passed_s += seconds
