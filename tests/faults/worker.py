"""A process of its own that runs the pipeline of every kind, counts its effects in a file, and may be killed.

Processes are forked from a server that has imported everything, so that hundreds of them can be killed in seconds.
"""

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from decimal import Decimal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from flujo import PipelineResult, PostgresBackend, SQLiteBackend
from flujo.exceptions import FlujoError
from flujo.state.backend import Durability, StateBackend
from tests.faults.every_kind import ANSWER, PRICE, Effects, Notes, runner_of

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.faults.worker"])

_PATIENCE_S = 50.0


@dataclass(slots=True)
class WrittenEffects(Effects):
    """Effects that are appended to a file at the moment they happen, which no death of the process undoes.

    Attributes:
        file: Where they are appended, one a line.
        stop_at: The effect at which the process is stopped by SIGSTOP, after it happened; `None` for none.
    """

    file: Path = field(default_factory=Path)
    stop_at: str | None = None

    def happen(self, name: str, data: object) -> None:
        """Append the effect to the file."""
        line = f"{name}({data})"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)
        if line == self.stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        Effects.happen(self, name, data)


@dataclass(slots=True, frozen=True)
class Site:
    """Where one run is stored, and where what it does is counted.

    Attributes:
        folder: Holds the database, the effects and what came of each process.
        run_id: The run.
        lease_s: How long an owner that cannot be asked keeps it.
        durability: What a finished step survives.
        asks: Whether people are asked, whom the process answers for; or else agents answer in their place.
        dsn: The Postgres database that keeps the run; `None` for SQLite in the folder.
    """

    folder: Path
    run_id: str = "run"
    lease_s: float = 15.0
    durability: Durability = "fast"
    asks: bool = True
    dsn: str | None = None

    @property
    def database(self) -> Path:
        """The database."""
        return self.folder / "runs.db"

    @property
    def effects_file(self) -> Path:
        """Where effects are appended."""
        return self.folder / f"effects-{self.run_id}"

    @property
    def effects(self) -> Counter[str]:
        """How often each effect has happened."""
        text = self.effects_file.read_text() if self.effects_file.exists() else ""
        return Counter(text.splitlines())

    def backend(self) -> StateBackend:
        """Return a store of its database."""
        if self.dsn is not None:
            return PostgresBackend(self.dsn, lease_s=self.lease_s, durability=self.durability)
        return SQLiteBackend(self.database, lease_s=self.lease_s, durability=self.durability)


@dataclass(slots=True, frozen=True)
class Ending:
    """What a process came to: the result of the run, or the error that it ended with.

    Attributes:
        result: Output, context and totals, for comparison; `None` after an error.
        error: The name of the error; empty if there was none.
        message: Of the error.
    """

    result: dict[str, Any] | None
    error: str = ""
    message: str = ""


def start(site: Site, name: str = "out", *, stop_at: str | None = None) -> ForkServerProcess:
    """Start a process that runs a site's run to its end; what it comes to is written to a file of this name."""
    process = _SERVER.Process(target=_work, args=(site, name, stop_at))
    process.start()
    return process


def ending(site: Site, process: ForkServerProcess, name: str = "out") -> Ending:
    """Wait for the end of a process, and return what it came to."""
    process.join(_PATIENCE_S)
    assert process.exitcode == 0, f"the process of run {site.run_id!r} ended with {process.exitcode}"
    return Ending(**json.loads((site.folder / name).read_text()))


def kill(process: ForkServerProcess) -> None:
    """Kill a process, and wait for its end."""
    process.kill()
    process.join(_PATIENCE_S)


@contextlib.contextmanager
def started(site: Site, name: str = "out", *, stop_at: str | None = None) -> Generator[ForkServerProcess]:
    """Start a process as `start` does, which does not outlive the block."""
    process = start(site, name, stop_at=stop_at)
    try:
        yield process
    finally:
        kill(process)


def _work(site: Site, name: str, stop_at: str | None) -> None:
    try:
        came_to = Ending(comparable(asyncio.run(run_all(site, stop_at=stop_at))))
    except FlujoError as error:
        came_to = Ending(None, type(error).__name__, str(error))
    written = site.folder / f"{name}.{os.getpid()}"
    written.write_text(json.dumps({"result": came_to.result, "error": came_to.error, "message": came_to.message}))
    written.replace(site.folder / name)


async def run_all(site: Site, *, stop_at: str | None = None) -> PipelineResult[Any]:
    """Run a site's run to its end, answering every question."""
    backend = site.backend()
    runner = runner_of(WrittenEffects(file=site.effects_file, stop_at=stop_at), backend, asks=site.asks)
    result = await runner.run_async(1, run_id=site.run_id)
    while result.status == "paused":
        result = await runner.resume_async(site.run_id, ANSWER, path=result.waiting[0].path)
    await backend.close()
    return result


def wait_until_stopped(process: ForkServerProcess) -> None:
    """Wait until a process has been stopped by SIGSTOP."""
    deadline = time.monotonic() + _PATIENCE_S
    stat = Path(f"/proc/{process.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "the process was not stopped"
        time.sleep(0.002)


def proceed(process: ForkServerProcess) -> None:
    """Let a stopped process go on."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGCONT)


FAILING = {"bad(3)", "primary(6)"}
"""Effects that fail; what failed did not finish, until it is known that its failure is not the end of the run."""

MOST_AT_ONCE = 3
"""As many effects may be in flight as there are branches at once."""


@dataclass(slots=True, frozen=True)
class Reference:
    """A run that nobody disturbed.

    Attributes:
        site: Where it happened.
        result: What it came to.
        took_s: How long its process lived.
    """

    site: Site
    result: dict[str, Any]
    took_s: float

    def check(self, site: Site, came_to: Ending, deaths: int) -> None:
        """Compare a run that was disturbed: all is as here, but for the effects in flight at each death."""
        result = came_to.result
        assert result is not None, came_to
        cost, expected_cost = Decimal(result["total_cost"]), Decimal(self.result["total_cost"])
        but_totals = {"total_cost": None, "total_tokens": None}
        assert {**result, **but_totals} == {**self.result, **but_totals}
        effects, expected = site.effects, self.site.effects
        repeated = effects - expected
        assert not expected - effects
        assert 0 <= cost - expected_cost <= repeated.total() * PRICE
        assert sum(effect not in FAILING for effect in repeated.elements()) <= MOST_AT_ONCE * deaths, repeated
        assert repeated.total() <= (MOST_AT_ONCE + 1) * deaths, repeated


def undisturbed(site: Site) -> Reference:
    """Run a site's run to its end in a process of its own."""
    began = time.monotonic()
    came_to = ending(site, start(site))
    assert came_to.result is not None, came_to
    return Reference(site, came_to.result, time.monotonic() - began)


def comparable(result: PipelineResult[Any]) -> dict[str, Any]:
    """Return what two runs to the same end have in common, besides their totals."""
    context = result.final_pipeline_context
    assert isinstance(context, Notes)
    said = [(each.message_to_human, each.human_response) for each in context.hitl_history]
    return {
        "status": result.status,
        "output": result.output,
        "context": context.model_dump(mode="json", exclude={"hitl_history", "run_id"}),
        "said": sorted(map(list, said)),
        "names": [step.name for step in result.step_history],
        "total_cost": str(result.total_cost),
        "total_tokens": result.total_tokens,
    }
