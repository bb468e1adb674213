"""Where output goes: results to stdout, everything else to stderr, and no complaint when a reader is gone."""

import os
import re
import sys
from io import FileIO, TextIOWrapper
from typing import Literal, TextIO

from rich.console import Console
from typing_extensions import Buffer

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MOST_ERROR_CHARACTERS = 1000
_UNSEEN_WIDTH = 160


class ErrorConsole(Console):
    """A rich console on stderr that prints text as it is."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False, markup=False, emoji=False)


class OutputConsole(Console):
    """A rich console on stdout that prints text as it is."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)


def table_console() -> OutputConsole:
    """Return where tables go; whatever reads them instead of a terminal gets them whole."""
    console = OutputConsole()
    if not console.is_terminal:
        console.width = max(console.width, _UNSEEN_WIDTH)
    return console


class ResultStream:
    """The stdout of the process, kept for results while the user's code prints to stderr.

    Args:
        stream: The stream itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._ends_line = True

    def write(self, text: str) -> None:
        """Write text at once."""
        if text:
            self._ends_line = text.endswith("\n")
            self._stream.write(text)
            self._stream.flush()

    def end_line(self) -> None:
        """End the line, unless it is ended."""
        if not self._ends_line:
            self.write("\n")


def say(line: str) -> None:
    """Print one line to stderr."""
    print(line, file=sys.stderr, flush=True)


def say_error(message: str) -> None:
    """Print one line that starts with `error: ` to stderr, however many lines the message has."""
    say(f"error: {one_line(message)}")


def visible(text: str) -> str:
    """Return text whose control characters are written out, so that a terminal shows them and does not obey."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(text: str) -> str:
    """Return text on one line of bounded length, without control characters."""
    flat = visible(" ".join(text.split()))
    return flat if len(flat) <= _MOST_ERROR_CHARACTERS else flat[: _MOST_ERROR_CHARACTERS - 3] + "..."


def prepare_streams() -> None:
    """Let the standard streams of this process take any text, whether they are open and read or not.

    Characters that an encoding does not have are written escaped. What nobody reads any more, as in `| head`, is
    dropped: whoever prints, the user's code included, goes on, and a run that costs money does not fail for it.
    A result that cannot be written for another reason, such as a full disk, is an error.
    """
    sys.stdin = sys.stdin or _open_nothing("r")
    sys.stdout = _lasting(sys.stdout, sys.__stdout__, BrokenPipeError)
    sys.stderr = _lasting(sys.stderr, sys.__stderr__, OSError)


def _lasting(stream: TextIO | None, original: TextIO | None, *lost: type[OSError]) -> TextIO:
    """Return a stream that drops what it cannot write for one of these errors; one that is replaced stays itself."""
    if stream is None:  # the process was started without it
        return _open_nothing("w")
    if stream is not original:
        return stream
    file = _LastingFile(stream.fileno(), lost)
    return TextIOWrapper(file, encoding=stream.encoding, errors="backslashreplace", line_buffering=True)


def _open_nothing(mode: Literal["r", "w"]) -> TextIO:
    return open(os.devnull, mode, encoding="utf-8")


class _LastingFile(FileIO):
    """An open file that drops what it cannot write: for some errors at once, for others after it has raised one.

    It has no buffer, which would write again what it was writing when Ctrl-C came.
    """

    def __init__(self, descriptor: int, lost: tuple[type[OSError], ...]) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._lost = lost

    def write(self, content: Buffer, /) -> int:
        """Write everything, or drop what cannot be written."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        while rest:
            try:
                rest = rest[super().write(rest) :]
            except self._lost:
                return size
            except OSError:
                self._lost = (OSError,)
                raise
        return size
