"""Reads the text that a run is given: from the command line, a file, a folder or stdin."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flujo.cli.exit_codes import WrongUsageError
from flujo.cli.terminal import say

_STDIN = "-"


@dataclass(slots=True, frozen=True)
class InputSource:
    """Where the input of a run comes from.

    Attributes:
        text: The input itself, or `None`.
        file: A file, a folder or `-`, or `None`.
    """

    text: str | None = None
    file: str | None = None

    def check(self) -> None:
        """Refuse an input that is given twice, or not at all.

        Raises:
            WrongUsageError: It is.
        """
        if self.text is not None and self.file is not None:
            raise WrongUsageError("--input and --input-file are both given; give one of them")
        if self.text is None and self.file is None and sys.stdin.isatty():
            raise WrongUsageError("no input; give --input TEXT, --input-file FILE, or pipe it to stdin")

    def read(self, *, is_quiet: bool) -> str:
        """Return the text.

        Args:
            is_quiet: Whether nothing is said of what is read, or left out.

        Raises:
            WrongUsageError: There is none, or it is no text.
        """
        if self.text is not None:
            return self.text
        if self.file == _STDIN:
            return _read_stdin()
        if self.file is None:
            return _read_unasked(is_quiet=is_quiet)
        path = Path(self.file)
        return _read_folder(path, is_quiet=is_quiet) if path.is_dir() else read_text_file(path)


def _read_stdin() -> str:
    return _decoded(sys.stdin.buffer.read(), "stdin")


def _read_unasked(*, is_quiet: bool) -> str:
    """Return what is piped in; without anything there, the user has forgotten the input."""
    if not is_quiet:
        say("reading the input from stdin, because neither --input nor --input-file is given")
    text = _read_stdin()
    if not text:
        raise WrongUsageError("no input: stdin is empty; give --input TEXT or --input-file FILE")
    return text


def read_text_file(path: Path) -> str:
    """Return a file's text: UTF-8, line ends as they are, a byte order mark left out.

    Raises:
        WrongUsageError: It cannot be read.
    """
    try:
        return _decoded(path.read_bytes(), str(path))
    except IsADirectoryError:
        raise WrongUsageError(f"{path} is a folder; give a file") from None
    except FileNotFoundError:
        raise WrongUsageError(f"there is no file or folder {path}") from None
    except OSError as error:
        raise WrongUsageError(f"{path} cannot be read: {error.strerror}") from error


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WrongUsageError(
            f"{name} is not UTF-8 text: byte 0x{content[error.start]:02x} at position {error.start}"
        ) from error


def _read_folder(folder: Path, *, is_quiet: bool) -> str:
    """Return the texts of a folder in order of their paths, each under its name; skip what is hidden or no text."""
    texts: list[str] = []
    skipped = 0
    for path in sorted(_visible_files(folder), key=lambda file: file.relative_to(folder).as_posix()):
        text = _text_of(path)
        if text is None:
            skipped += 1
        else:
            texts.append(f"# file: {path.relative_to(folder).as_posix()}\n{text.rstrip()}\n")
    if skipped and not is_quiet:
        say(f"{folder}: {skipped} {'file' if skipped == 1 else 'files'} skipped, unreadable or no text")
    if not texts:
        raise WrongUsageError(f"{folder} has no text files")
    return "\n".join(texts)


def _visible_files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files if not name.startswith("."))


def _text_of(path: Path) -> str | None:
    try:
        content = path.read_bytes() if path.is_file() else b"\0"
        return None if b"\0" in content else content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
