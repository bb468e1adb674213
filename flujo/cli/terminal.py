"""Where output goes: results to stdout, everything else to stderr, and no complaint when a reader is gone."""

import os
import sys
from io import TextIOWrapper
from typing import TextIO

from rich.console import Console

_MOST_ERROR_CHARACTERS = 1000


class ErrorConsole(Console):
    """A rich console on stderr; it falls silent when nobody reads it any more, and the command goes on."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Print nothing from now on."""
        _discard(sys.stderr)
        self.quiet = True


class OutputConsole(Console):
    """A rich console on stdout; it falls silent when nobody reads it any more."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Print nothing from now on."""
        _discard(sys.stdout)
        self.quiet = True


class ResultStream:
    """The stdout of the process, kept for results while the user's code prints to stderr.

    Args:
        stream: The stream itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._ends_line = True

    def write(self, text: str) -> None:
        """Write text at once; a reader that is gone, as in `| head`, is no error."""
        if text:
            self._ends_line = text.endswith("\n")
            write_quietly(self._stream, text)

    def end_line(self) -> None:
        """End the line, unless it is ended."""
        if not self._ends_line:
            self.write("\n")


def write_quietly(stream: TextIO, text: str) -> None:
    """Write text at once, and drop it if nobody reads the stream any more."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _discard(stream)


def say(line: str) -> None:
    """Print one line to stderr."""
    write_quietly(sys.stderr, line + "\n")


def say_error(message: str) -> None:
    """Print one line that starts with `error: ` to stderr, however many lines the message has."""
    say(f"error: {one_line(message)}")


def one_line(text: str) -> str:
    """Return text on one line of bounded length."""
    flat = " ".join(text.split())
    return flat if len(flat) <= _MOST_ERROR_CHARACTERS else flat[: _MOST_ERROR_CHARACTERS - 3] + "..."


def survive_any_text() -> None:
    """Let the standard streams write characters that their encoding does not have, escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard(stream: TextIO) -> None:
    """Point a stream without a reader to nowhere, so that Python does not complain when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
