"""The command line as a whole: its help, its errors and its exit codes."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from flujo.cli.app import COMMANDS
from flujo.cli.exit_codes import ExitCode
from tests.cli.command import flujo, flujo_process

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=["nothing", "--help", "-h"])
def test_the_help_says_what_each_command_does(arguments: list[str], capsys: Captured) -> None:
    """The overview names every command with a description beside it."""
    ended = flujo(capsys, *arguments)

    assert ended.code == ExitCode.SUCCESS
    for name in (*COMMANDS, "version"):
        assert re.search(rf"│ {name} +\w+", ended.out), f"{name} is described"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_its_options(command: str, capsys: Captured) -> None:
    """The help of a command begins with what it does, and every option has a description."""
    ended = flujo(capsys, command, "--help")

    assert ended.code == ExitCode.SUCCESS
    assert ended.out.startswith(f"Usage: flujo {command}")
    options = re.findall(r"│ +(--[a-z-]+)([^│]*)│", ended.out)
    assert options
    assert [name for name, description in options if not re.search(r" [A-Z]\w*,? [a-z]", description)] == []


def test_the_help_of_run_documents_the_exit_codes(capsys: Captured) -> None:
    """Every exit code is explained where it is used."""
    text = " ".join(flujo(capsys, "run", "--help").out.split())

    assert "0 success, 1 the run failed, 2 wrong usage, input or file, 3 a limit stopped it" in text
    assert "4 it waits for a person, 130 interrupted" in text


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_the_version_is_printed(argument: str, capsys: Captured) -> None:
    """Both spellings print the installed version."""
    ended = flujo(capsys, argument)

    assert (ended.code, ended.out, ended.err) == (ExitCode.SUCCESS, f"flujo {version('flujo')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["rum"], "rum"),
        (["run"], "FILE"),
        (["run", "flows.py:shouting", "--inptu", "x"], "Did you mean --input?"),
        (["run", "flows.py:shouting", "--input"], "--input"),
        (["run", "flows.py:shouting", "hello", "world"], "'hello world'; an input is given with --input"),
        (["run", "flows.py:shouting", "--input", "x", "--json", "--stream"], "--json and --stream"),
        (["show", "flows.py:shouting", "--format", "picture"], "tree"),
        (["bench", "flows.py:shouting"], "--input"),
        (["bench", "--repeats", "1.5"], "'1.5' is not an integer"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], reason: str, workflows: Path, capsys: Captured) -> None:
    """A mistake in the arguments is said in one line on stderr, and nothing is run."""
    ended = flujo(capsys, *arguments)

    assert ended.code == ExitCode.WRONG_USAGE
    assert reason in ended.error
    assert ended.out == ""


@pytest.mark.parametrize(
    "arguments", [["--debug", "run", "broken.py"], ["run", "broken.py", "--debug"]], ids=["1", "2"]
)
def test_debug_shows_where_an_error_comes_from(arguments: list[str], tmp_path: Path) -> None:
    """With --debug before or after the command, the traceback stands above the line of the error."""
    (tmp_path / "broken.py").write_text("def stumble():\n    raise RuntimeError('stumbled')\nstumble()\n")

    ended = flujo_process(*arguments, "--input", "x", folder=tmp_path)

    assert ended.code == ExitCode.WRONG_USAGE
    assert "in stumble" in ended.err
    assert ended.err.splitlines()[-1] == "error: broken.py:2: RuntimeError: stumbled"


def test_debug_shows_where_a_step_raised(workflows: Path, tmp_path: Path) -> None:
    """With --debug, the error of every attempt is shown with the line that raised it."""
    ended = flujo_process("run", "flows.py:failing", "--input", "x", "--debug", folder=tmp_path)

    assert ended.code == ExitCode.FAILED
    assert ended.err.count("in fail\n") == 3


def test_a_bug_of_the_workflow_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    """What nobody expected is an error with its type and a hint, not a traceback."""
    (tmp_path / "odd.py").write_text(
        "from flujo import Flujo, Step\n"
        "class Odd(Flujo):\n"
        "    def with_settings(self, **settings):\n"
        "        raise LookupError('odd')\n"
        "pipeline = Odd(Step('a', str.upper))\n"
    )

    ended = flujo(capsys, "run", "odd.py", "--input", "x")

    assert ended.code == ExitCode.FAILED
    assert ended.error == "LookupError: odd (--debug shows where)"
