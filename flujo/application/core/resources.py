"""The resources of a run, entered once and left at its end."""

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeGuard

from flujo.application.core.cancellation import is_cancelled

_log = logging.getLogger("flujo.resources")


async def enter_resources(stack: AsyncExitStack, resources: Any) -> Any:
    """Enter resources that are an async context manager, and return what the agents get.

    That is what entering gives, or the resources themselves if it gives nothing.
    An error while entering is raised; one while leaving is logged, and changes nothing: the work is done and paid for.
    """
    if not _is_async_manager(resources):
        return resources
    entered = await stack.enter_async_context(_Guarded(resources))
    return resources if entered is None else entered


@dataclass(slots=True, frozen=True)
class _Guarded:
    """Resources that have no say in how a run ends."""

    manager: AbstractAsyncContextManager[Any]

    async def __aenter__(self) -> Any:
        return await self.manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.manager.__aexit__(kind, error, traceback)
        except Exception as raised:  # it is code of the user's
            if raised is not error:  # a manager may let through what it was told of
                _log.exception("the resources %s could not be left", type(self.manager).__name__)
        except asyncio.CancelledError:
            if is_cancelled() or kind is asyncio.CancelledError:
                raise
            _log.exception("leaving the resources %s was cancelled by its own code", type(self.manager).__name__)


class BroughtResources:
    """What runners that are steps of a run bring along: entered once, at its first use, and left at the run's end.

    Whichever branch uses them first, a task of their own enters and leaves them, because managers may insist on
    being left by the task that entered them, as those with an anyio task group do.
    """

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._held: dict[int, _Held] = {}  # by identity; the steps and the runner keep the resources alive
        self._entered: dict[int, Any] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    def add(self, resources: Any, entered: Any) -> None:
        """Take note of resources that the run itself has entered, in case that a step brings along the same."""
        self._entered[id(resources)] = entered

    async def enter(self, resources: Any) -> Any:
        """Return what the agents get; an error while entering is raised, and the next use tries again."""
        if id(resources) in self._entered:
            return self._entered[id(resources)]
        if not _is_async_manager(resources):
            return resources
        held = self._held.get(id(resources))
        if held is None:
            held = self._held[id(resources)] = _Held(resources)
            self._stack.push_async_exit(held.leave)
        try:
            return await asyncio.shield(held.entered)
        finally:
            if held.entered.done() and (held.entered.cancelled() or held.entered.exception() is not None):
                self._held.pop(id(resources), None)


class _Held:
    """Resources that a task of their own enters, and leaves when it is told to."""

    def __init__(self, resources: Any) -> None:
        loop = asyncio.get_running_loop()
        self.entered: asyncio.Future[Any] = loop.create_future()
        self._leaving: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(self._hold(resources))  # `__aexit__` awaits it

    async def _hold(self, resources: Any) -> None:
        async with AsyncExitStack() as stack:
            try:
                entered = await enter_resources(stack, resources)
            except Exception as error:  # it is code of the user's; whoever asked for the resources raises it
                self.entered.set_exception(error)
                self.entered.exception()  # nobody may be left to ask
                return
            except asyncio.CancelledError:
                self.entered.cancel()
                raise
            self.entered.set_result(entered)
            await self._leaving

    async def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the resources, which are told of the error that ended the run."""
        if not self.entered.done() or (error is not None and not isinstance(error, Exception)):
            self._task.cancel()
        elif error is None:
            self._leaving.set_result(None)
        else:
            self._leaving.set_exception(error)
            self._leaving.exception()  # nobody asks if they could not be entered
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:  # the run is cancelled while it ends
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        if not self._task.cancelled() and (raised := self._task.exception()) is not None and raised is not error:
            raise raised


def _is_async_manager(value: object) -> TypeGuard[AbstractAsyncContextManager[Any]]:
    return isinstance(value, AbstractAsyncContextManager)
