"""Tasks that belong to no step, such as the one that renews a lease: whatever ends a run does not end in them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

_NAME = "flujo background"


def begin_in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return a task that runs beside the steps of a run; whoever begins it awaits it."""
    return asyncio.create_task(work, name=_NAME)


def is_in_background(task: asyncio.Task[Any]) -> bool:
    """Tell whether a task runs beside the steps of a run, so that an error in it does not end the run."""
    return task.get_name() == _NAME
