"""Whose cancellation an `asyncio.CancelledError` is."""

import asyncio


def is_cancelled() -> bool:
    """Return whether somebody cancelled the current task.

    If nobody did, code that the task runs awaited something that was cancelled, and has failed;
    the task itself goes on.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
