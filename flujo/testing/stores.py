"""Stores that fail on demand."""

from typing import Any, Literal

from flujo.cache.backends import InMemoryCache

Operation = Literal["get", "set", "delete", "clear"]


class FailingCache(InMemoryCache):
    """A cache whose operations raise `OSError` while they are named in `failing`.

    Attributes:
        failing: The operations that fail; change it at any time.

    Example:
        ```python
        from flujo import Flujo, Step
        from flujo.testing import FailingCache

        shout = Step.cached(Step.from_callable(str.upper, name="shout"), FailingCache("get", "set"))
        assert Flujo(shout).run("still here").output == "STILL HERE"
        ```
    """

    def __init__(self, *failing: Operation) -> None:
        super().__init__()
        self.failing: set[Operation] = set(failing)

    async def get(self, key: str) -> Any | None:
        """Return the value, unless `get` fails."""
        self._fail("get")
        return await super().get(key)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a value, unless `set` fails."""
        self._fail("set")
        await super().set(key, value, ttl)

    async def delete(self, key: str) -> None:
        """Forget a value, unless `delete` fails."""
        self._fail("delete")
        await super().delete(key)

    async def clear(self) -> None:
        """Forget all values, unless `clear` fails."""
        self._fail("clear")
        await super().clear()

    def _fail(self, operation: Operation) -> None:
        if operation in self.failing:
            raise OSError(f"the cache was told to fail on {operation}")
