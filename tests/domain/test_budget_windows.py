"""When the windows of budgets begin and end."""

from datetime import UTC, datetime, timedelta

import pytest

from flujo.domain.budgets import window_end, window_of


@pytest.mark.parametrize(
    ("per", "timezone", "now", "end"),
    [
        ("hour", "UTC", "2026-11-25T14:03:07+00:00", "2026-11-25T15:00:00+00:00"),
        ("hour", "Asia/Kolkata", "2026-11-25T14:03:07+00:00", "2026-11-25T20:00:00+05:30"),
        ("hour", "Europe/Berlin", "2026-10-25T00:30:00+00:00", "2026-10-25T02:00:00+01:00"),
        ("day", "Europe/Berlin", "2026-11-25T23:30:00+00:00", "2026-11-27T00:00:00+01:00"),
        ("day", "Europe/Berlin", "2026-10-24T22:30:00+00:00", "2026-10-26T00:00:00+01:00"),
        ("month", "UTC", "2026-02-28T12:00:00+00:00", "2026-03-01T00:00:00+00:00"),
        ("month", "America/New_York", "2027-01-01T03:00:00+00:00", "2027-01-01T00:00:00-05:00"),
    ],
)
def test_a_window_ends_where_the_next_one_begins(per: str, timezone: str, now: str, end: str) -> None:
    """In the zone of the budget, also when its clocks are put back."""
    moment = datetime.fromisoformat(now)

    found = window_end(per, timezone, moment)

    assert found is not None
    assert found.isoformat() == end
    before = found.astimezone(UTC) - timedelta(seconds=1)
    assert window_of(per, timezone, before) == window_of(per, timezone, moment) != window_of(per, timezone, found)


def test_a_budget_of_one_window_does_not_end() -> None:
    """There is no next one."""
    assert window_end(None, "UTC", datetime(2026, 11, 25, tzinfo=UTC)) is None
