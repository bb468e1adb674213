"""What keeps cached results."""

import threading
from collections import OrderedDict
from typing import Any, Protocol, runtime_checkable

from flujo.exceptions import ConfigurationError
from flujo.utils.clock import SYSTEM_CLOCK, Clock


@runtime_checkable
class ICacheBackend(Protocol):
    """Keeps values by key; a value that is gone was never there.

    What cached steps keep is text, so a cache on a server needs no more than to keep strings.
    """

    async def get(self, key: str) -> Any | None:
        """Return the value, or `None`."""
        ...

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a value, for `ttl` seconds if given."""
        ...

    async def delete(self, key: str) -> None:
        """Forget a value, if it is there."""
        ...

    async def clear(self) -> None:
        """Forget all values."""
        ...


def check_bounds(max_size: object, ttl: float | None) -> None:
    """Refuse a size that is no integer of at least 1, and a time that is not positive.

    Raises:
        ConfigurationError: It says which, and the value.
    """
    if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
        raise ConfigurationError(f"max_size is {max_size!r}; it must be an integer, 1 or more")
    if ttl is not None and not ttl > 0:
        raise ConfigurationError(f"ttl is {ttl!r}; it must be more than 0 seconds, or None")


class InMemoryCache:
    """Keeps values in this process; the least recently used ones go first.

    Args:
        max_size: The most values kept.
        ttl: Seconds a value is kept if `set` does not say; `None` for as long as there is room.
        clock: Tells the time.

    Example:
        ```python
        from flujo import InMemoryCache, Step

        cache = InMemoryCache(max_size=100, ttl=3600)
        shout = Step.cached(Step.from_callable(str.upper, name="shout"), cache)
        ```
    """

    def __init__(self, max_size: int = 1024, ttl: float | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        check_bounds(max_size, ttl)
        self._max_size = max_size
        self._ttl = ttl
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[Any, float | None]] = OrderedDict()

    async def get(self, key: str) -> Any | None:
        """Return the value, or `None` if it was never kept or is gone."""
        with self._lock:
            value, expires = self._entries.get(key, (None, None))
            if expires is not None and self._clock.monotonic() >= expires:
                del self._entries[key]
                return None
            if value is not None:
                self._entries.move_to_end(key)
            return value

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a value, for `ttl` seconds or else for the cache's own time."""
        kept_s = self._ttl if ttl is None else ttl
        expires = None if kept_s is None else self._clock.monotonic() + kept_s
        with self._lock:
            self._entries[key] = (value, expires)
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_size:
                self._entries.popitem(last=False)

    async def delete(self, key: str) -> None:
        """Forget a value, if it is there."""
        with self._lock:
            self._entries.pop(key, None)

    async def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._entries.clear()
