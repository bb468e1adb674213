"""Where output goes, and what happens when nobody takes it."""

import os
import subprocess
from pathlib import Path

import pytest

from flujo.cli.exit_codes import ExitCode
from flujo.cli.terminal import one_line
from tests.cli.command import COMMAND, flujo_process


def run_without_reader(*arguments: str, stream: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command one of whose streams nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = (writer, subprocess.PIPE) if stream == "stdout" else (subprocess.PIPE, writer)
    try:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=streams[0],
            stderr=streams[1],
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "flows.py:shouting", "--input", "x"],
        ["run", "flows.py:shouting", "--input", "x", "--json"],
        ["run", "flows.py:speaking", "--input", "a b c", "--stream"],
        ["show", "flows.py:shouting"],
        ["show", "flows.py:shouting", "--format", "mermaid"],
        ["validate", "flows.py:shouting"],
        ["bench", "--size", "5", "--repeats", "1"],
        ["version"],
        ["--help"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_is_gone_is_no_error(arguments: list[str], stream: str, workflows: Path, tmp_path: Path) -> None:
    """As in `| head`: the command goes on, whoever prints, and ends as it would have."""
    ended = run_without_reader(*arguments, stream=stream, folder=tmp_path)

    assert ended.returncode == ExitCode.SUCCESS
    assert "error" not in (ended.stderr or "")
    assert "Broken" not in (ended.stderr or "")


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_a_stream_may_be_closed(closed: str, workflows: Path, tmp_path: Path) -> None:
    """A process that was started without one of its streams runs all the same."""
    number = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}[closed]
    command = " ".join([*COMMAND, "run", "flows.py:shouting", "--input", "x", number])

    ended = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ended.returncode == ExitCode.SUCCESS
    assert ended.stdout == ("" if closed == "stdout" else "X\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_result_that_cannot_be_written_is_an_error(workflows: Path, tmp_path: Path) -> None:
    """A full disk is said in one line, because the result is lost."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run(
            [*COMMAND, "run", "flows.py:numbers", "--input", "3"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip

    assert ended.returncode == ExitCode.FAILED
    assert ended.stderr.splitlines()[-1] == "error: OSError: [Errno 28] No space left on device (--debug shows where)"
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "café \\udc80\0\n"), ("ascii", "caf\\xe9 \\udc80\0\n")])
def test_any_character_can_be_printed(encoding: str, shown: str, workflows: Path, tmp_path: Path) -> None:
    """What the encoding of the terminal does not have is written escaped."""
    ended = flujo_process(
        "run", "flows.py:garbling", "--input", "x", folder=tmp_path, environment={"PYTHONIOENCODING": encoding}
    )

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, shown)


def test_no_terminal_gets_no_colours(workflows: Path, tmp_path: Path) -> None:
    """Piped output has no control characters."""
    ended = flujo_process("run", "flows.py:failing", "--input", "x", folder=tmp_path)

    assert "\x1b" not in ended.out + ended.err


def test_control_characters_are_shown_and_not_obeyed() -> None:
    """A message of the user's can neither colour nor clear the terminal."""
    assert one_line("really?\x1b[31m\x00 now\x9b") == "really?\\x1b[31m\\x00 now\\x9b"


def test_an_error_is_one_line_of_bounded_length() -> None:
    """Line ends become spaces, and what is too long ends with dots."""
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 5000) == "x" * 997 + "..."
