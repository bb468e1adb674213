"""Values that cannot be stored, in the store that nobody asked for and in one that somebody named."""

from pathlib import Path

import pytest

from flujo.cli.app import run_command_line
from flujo.cli.exit_codes import ExitCode

_WORKFLOW = """
from flujo import Step

class Odd:
    def __init__(self, text):
        self.text = text

def make(text):
    return Odd(text)

def read(odd):
    return odd.text.upper()

def break_off(text):
    raise ValueError("not today")

pipeline = Step("make", make) >> Step("read", read)
broken = pipeline >> Step("break off", break_off, max_retries=0)
"""


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose first step gives what cannot be stored, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "flow.py"
    file.write_text(_WORKFLOW)
    return file


def test_it_is_no_error_where_nobody_asked_for_a_store(workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run completes, and nothing is left that could not be read back."""
    code = run_command_line(["run", str(workflow), "--input", "hello"])

    assert (code, capsys.readouterr().out) == (ExitCode.SUCCESS, "HELLO\n")
    run_command_line(["lens", "list", "--json"])
    assert capsys.readouterr().out.strip() == "[]"


def test_its_step_runs_again_if_the_run_goes_on(
    workflow: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning says so, and what could be stored is kept."""
    code = run_command_line(["run", f"{workflow}:broken", "--input", "hello", "--run-id", "r"])

    assert code == ExitCode.FAILED
    assert "the step at 0 is not kept, and runs again if the run goes on: output is a Odd" in caplog.text
    workflow.write_text(_WORKFLOW.replace('raise ValueError("not today")', "return text"))
    capsys.readouterr()
    assert run_command_line(["resume", "r"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out == "HELLO\n"


def test_it_is_an_error_in_a_store_that_was_named(workflow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run was to be kept; the line names the type and both ways out."""
    code = run_command_line(["run", str(workflow), "--input", "hello", "--state-db", "runs.db"])

    assert code == ExitCode.FAILED
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: output is a Odd, which flujo cannot store; call register_custom_serializer(Odd")
    assert error.endswith("or keep nothing, with --no-state")
