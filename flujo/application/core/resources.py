"""The resources of a run, entered once and left at its end."""

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeGuard


async def enter_resources(stack: AsyncExitStack, resources: Any) -> Any:
    """Enter resources that are an async context manager, and return what the agents get.

    That is what entering gives, or the resources themselves if it gives nothing.
    """
    if not _is_async_manager(resources):
        return resources
    entered = await stack.enter_async_context(resources)
    return resources if entered is None else entered


def _is_async_manager(value: object) -> TypeGuard[AbstractAsyncContextManager[Any]]:
    return isinstance(value, AbstractAsyncContextManager)
