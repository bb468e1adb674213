"""`flujo bench` measures flujo itself or a user's pipeline."""

import json
from pathlib import Path

import pytest

from flujo.cli.app import run_command_line
from flujo.cli.exit_codes import ExitCode


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """Write a file with a few workflows."""
    file = tmp_path / "workflow.py"
    file.write_text(
        "from flujo import Flujo, Step, UsageLimits\n"
        "class Paid:\n"
        "    cost_usd, token_counts, output = 1.0, 5, 'paid'\n"
        "def shout(text: str) -> str:\n"
        "    print('loud')\n"
        "    return text.upper()\n"
        "def double(number: int) -> int:\n"
        "    return 2 * number\n"
        "def fail(text: str) -> str:\n"
        "    raise ValueError('no such model')\n"
        "pipeline = Step('shout', shout) >> Step('again', shout)\n"
        "numbers = Step('double', double)\n"
        "failing = Step('fail', fail)\n"
        "asking = Step.human_in_the_loop('ask', 'may I?')\n"
        "paying = Flujo(Step('pay', lambda text: Paid()), usage_limits=UsageLimits(total_tokens_limit=4))\n"
    )
    return file


def test_flujo_itself_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file, the table shows every scenario at every size that was asked for."""
    code = run_command_line(["bench", "--size", "5", "--size", "10", "--repeats", "1"])

    written = capsys.readouterr().out
    assert code == ExitCode.SUCCESS
    assert [written.count(name) for name in ("sequence", "loop", "parallel", "map", "durable")] == [2] * 5


def test_machines_get_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json, stdout is one document and stderr is empty."""
    run_command_line(["bench", "--size", "5", "--repeats", "1", "--json"])

    out, err = capsys.readouterr()
    assert [each["name"] for each in json.loads(out)["scenarios"]] == ["sequence", "loop", "parallel", "map", "durable"]
    assert err == ""


def test_a_pipeline_is_measured(workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a file, its pipeline is run on the input; what it prints does not get into the result."""
    code = run_command_line(["bench", str(workflow), "--input", "hello", "--repeats", "2", "--json"])

    out, err = capsys.readouterr()
    assert code == ExitCode.SUCCESS
    assert json.loads(out)["pipeline"]["steps"] == 2
    assert err.count("loud") == 2 * 3


def test_an_input_that_is_no_string_is_json(workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The input is read as the type that the first step takes."""
    code = run_command_line(["bench", f"{workflow}:numbers", "--input", "21", "--repeats", "1"])

    assert code == ExitCode.SUCCESS
    assert capsys.readouterr().out.endswith("µs of CPU time per step; steps in a run: 1\n")


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("failing", ExitCode.FAILED, "no such model"),
        ("asking", ExitCode.WAITING, "may I?"),
        ("paying", ExitCode.LIMIT, "limit of 4 tokens"),
    ],
)
def test_a_pipeline_that_does_not_complete_is_an_error(
    name: str, code: ExitCode, reason: str, workflow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that fails, waits or is stopped gives its exit code and one line, and measures nothing."""
    ended = run_command_line(["bench", f"{workflow}:{name}", "--input", "hello"])

    out, err = capsys.readouterr()
    assert ended == code
    assert out == ""
    assert err.startswith("error: ")
    assert reason in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["workflow.py"],
        ["--input", "hello"],
        ["workflow.py", "--input", "hello", "--size", "5"],
        ["--size", "0"],
        ["--repeats", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that do not go together are one clear line, and nothing is measured."""
    code = run_command_line(["bench", *arguments])

    out, err = capsys.readouterr()
    assert code == ExitCode.WRONG_USAGE
    assert out == ""
    assert err.startswith("error: ")
