"""What every cache does: it keeps values, bounded in number and time."""

from typing import Any

import pytest

from flujo import ConfigurationError, ICacheBackend, InMemoryCache, SQLiteCache
from flujo.testing import FailingCache, ManualClock
from tests.cache.conftest import AnyCache, MakeCache


async def _kept(cache: AnyCache, *keys: str) -> list[Any]:
    return [await cache.get(key) for key in keys]


async def test_what_is_set_is_there(make_cache: MakeCache) -> None:
    """A key gives the value that was set last; an unknown key gives `None`."""
    cache = make_cache()

    await cache.set("a", 1)
    await cache.set("a", 2)
    await cache.set("b", "x")

    assert await _kept(cache, "a", "b", "c") == [2, "x", None]


async def test_delete_and_clear_forget(make_cache: MakeCache) -> None:
    """Deleting what is not there is no error."""
    cache = make_cache()
    await cache.set("a", 1)
    await cache.set("b", 2)
    await cache.set("c", 3)

    await cache.delete("a")
    await cache.delete("a")
    assert await _kept(cache, "a", "b", "c") == [None, 2, 3]

    await cache.clear()
    assert await _kept(cache, "b", "c") == [None, None]


async def test_the_least_recently_used_value_goes_first(make_cache: MakeCache) -> None:
    """Reading a value and setting it anew both count as use."""
    cache = make_cache(max_size=3)
    for key in "abc":
        await cache.set(key, key)

    await cache.get("a")
    await cache.set("b", "B")
    await cache.set("d", "d")

    assert await _kept(cache, "a", "b", "c", "d") == ["a", "B", None, "d"]


async def test_setting_a_key_anew_takes_no_further_room(make_cache: MakeCache) -> None:
    """Only new keys push others out."""
    cache = make_cache(max_size=2)
    await cache.set("a", 1)
    await cache.set("b", 1)

    await cache.set("b", 2)

    assert await _kept(cache, "a", "b") == [1, 2]


@pytest.mark.parametrize(
    ("own_s", "given_s", "kept_s"), [(None, None, None), (60, None, 60), (None, 5, 5), (60, 5, 5), (5, 60, 60)]
)
async def test_a_value_is_kept_for_its_time(
    own_s: float | None, given_s: float | None, kept_s: float | None, manual_clock: ManualClock, make_cache: MakeCache
) -> None:
    """`set` may say how long; otherwise the cache does; otherwise there is no end."""
    cache = make_cache(ttl=own_s, clock=manual_clock)
    await cache.set("a", 1, given_s)

    manual_clock.advance(1e9 if kept_s is None else kept_s - 0.5)
    before = await cache.get("a")
    manual_clock.advance(0.5)

    assert before == 1
    assert await cache.get("a") == (1 if kept_s is None else None)


async def test_reading_does_not_prolong_and_setting_does(manual_clock: ManualClock, make_cache: MakeCache) -> None:
    """The time counts from the last `set`."""
    cache = make_cache(ttl=10, clock=manual_clock)
    await cache.set("read", 1)
    await cache.set("set", 1)
    manual_clock.advance(6)

    await cache.get("read")
    await cache.set("set", 2)
    manual_clock.advance(6)

    assert await _kept(cache, "read", "set") == [None, 2]


async def test_a_time_of_nothing_keeps_nothing(manual_clock: ManualClock, make_cache: MakeCache) -> None:
    """A value that is kept for 0 seconds is gone at once."""
    cache = make_cache(clock=manual_clock)

    await cache.set("a", 1, 0)

    assert await cache.get("a") is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_size": 0}, "max_size is 0"),
        ({"max_size": -1}, "max_size is -1"),
        ({"max_size": 1.5}, "max_size is 1.5"),
        ({"max_size": None}, "max_size is None"),
        ({"max_size": True}, "max_size is True"),
        ({"ttl": 0}, "ttl is 0"),
        ({"ttl": -1}, "ttl is -1"),
        ({"ttl": float("nan")}, "ttl is nan"),
    ],
)
def test_wrong_bounds_are_refused(options: dict[str, Any], said: str) -> None:
    """The error has the argument and its value."""
    with pytest.raises(ConfigurationError, match=said):
        InMemoryCache(**options)


@pytest.mark.parametrize("cache", [InMemoryCache(), FailingCache(), SQLiteCache("never-opened.db")])
def test_caches_are_caches(cache: object) -> None:
    """They fit the protocol that `cache_backend=` is checked against."""
    assert isinstance(cache, ICacheBackend)
