"""The pytest plugin: fixtures for tests of workflows, there as soon as flujo is installed."""

import pytest

from flujo.testing.clock import ManualClock
from flujo.testing.stores import FailingCache


@pytest.fixture
def manual_clock() -> ManualClock:
    """A clock that only moves when the test says so; hand it to `Flujo(..., clock=...)` or `InMemoryCache`."""
    return ManualClock()


@pytest.fixture
def failing_cache() -> FailingCache:
    """A cache that works until the test adds operations to its `failing`."""
    return FailingCache()
