"""The resources of a run, entered once and left at its end."""

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeGuard

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


def _is_async_manager(value: object) -> TypeGuard[AbstractAsyncContextManager[Any]]:
    return isinstance(value, AbstractAsyncContextManager)
