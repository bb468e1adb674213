"""Where the input of a run comes from: a file, a folder or stdin."""

from pathlib import Path

import pytest

from flujo.cli.exit_codes import ExitCode
from tests.cli.command import flujo, flujo_process

Captured = pytest.CaptureFixture[str]
ECHO = "from flujo import Step\ndef echo(text: str) -> str:\n    return text\npipeline = Step('echo', echo)\n"


@pytest.fixture(autouse=True)
def echo(tmp_path: Path) -> None:
    """Write a workflow that gives back its input."""
    (tmp_path / "echo.py").write_text(ECHO)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"plain\n", "plain\n"),
        (b"\xef\xbb\xbfmarked\n", "marked\n"),
        (b"one\r\ntwo\r\n", "one\r\ntwo\r\n"),
        ("größe 长江".encode(), "größe 长江\n"),
        (b"", ""),
    ],
    ids=["plain", "byte order mark", "Windows", "characters", "empty"],
)
def test_a_file_is_read_as_it_is(content: bytes, text: str, tmp_path: Path, capsys: Captured) -> None:
    """A file's text keeps its line ends and loses its byte order mark."""
    (tmp_path / "input.txt").write_bytes(content)

    ended = flujo(capsys, "run", "echo.py", "--input-file", "input.txt")

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, text)


@pytest.mark.parametrize("arguments", [["--input-file", "-"], []], ids=["asked for", "without a word"])
def test_piped_text_is_the_input(arguments: list[str], tmp_path: Path) -> None:
    """What is piped in is the input, and without `--input-file -` it is said that it is."""
    ended = flujo_process("run", "echo.py", *arguments, stdin="a\r\nü".encode(), folder=tmp_path)

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, "a\r\nü\n")
    assert ("reading the input from stdin" in ended.err) is (not arguments)


def test_json_of_piped_text_has_a_silent_stderr(tmp_path: Path) -> None:
    """With --json nothing is said about where the input comes from."""
    ended = flujo_process("run", "echo.py", "--json", stdin=b"a", folder=tmp_path)

    assert (ended.code, ended.err) == (ExitCode.SUCCESS, "")


@pytest.mark.parametrize(
    ("arguments", "stdin", "reason"),
    [
        ([], b"", "no input: stdin is empty; give --input TEXT or --input-file FILE"),
        ([], b"\xff\xfe", "stdin is not UTF-8 text: byte 0xff at position 0"),
        (["--input-file", "absent"], b"", "there is no file or folder absent"),
        (["--input-file", "latin.txt"], b"", "latin.txt is not UTF-8 text: byte 0xfc at position 2"),
        (["--input-file", "empty"], b"", "empty has no text files"),
        (["--input-file", "-", "--input", "x"], b"", "--input and --input-file are both given"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused(
    arguments: list[str], stdin: bytes, reason: str, tmp_path: Path
) -> None:
    """What is wrong is said in one line that names the place."""
    (tmp_path / "latin.txt").write_bytes(b"gr\xfcn")
    (tmp_path / "empty").mkdir()

    ended = flujo_process("run", "echo.py", *arguments, stdin=stdin, folder=tmp_path)

    assert (ended.code, ended.out) == (ExitCode.WRONG_USAGE, "")
    assert ended.err.splitlines()[-1].startswith(f"error: {reason}")


def test_a_folder_is_one_text(tmp_path: Path, capsys: Captured) -> None:
    """The text files stand in the order of their paths under their names; hidden and other files are left out."""
    folder = tmp_path / "notes"
    (folder / "more").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "b.md").write_text("second\n\n")
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbffirst")
    (folder / "more" / "c.md").write_text("third\n")
    (folder / ".hidden").write_text("hidden")
    (folder / ".git" / "config").write_text("hidden")
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    (folder / "latin.txt").write_bytes(b"gr\xfcn")

    ended = flujo(capsys, "run", "echo.py", "--input-file", folder)

    assert ended.out == "# file: a.txt\nfirst\n\n# file: b.md\nsecond\n\n# file: more/c.md\nthird\n"
    assert ended.err.startswith(f"{folder}: 2 files skipped, unreadable or no text\n")
