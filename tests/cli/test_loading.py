"""Which workflow of which file is run, and what is said when there is none."""

from pathlib import Path

import pytest

from flujo.cli.exit_codes import ExitCode
from tests.cli.command import flujo

Captured = pytest.CaptureFixture[str]
HEAD = "from flujo import Flujo, Step\nupper = Step('upper', str.upper)\nlower = Step('lower', str.lower)\n"


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("pipeline = upper\nother = upper >> lower", "AbC".upper()),
        ("flow = upper >> lower", "abc"),
        ("flow = upper >> lower\nrunner = Flujo(flow)", "abc"),
        ("runner = Flujo(upper)", "ABC"),
        ("flow = same = upper >> lower", "abc"),
        ("del lower", "ABC"),
        ("_hidden = upper >> lower\ndel lower", "ABC"),
        ("pipeline = 'no pipeline'\nflow = upper >> lower", "abc"),
    ],
    ids=["pipeline", "only pipeline", "runner of it", "only runner", "two names", "only step", "private", "text"],
)
def test_the_workflow_of_a_file_is_found(text: str, output: str, tmp_path: Path, capsys: Captured) -> None:
    """Without a name it is `pipeline`, or else the only pipeline or runner, or else the only step."""
    (tmp_path / "flow.py").write_text(HEAD + text + "\n")

    ended = flujo(capsys, "run", "flow.py", "--input", "AbC")

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, output + "\n")


@pytest.mark.parametrize(("name", "output"), [("upper", "ABC"), ("lower", "abc"), ("runner", "ABC")])
def test_a_variable_can_be_named(name: str, output: str, tmp_path: Path, capsys: Captured) -> None:
    """FILE:NAME runs a step, a pipeline or a runner of that name."""
    (tmp_path / "flow.py").write_text(HEAD + "runner = Flujo(upper)\npipeline = upper >> lower\n")

    ended = flujo(capsys, "run", f"flow.py:{name}", "--input", "AbC")

    assert ended.out == output + "\n"


@pytest.mark.parametrize(
    ("text", "target", "reason"),
    [
        (HEAD + "a = upper >> lower\nb = lower >> upper", "flow.py", "flow.py has several workflows: a, b; choose one"),
        (HEAD, "flow.py", "several workflows: upper, lower"),
        ("x = 1", "flow.py", "flow.py has no pipeline; assign one to a variable"),
        (HEAD, "flow.py:uper", "flow.py has no variable uper; did you mean upper?"),
        (HEAD, "flow.py:zzz", "flow.py has no variable zzz; it has upper, lower"),
        (HEAD + "number = 5", "flow.py:number", "flow.py: number is of type int, not a pipeline, a step or a Flujo"),
        (HEAD, "flow.py:Step", "flow.py: Step is the class Step, not a pipeline"),
        (HEAD, "flow.py:", "give the name of a variable after the colon"),
        ("x = (", "flow.py", "flow.py:1: SyntaxError: '(' was never closed"),
        ("import no_such_library", "flow.py", "flow.py:1: ModuleNotFoundError: No module named 'no_such_library'"),
        ("import json\njson.loads('{')", "flow.py", "flow.py:2: JSONDecodeError: "),
        ("import sys\nsys.exit(3)", "flow.py", "flow.py calls sys.exit(3) when it is imported"),
        (HEAD, "flaw.py", "there is no file flaw.py; did you mean flow.py?"),
        (HEAD, "nowhere/flow.py", "there is no file nowhere/flow.py"),
        (HEAD, "notes.txt", "notes.txt is not a Python file"),
        (HEAD, ".", ". is a folder; give a Python file"),
    ],
)
def test_a_file_that_does_not_do_is_refused(
    text: str, target: str, reason: str, tmp_path: Path, capsys: Captured
) -> None:
    """What is wrong with a file is said in one line, with the place and what to do."""
    (tmp_path / "flow.py").write_text(text + "\n")
    (tmp_path / "notes.txt").write_text("notes\n")

    ended = flujo(capsys, "run", target, "--input", "x")

    assert ended.code == ExitCode.WRONG_USAGE
    assert reason in ended.error
    assert ended.out == ""


def test_the_place_is_in_the_file_that_raised(tmp_path: Path, capsys: Captured) -> None:
    """An error in a module beside the file is placed in that module."""
    (tmp_path / "flow.py").write_text("import beside\n")
    (tmp_path / "beside.py").write_text("\n\nraise RuntimeError('stumbled')\n")

    ended = flujo(capsys, "run", "flow.py", "--input", "x")

    assert ended.error == "beside.py:3: RuntimeError: stumbled"


def test_a_file_may_have_the_name_of_a_library(tmp_path: Path, capsys: Captured) -> None:
    """A file called like a module of the standard library is run, and hides nothing."""
    (tmp_path / "json.py").write_text(HEAD + "import json\npipeline = Step('dump', lambda text: json.dumps(text))\n")

    ended = flujo(capsys, "run", "json.py", "--input", "x")

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, '"x"\n')


def test_annotations_of_a_file_are_understood(tmp_path: Path, capsys: Captured) -> None:
    """Types that annotations name as text are found in the file."""
    (tmp_path / "flow.py").write_text(
        "from __future__ import annotations\n"
        "from pydantic import BaseModel\n"
        "from flujo import step\n"
        "class Point(BaseModel):\n"
        "    x: int\n"
        "@step\n"
        "async def move(point: Point) -> int:\n"
        "    return point.x + 1\n"
    )

    ended = flujo(capsys, "run", "flow.py", "--input", '{"x": 1}')

    assert ended.out == "2\n"
