"""Runs the `flujo` command: in this process, or as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from flujo.cli.app import run_command_line

COMMAND = (sys.executable, "-m", "flujo.cli")


@dataclass(frozen=True)
class Ended:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """What is wrong: the only line of stderr, without `error: `."""
        (line,) = self.err.splitlines()
        assert line.startswith("error: "), "an error says that it is one"
        return line.removeprefix("error: ")


@contextmanager
def imports_forgotten(folder: Path) -> Generator[None]:
    """Forget afterwards which files of a folder were imported."""
    path = sys.path.copy()
    try:
        yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if folder in Path(module.__dict__.get("__file__") or "").parents:
                del sys.modules[name]


def flujo(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """Run a command in this process."""
    capsys.readouterr()
    code = run_command_line([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return Ended(code, out, err)


def flujo_afresh(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """Run a command in this process as in a new one: it imports the files of the working directory as they are."""
    with imports_forgotten(Path.cwd()):
        return flujo(capsys, *arguments)


def flujo_process(
    *arguments: str | Path,
    stdin: bytes = b"",
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command as a process, with pipes for its streams."""
    ended = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())
