"""Ctrl-C, wherever a run stands: the process says where, cleans up, and ends with 130."""

import asyncio
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flujo.cli.exit_codes import ExitCode
from flujo.cli.interruption import run_interruptibly
from flujo.utils.background import begin_in_background
from tests.cli.command import COMMAND, Ended

WORKFLOWS = """
import asyncio
import sys
import threading
import time
from flujo import Step

def ready():
    print("ready", file=sys.stderr, flush=True)

def ready_soon():
    asyncio.get_running_loop().call_soon(ready)  # once the step waits

def start(text: str) -> str:
    return text

async def wait(text: str) -> str:
    ready_soon()
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned up")
    return text

async def wait_quietly(text: str) -> str:
    await asyncio.Event().wait()
    return text

def spin(text: str) -> str:
    ready()
    while True:
        pass

def spin_stubbornly(text: str) -> str:
    try:
        return spin(text)
    except Exception:
        return spin(text)

async def block_in_thread(text: str) -> str:
    ready_soon()
    await asyncio.to_thread(threading.Event().wait)
    return text

async def stream(text: str):
    yield "chunk "
    for _ in range(20):  # until the chunk is printed
        await asyncio.sleep(0)
    ready_soon()
    await asyncio.Event().wait()

waiting = Step("start", start) >> Step("wait", wait)
parallel = Step("start", start) >> Step.parallel("both", {"a": Step("wait", wait), "b": Step("also", wait_quietly)})
mapped = Step("split", str.split) >> Step.map_over("each", Step("wait", wait))
spinning = Step("spin", spin)
stubborn = Step("spin", spin_stubbornly)
threaded = Step("block", block_in_thread)
streaming = Step("stream", stream)
"""


@pytest.fixture
def interrupted(tmp_path: Path) -> Callable[..., Ended]:
    """Return a function that runs a workflow, and interrupts it each time it writes a line that it is given."""
    (tmp_path / "flows.py").write_text(WORKFLOWS)
    (tmp_path / "slow.py").write_text("import sys, threading\nprint('ready', flush=True)\nthreading.Event().wait()\n")

    def run(target: str, *arguments: str, when: tuple[str, ...] = ("ready",)) -> Ended:
        with subprocess.Popen(
            [*COMMAND, "run", target, "--input", "x", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            text=True,
            env={**os.environ, "PYTHONASYNCIODEBUG": "0", "PYTHONWARNINGS": "default"},
        ) as process:
            try:
                err = _interrupt(process, when)
                out, rest = process.communicate()
            finally:
                process.kill()
            return Ended(process.returncode, out, err + rest)

    return run


def _interrupt(process: subprocess.Popen[str], when: tuple[str, ...]) -> str:
    """Send Ctrl-C each time that the process has written a line, and return what it wrote to stderr so far."""
    assert process.stderr is not None
    err = ""
    for line in when:
        while not err.endswith(f"{line}\n"):
            read = process.stderr.readline()
            assert read, f"the process says {line!r} before it ends; it said {err!r}"
            err += read
        process.send_signal(signal.SIGINT)
    return err


@pytest.mark.parametrize(
    ("target", "position"),
    [
        ("waiting", "in step 'wait' at 1, after 1 finished step with $0 spent"),
        ("parallel", "in step 'wait' at 1/branch:a/0 (and in 1 other), after 1 finished step with $0 spent"),
        ("mapped", "in step 'wait' at 1/item:0/0, after 1 finished step with $0 spent"),
        ("spinning", "in step 'spin' at 0, after 0 finished steps with $0 spent"),
        ("stubborn", "in step 'spin' at 0, after 0 finished steps with $0 spent"),
    ],
)
def test_an_interrupted_run_says_where_it_stood(target: str, position: str, interrupted: Callable[..., Ended]) -> None:
    """In an await and in plain code, the last line says where; nothing is left behind and no traceback is shown."""
    ended = interrupted(f"flows.py:{target}")

    assert (ended.code, ended.out) == (ExitCode.INTERRUPTED, "")
    assert ended.err.splitlines()[-1] == f"error: interrupted {position}"
    assert [word for word in ("Traceback", "never awaited", "destroyed", "Warning") if word in ended.err] == []


def test_ctrl_c_during_work_in_the_background_ends_the_run() -> None:
    """Such as the renewal of a lease: an error there would end nothing but the renewal."""

    async def renew() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    async def work() -> None:
        renewal = begin_in_background(renew())
        await asyncio.sleep(2)
        went_on.append(renewal.done())

    went_on = list[bool]()
    with pytest.raises(KeyboardInterrupt, match="interrupted somewhere"):
        run_interruptibly(work(), lambda: "somewhere")

    assert went_on == []


def test_steps_clean_up_when_interrupted(interrupted: Callable[..., Ended]) -> None:
    """What a step has in `finally` runs before the process ends."""
    assert "cleaned up" in interrupted("flows.py:waiting").err


def test_an_interrupted_stream_keeps_what_it_gave(interrupted: Callable[..., Ended]) -> None:
    """The chunks that came are on stdout."""
    ended = interrupted("flows.py:streaming", "--stream")

    assert (ended.code, ended.out) == (ExitCode.INTERRUPTED, "chunk ")
    assert "interrupted in step 'stream' at 0" in ended.err


def test_json_has_nothing_on_stdout_when_interrupted(interrupted: Callable[..., Ended]) -> None:
    """A run that did not end has no document."""
    ended = interrupted("flows.py:waiting", "--json")

    assert (ended.code, ended.out) == (ExitCode.INTERRUPTED, "")
    assert ended.err.splitlines()[-1].startswith("error: interrupted in step 'wait'")


def test_a_second_ctrl_c_ends_what_cannot_stop(interrupted: Callable[..., Ended]) -> None:
    """A thread cannot be stopped; the process says so, and the second Ctrl-C ends it at once."""
    ended = interrupted("flows.py:threaded", when=("ready", "stopping; press Ctrl-C again to end at once"))

    assert ended.code == ExitCode.INTERRUPTED
    assert ended.err.splitlines()[-1] == "error: interrupted in step 'block' at 0, after 0 finished steps with $0 spent"


def test_an_interruption_while_loading_is_one_line(interrupted: Callable[..., Ended]) -> None:
    """A file that takes long to import can be interrupted too."""
    ended = interrupted("slow.py")

    assert (ended.code, ended.out) == (ExitCode.INTERRUPTED, "")
    assert ended.err == "ready\nerror: interrupted\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit(3)", "sys.exit(3) was called in step 'a' at 0, after 0 finished steps with $0 spent"),
        ("asyncio.current_task().cancel()\n    await asyncio.sleep(0)", "cancelled by its own code"),
    ],
)
def test_code_that_ends_its_own_run_is_an_error(body: str, reason: str, tmp_path: Path) -> None:
    """A step that leaves the process or cancels its own task fails the command with one line."""
    (tmp_path / "flow.py").write_text(
        f"import asyncio, sys\nfrom flujo import Step\nasync def end(text):\n    {body}\npipeline = Step('a', end)\n"
    )

    ended = subprocess.run(
        [*COMMAND, "run", "flow.py", "--input", "x"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert ended.returncode == ExitCode.FAILED
    assert reason in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_terminal_shows_the_run_and_gets_its_cursor_back(tmp_path: Path) -> None:
    """On a terminal the running steps are drawn while they run, and Ctrl-C leaves a clean screen and a cursor."""
    (tmp_path / "flows.py").write_text(WORKFLOWS)
    control, terminal = pty.openpty()
    command = [*COMMAND, "run", "flows.py:parallel", "--input", "x"]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=tmp_path) as process:
        os.close(terminal)
        shown = ""
        while "branch b" not in shown:
            shown += os.read(control, 65536).decode()
        process.send_signal(signal.SIGINT)
        while read := _read_rest(control):
            shown += read
    os.close(control)

    assert process.returncode == ExitCode.INTERRUPTED
    assert "step 2 of 2, 1 step finished, $0" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert shown.splitlines()[-1].endswith(
        "error: interrupted in step 'wait' at 1/branch:a/0 (and in 1 other), after 1 finished step with $0 spent"
    )


def _read_rest(control: int) -> str:
    """Return what comes next from a terminal; nothing once its process has ended."""
    try:
        return os.read(control, 65536).decode()
    except OSError:  # Linux says so that nobody has the other end open
        return ""
