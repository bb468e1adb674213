"""Ctrl-C: the first ends a run in order, the second ends the process.

A run that awaits something is cancelled, so that its steps can clean up.
A run that is in the middle of plain code would not notice that, so an error is raised there, as Python does
everywhere else. It is none that `except Exception` catches, and no `KeyboardInterrupt` either: that one tears down the
event loop at once, while this one ends the task it is raised in, and so the run, in order.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

from flujo.cli.exit_codes import ExitCode
from flujo.exceptions import FlujoError
from flujo.utils.background import is_in_background

T = TypeVar("T")

_PATIENCE_S = 1.0
_SHOW_CURSOR = "\x1b[?25h"


def run_interruptibly(work: Coroutine[Any, Any, T], position: Callable[[], str]) -> T:
    """Run a coroutine in an event loop of its own, to its end or until Ctrl-C.

    Args:
        work: What to run.
        position: Says where it stands.

    Raises:
        KeyboardInterrupt: It was interrupted; the message says where it stood.
        FlujoError: Its own code cancelled it or left the process.
    """
    interruption = _Interruption(position)
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGINT, interruption.take_signal)
    try:
        return asyncio.run(interruption.watch(work))
    except (asyncio.CancelledError, KeyboardInterrupt, _InterruptedError) as ended:
        if interruption.signals:
            raise KeyboardInterrupt(interruption.message) from ended
        raise FlujoError(f"the run was cancelled by its own code {position()}") from ended
    except SystemExit as left:
        raise FlujoError(f"sys.exit({left.code!r}) was called {position()}") from left
    finally:
        signal.signal(signal.SIGINT, previous)


class _InterruptedError(BaseException):
    """Ctrl-C, in the middle of plain code of a task."""


class _Interruption:
    """What the signals of one run do.

    Attributes:
        signals: How many came.
        message: Where the run stood when the first one came.
    """

    def __init__(self, position: Callable[[], str]) -> None:
        self.signals = 0
        self.message = ""
        self._position = position
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    async def watch(self, work: Coroutine[Any, Any, T]) -> T:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            return await work
        finally:
            self._task = None

    def take_signal(self, _number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals > 1:
            self._leave()
        self.message = f"interrupted {self._position()}"
        if self._loop is None or self._task is None:
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._ask_for_patience, self._loop)
        current = asyncio.current_task(self._loop)
        if current is not None and not is_in_background(current) and _runs_plain_code(frame):
            raise _InterruptedError
        self._loop.call_soon_threadsafe(self._task.cancel)

    def _ask_for_patience(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(_PATIENCE_S, _write, "stopping; press Ctrl-C again to end at once\n")

    def _leave(self) -> None:
        """End the process without waiting for anything, such as a thread that nobody can stop."""
        _write(f"{_SHOW_CURSOR if sys.stderr.isatty() else ''}error: {self.message}\n")
        os._exit(ExitCode.INTERRUPTED)


def _write(text: str) -> None:
    with suppress(OSError):  # nobody reads stderr any more
        os.write(2, text.encode())


def _runs_plain_code(frame: FrameType | None) -> bool:
    """Return whether the event loop was running something when the signal came, and not waiting for something."""
    while frame is not None:
        if frame.f_code.co_name == "_run" and frame.f_globals.get("__name__") == "asyncio.events":
            return True
        frame = frame.f_back
    return False
