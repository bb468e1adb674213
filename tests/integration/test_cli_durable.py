"""Runs of real `flujo` processes that are interrupted, killed and resumed; effects are counted in a file."""

import os
import pty
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flujo.cli.exit_codes import ExitCode
from tests.cli.command import COMMAND, flujo_process

WORKFLOWS = """
import asyncio
import os
import sys
from pathlib import Path
from pydantic import BaseModel
from flujo import Step

class Review(BaseModel):
    ok: bool
    note: str = "none"

class Paid:
    cost_usd, token_counts = 0.0001, 3
    def __init__(self, output): self.output = output

def effect(text):
    file = os.open("effects", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(file, f"{text}\\n".encode())
    os.close(file)

async def pay(text: str):
    effect(f"pay {text}")
    return Paid(text + "!")

async def wait(text: str):
    effect("wait")
    if not Path("go").exists():
        asyncio.get_running_loop().call_soon(lambda: print("ready", file=sys.stderr, flush=True))
        await asyncio.Event().wait()
    return Paid(text)

def tell(review: Review) -> str:
    return f"{review.ok} {review.note}"

branch = Step("pay b", pay) >> Step("wait", wait)
pipeline = Step("pay", pay) >> Step.parallel("both", {"a": Step("pay a", pay), "b": branch}) >> Step("count", len)
asking = Step("pay", pay) >> Step.human_in_the_loop("ask", "Publish?", input_schema=Review) >> Step("tell", tell)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with the workflows, and without settings."""
    (tmp_path / "flow.py").write_text(WORKFLOWS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLUJO_STATE_DB", raising=False)
    return tmp_path


@contextmanager
def waiting_run() -> Generator[subprocess.Popen[str]]:
    """Give a process that runs the workflow, and whose last branch has begun to wait."""
    command = [*COMMAND, "run", "flow.py", "--input", "x", "--run-id", "one"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            while (line := process.stderr.readline()) != "ready\n":
                assert line, "the run waits before it ends"
            yield process
        finally:
            process.kill()


def effects() -> list[str]:
    """Return what the steps did, in order."""
    return Path("effects").read_text().splitlines()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_that_was_ended_goes_on(number: signal.Signals, code: int, folder: Path) -> None:
    """After Ctrl-C and after `kill -9` nothing is paid twice, and the totals are those of a whole run."""
    with waiting_run() as process:
        process.send_signal(number)
        process.communicate()
    (folder / "go").touch()

    ended = flujo_process("resume", "one", "--json")
    shown = flujo_process("lens", "list")

    assert process.returncode == code
    assert ended.code == ExitCode.SUCCESS
    assert sorted(effects()) == ["pay x", "pay x!", "pay x!", "wait", "wait"]
    assert '"output":2' in ended.out
    assert '"total_cost":"0.0004"' in ended.out
    assert shown.out.split()[6:9] == ["one", "flow", "completed"]


def test_ctrl_c_says_how_to_go_on() -> None:
    """The command to paste is on stderr before the error."""
    with waiting_run() as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()

    assert err.splitlines()[-2] == "go on: flujo resume one"
    assert err.splitlines()[-1].startswith("error: interrupted in step 'wait' at 1/branch:b/1")


def test_a_live_run_is_not_taken() -> None:
    """A second process is refused and told who owns the run, which goes on unharmed."""
    with waiting_run() as process:
        refused = flujo_process("resume", "one")
        again = flujo_process("run", "flow.py", "--input", "x", "--run-id", "one")
        doctor = flujo_process("doctor")

        assert refused.code == again.code == ExitCode.FAILED
        assert refused.error == again.error
        assert f"run 'one' belongs to process {process.pid} on host" in refused.error
        assert process.poll() is None
        assert (doctor.code, f"process {process.pid}" in doctor.out) == (ExitCode.SUCCESS, True)
    assert effects().count("wait") == 1


def test_a_person_at_a_terminal_is_asked_until_the_answer_fits() -> None:
    """The message and the fields are shown; what does not fit is asked again, what has a default may be left out."""
    flujo_process("run", "flow.py:asking", "--input", "x", "--run-id", "asked")
    control, terminal = pty.openpty()
    command = [*COMMAND, "resume", "asked"]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        shown = ""
        for prompt, typed in (
            ("ok (yes or no): ", "perhaps"),
            ("note (text; Enter for none): ", ""),
            ("ok (yes or no): ", "yes"),
        ):
            while not shown.endswith(prompt):
                shown += os.read(control, 4096).decode().replace("\r", "")
            os.write(control, f"{typed}\n".encode())
        while read := _read_rest(control):
            shown += read
    os.close(control)

    assert process.returncode == ExitCode.SUCCESS
    assert "Step 'ask' at 1 asks:\n\n  Publish?\n" in shown
    assert "  ok: Input should be a valid boolean, unable to interpret input\n" in shown
    assert "True none" in shown
    assert effects() == ["pay x"]


def test_a_person_who_says_nothing_leaves_the_run_waiting() -> None:
    """The end of the input at a question ends the command with 4, and the run can still be answered."""
    flujo_process("run", "flow.py:asking", "--input", "x", "--run-id", "asked")
    control, terminal = pty.openpty()
    with subprocess.Popen([*COMMAND, "resume", "asked"], stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        shown = ""
        while "ok (yes or no): " not in shown:
            shown += os.read(control, 4096).decode()
        os.write(control, b"\x04")
        while read := _read_rest(control):
            shown += read
    os.close(control)

    assert process.returncode == ExitCode.WAITING
    assert shown.splitlines()[-1] == "error: nothing was answered; the run still waits"
    assert flujo_process("resume", "asked", "--answer", '{"ok": false}').out == "False none\n"


def _read_rest(control: int) -> str:
    """Return what comes next from a terminal; nothing once its process has ended."""
    try:
        return os.read(control, 65536).decode()
    except OSError:  # Linux says so that nobody has the other end open
        return ""
