"""Clocks and stores for tests do what the test says."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from flujo import Flujo, ICacheBackend, InMemoryCache, Step
from flujo.testing import FailingCache, ManualClock, StubAgent
from flujo.utils.clock import Clock


def test_a_manual_clock_moves_when_it_is_told_to() -> None:
    """Date and seconds go on together, and stand still in between."""
    clock: Clock = ManualClock()
    start, zero = clock.now(), clock.monotonic()
    assert isinstance(clock, ManualClock)

    clock.advance(61.5)

    assert clock.now() - start == timedelta(seconds=61.5)
    assert clock.monotonic() - zero == 61.5
    assert clock.now() == clock.now()
    assert clock.now().tzinfo is UTC


def test_a_manual_clock_starts_where_the_test_says() -> None:
    """The start may be given; without it every clock starts alike."""
    start = datetime(2030, 5, 1, tzinfo=UTC)

    assert ManualClock(start).now() == start
    assert ManualClock().now() == ManualClock().now()


def test_a_manual_clock_does_not_go_back() -> None:
    """Time does not pass backwards."""
    with pytest.raises(ValueError, match="cannot advance by -1 seconds"):
        ManualClock().advance(-1)


def test_a_cache_forgets_by_the_manual_clock() -> None:
    """What a cache keeps for a minute is there until the clock was advanced by one."""
    clock = ManualClock()
    agent = StubAgent(["a", "b"])
    runner = Flujo(Step.cached(Step("ask", agent), InMemoryCache(ttl=60, clock=clock)))

    first = runner.run("x").output
    clock.advance(59)
    second = runner.run("x").output
    clock.advance(2)

    assert (first, second, runner.run("x").output) == ("a", "a", "b")


async def test_the_time_of_an_answer_is_the_manual_clocks() -> None:
    """A runner takes the clock for the time of a person's answer."""
    clock = ManualClock()
    runner = Flujo(Step.human_in_the_loop("ask", "Go on?"), clock=clock)
    paused = await runner.run_async("x")
    clock.advance(3600)

    result: Any = await runner.resume_async(paused, "yes")

    assert result.final_pipeline_context.hitl_history[0].timestamp == clock.now()


_CALLS: dict[Literal["get", "set", "delete", "clear"], tuple[Any, ...]] = {
    "get": ("k",),
    "set": ("k", 1),
    "delete": ("k",),
    "clear": (),
}


@pytest.mark.parametrize("operation", list(_CALLS))
async def test_a_cache_fails_where_it_is_told_to(operation: Literal["get", "set", "delete", "clear"]) -> None:
    """The named operation raises, the others work, and it works again once it is no longer named."""
    cache: ICacheBackend = FailingCache(operation)
    assert isinstance(cache, FailingCache)

    with pytest.raises(OSError, match=f"told to fail on {operation}"):
        await getattr(cache, operation)(*_CALLS[operation])
    for other, arguments in _CALLS.items():
        if other != operation:
            await getattr(cache, other)(*arguments)
    cache.failing.clear()
    await cache.set("k", 2)

    assert await cache.get("k") == 2


@pytest.mark.parametrize("operation", ["get", "set"])
def test_a_workflow_survives_a_failing_cache(
    operation: Literal["get", "set"], caplog: pytest.LogCaptureFixture
) -> None:
    """A cache that fails costs a log entry and another call, not the run."""
    runner = Flujo(Step.cached(Step("ask", StubAgent(["a"])), FailingCache(operation)))

    with caplog.at_level(logging.ERROR, logger="flujo.cache"):
        result = runner.run("x")

    assert result.output == "a"
    assert "the cache failed" in caplog.text
