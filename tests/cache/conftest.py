"""The caches that every cache test runs on."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flujo import InMemoryCache, SQLiteCache

AnyCache = InMemoryCache | SQLiteCache
MakeCache = Callable[..., AnyCache]


@pytest.fixture(params=["memory", "sqlite"])
async def make_cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeCache]:
    """A function that makes an empty cache with some bounds."""
    made: list[SQLiteCache] = []

    def make(**bounds: Any) -> AnyCache:
        if request.param == "memory":
            return InMemoryCache(**bounds)
        cache = SQLiteCache(tmp_path / f"cache-{len(made)}.db", **bounds)
        made.append(cache)
        return cache

    yield make
    for cache in made:
        await cache.close()
