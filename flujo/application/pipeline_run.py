"""What `Flujo.run_async` returns: to be awaited, or to be iterated over."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar

from flujo.application.core.frame import OnChunk
from flujo.domain.results import PipelineResult

OutT = TypeVar("OutT")


class PipelineRun(Coroutine[Any, Any, PipelineResult[OutT]]):
    """One run that has not started yet.

    `await run` gives its result. `async for item in run` gives the chunks of a streaming last step and then
    the result. It is a coroutine, so that `asyncio.create_task(run)` works; unlike other coroutines it may be
    dropped without a warning, because nothing has started.

    Args:
        start: Starts the run; takes whoever gets the chunks, or `None`.
    """

    def __init__(self, start: Callable[[OnChunk | None], Coroutine[Any, Any, PipelineResult[OutT]]]) -> None:
        self._start = start
        self._awaited: Coroutine[Any, Any, PipelineResult[OutT]] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_used = False

    def __await__(self) -> Generator[Any, Any, PipelineResult[OutT]]:
        """Run, and return the result."""
        self._use()
        return self._start(None).__await__()

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        """Run, and give the chunks of a streaming last step, then the result."""
        self._use()
        return self._iterate()

    def send(self, value: Any, /) -> Any:
        """Go on, as a coroutine does."""
        return self._coroutine().send(value)

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any:
        """Raise an exception in the run, as a coroutine does."""
        return self._coroutine().throw(kind if value is None else value)

    def close(self) -> None:
        """End the run, if it has started."""
        if self._awaited is not None:
            self._awaited.close()
        self._is_used = True

    def _coroutine(self) -> Coroutine[Any, Any, PipelineResult[OutT]]:
        """Return the started run; a second task must not go on where the first one waits."""
        task = asyncio.current_task()
        if self._awaited is None or self._task is not task:
            self._use()
            self._awaited, self._task = self._start(None), task
        return self._awaited

    def _use(self) -> None:
        if self._is_used:
            raise RuntimeError("this run was started already; call run_async again for another one")
        self._is_used = True

    async def _iterate(self) -> AsyncGenerator[Any, None]:
        chunks: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)  # a consumer that is slow slows the agent down
        run = asyncio.create_task(self._start(chunks.put))  # this task and the next are ended below, whatever happens
        coming = asyncio.create_task(chunks.get())
        try:
            while not run.done() or not chunks.empty():
                await asyncio.wait([coming, run], return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    yield coming.result()
                    coming = asyncio.create_task(chunks.get())
            yield await run
        except asyncio.CancelledError as cancelled:
            await _end(run, coming)
            cancelled.add_note(f"the run had ended: {await run!r}")  # or raises what says where the run stood
            raise
        finally:
            await _end(run, coming)


async def _end(run: "asyncio.Task[Any]", coming: "asyncio.Task[Any]") -> None:
    """End both tasks, so that nothing outlives the iteration."""
    run.cancel()
    coming.cancel()
    await asyncio.wait([run, coming])
    if not run.cancelled():
        run.exception()  # it was raised in the iteration, or nobody listens any more
