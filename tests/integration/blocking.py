"""Agents that wait until they are let, for tests of streams and cancellation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any


class Blocked:
    """An agent that answers when it is let, and says when it has started and ended."""

    def __init__(self) -> None:
        self.started, self.let, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(self, data: Any) -> Any:
        """Answer, once it is let."""
        self.started.set()
        try:
            await self.let.wait()
        finally:
            self.ended.set()
        return data


class BlockedStream(Blocked):
    """A stream that gives one chunk and then waits to be let."""

    async def stream(self, data: Any) -> AsyncIterator[Any]:
        """Give the chunks."""
        yield "first"
        await self.run(data)
        yield "second"


def is_only_task() -> bool:
    """Tell whether no task is left but the current one."""
    return asyncio.all_tasks() == {asyncio.current_task()}
