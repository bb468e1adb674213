"""A mistake of `asyncio.TaskGroup` before Python 3.13, mended as Python 3.13 did.

A group whose task fails while the group is left cancels the task that it is in, and does not take that back. From then
on `Task.cancelling` says that somebody wants the task to end, which nobody does; a run would take itself for cancelled
only because an agent used a group. See https://github.com/python/cpython/issues/116720.
"""

import asyncio
import functools
import sys
from typing import Any


def mend_task_groups() -> None:
    """Let groups take back their cancellation of the task that they are in."""
    if sys.version_info >= (3, 13):
        return
    group: Any = asyncio.TaskGroup
    leave = group.__aexit__
    if hasattr(leave, "__wrapped__"):
        return  # it is mended

    @functools.wraps(leave)
    async def leave_and_take_back(self: Any, *error: Any) -> Any:
        was_taken_back = self._parent_cancel_requested  # before the group is left it is, by the group itself
        try:
            return await leave(self, *error)
        finally:
            if self._parent_cancel_requested and not was_taken_back:
                self._parent_task.uncancel()

    group.__aexit__ = leave_and_take_back
