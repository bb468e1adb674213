"""A store in a SQLite file: the file itself, what is refused, and what a step costs."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flujo import Budget, ConfigurationError, Flujo, SQLiteBackend, Step
from flujo.exceptions import SchemaTooNewError, StateCorruptedError, StateError
from flujo.state import sqlite
from flujo.state.records import RunQuery
from flujo.testing.conformance import RunDraft, owner_elsewhere

_TABLES = ("runs", "starts", "journal")


async def _stored(backend: SQLiteBackend, draft: RunDraft) -> None:
    owner = owner_elsewhere()
    await backend.create(draft.record(), owner)
    await backend.write(draft.run_id, owner, draft.change(draft.entry("0")))


def _files(folder: Path) -> dict[str, int]:
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}


def _execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# The file


async def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    """The database, its log and the index of that are readable and writable for their owner only."""
    before = os.umask(0)
    try:
        backend = SQLiteBackend(tmp_path / "runs.db")
        await _stored(backend, RunDraft())
        files = _files(tmp_path)
    finally:
        os.umask(before)

    assert files == {"runs.db": 0o600, "runs.db-wal": 0o600, "runs.db-shm": 0o600}
    await backend.close()
    assert _files(tmp_path) == {"runs.db": 0o600}


async def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that goes to another folder writes to the file that it named, and reads from it."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    monkeypatch.chdir(first)
    backend, draft = SQLiteBackend("runs.db"), RunDraft()
    monkeypatch.chdir(second)

    await _stored(backend, draft)

    assert draft.is_like(await backend.load(draft.run_id))
    await backend.close()
    assert (list(_files(first)), _files(second)) == (["runs.db"], {})


@pytest.mark.parametrize("path", ["", ":memory:", "with\0nul.db"])
def test_what_is_no_file_is_refused_at_once(path: str) -> None:
    """SQLite would keep these runs nowhere, or fail at the first write."""
    with pytest.raises(ConfigurationError, match="is no file; give a path"):
        SQLiteBackend(path)


@pytest.mark.parametrize("lease_s", [0, -1, float("nan")])
def test_a_lease_is_positive(lease_s: float) -> None:
    """A lease that has run out from the start would let two processes run one run."""
    with pytest.raises(ConfigurationError, match="a lease is more than 0 seconds"):
        SQLiteBackend("runs.db", lease_s=lease_s)


async def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    """The error names the run, the file and what to do."""
    path = tmp_path / "missing" / "runs.db"

    with pytest.raises(StateError) as refused:
        await _stored(SQLiteBackend(path), RunDraft("the run"))

    assert str(refused.value) == (
        f"run 'the run' could not be stored in or read from {path}: its folder is not there; make it first"
    )


async def test_a_folder_is_said(tmp_path: Path) -> None:
    """A path that is a folder is a `StateError`, for reading too."""
    for attempt in (_stored(SQLiteBackend(tmp_path), RunDraft()), SQLiteBackend(tmp_path).list_runs(RunQuery())):
        with pytest.raises(StateError, match="it is a folder; give the path of a file"):
            await attempt


async def test_a_deleted_run_leaves_no_row(tmp_path: Path) -> None:
    """Its number may be given to the next run, which must not find the journal of the old one."""
    backend = SQLiteBackend(tmp_path / "runs.db")
    await _stored(backend, RunDraft("other"))
    draft, owner = RunDraft("gone"), owner_elsewhere()
    await backend.create(draft.record(), owner)
    await backend.write("gone", owner, draft.change(draft.entry("0"), draft.entry("1"), releases=True))

    await backend.delete("gone")

    with closing(sqlite3.connect(backend.path)) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in _TABLES]
    assert counts == [(1,), (1,), (1,)]
    await backend.close()


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    """Neither its tables nor its mode change, and the error says whose it is."""
    path = tmp_path / "other.db"
    _execute(path, "CREATE TABLE runs (id INTEGER)")
    content = path.read_bytes()

    with pytest.raises(StateError, match="is a database of another program; give another file"):
        await _stored(SQLiteBackend(path), RunDraft())

    assert path.read_bytes() == content


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """What a newer flujo wrote is not touched; the error says what to do."""
    backend = SQLiteBackend(tmp_path / "runs.db")
    await _stored(backend, RunDraft("run"))
    await backend.close()
    _execute(backend.path, "PRAGMA user_version = 99")

    with pytest.raises(SchemaTooNewError, match="has schema 99, and this flujo knows 2; upgrade flujo"):
        await backend.load("run")


@pytest.mark.parametrize("version", range(1, len(sqlite.MIGRATIONS)))
async def test_a_database_of_an_older_schema_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Its runs are there, and it keeps budgets too."""
    path, draft = tmp_path / "runs.db", RunDraft("run")
    with monkeypatch.context() as older:
        older.setattr(sqlite, "MIGRATIONS", sqlite.MIGRATIONS[:version])
        backend = SQLiteBackend(path)
        await _stored(backend, draft)
        await backend.close()

    backend = SQLiteBackend(path)

    assert draft.is_like(await backend.load("run"))
    assert (await backend.set_budget(Budget("team", usd=1))).left.usd == 1
    await backend.close()


async def test_more_tokens_than_a_column_takes_are_a_typed_error(tmp_path: Path) -> None:
    """A number beyond 63 bits names the run, and the store works on."""
    backend, draft, owner = SQLiteBackend(tmp_path / "runs.db"), RunDraft("the run"), owner_elsewhere()
    await backend.create(draft.record(), owner)

    with pytest.raises(StateError, match="run 'the run' could not be stored"):
        await backend.write("the run", owner, RunDraft("the run").change(tokens=2**63))

    await backend.write("the run", owner, draft.change(draft.entry("0")))
    assert draft.is_like(await backend.load("the run"))
    await backend.close()


# Damage


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE runs SET total_cost = 'much'",
        "UPDATE runs SET created_at = 9e300",
        "UPDATE runs SET status = 'gone'",
        "DELETE FROM starts",
        "UPDATE runs SET total_cost = CAST(x'80ff' AS TEXT)",
    ],
)
async def test_a_damaged_record_names_its_run_and_no_other(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its run cannot be read, whatever column it is; the others can, and are listed."""
    backend, intact = SQLiteBackend(tmp_path / "runs.db"), RunDraft("intact")
    await _stored(backend, RunDraft("damaged"))
    await backend.close()
    _execute(backend.path, damage)
    await _stored(backend, intact)

    with pytest.raises(StateCorruptedError) as error:
        await backend.load("damaged")

    assert error.value.run_id == "damaged"
    assert intact.is_like(await backend.load("intact"))
    if "CAST" not in damage:
        assert [record.run_id for record in await backend.list_runs(RunQuery())] == ["intact"]
        assert "damaged" in caplog.text
    await backend.close()


async def test_a_damaged_owner_is_superseded_after_its_lease(tmp_path: Path) -> None:
    """Who owned the run cannot be told, so only the lease can say whether it is free."""
    backend, draft = SQLiteBackend(tmp_path / "runs.db"), RunDraft("run")
    await _stored(backend, draft)
    _execute(backend.path, "UPDATE runs SET owner = 'noise', lease_until = 0")

    assert (await backend.claim("run", owner_elsewhere())).record.owner is not None
    await backend.close()


# Costs


async def test_a_step_costs_the_same_whatever_the_run_began_with(tmp_path: Path) -> None:
    """What is written for a step does not grow with the input and the context of the run."""

    def log_bytes(path: Path) -> int:
        return Path(f"{path}-wal").stat().st_size

    written: list[int] = []
    for length in (10, 400_000):
        backend, owner = SQLiteBackend(tmp_path / f"{length}.db"), owner_elsewhere()
        draft = RunDraft(start='{"input":"' + "x" * length + '"}')
        await backend.create(draft.record(), owner)
        before = log_bytes(backend.path)
        for step in range(20):
            await backend.write(draft.run_id, owner, draft.change(draft.entry(str(step)), tokens=1000**step % 2**40))
        written.append(log_bytes(backend.path) - before)
        await backend.close()

    assert written[0] == written[1]


@pytest.mark.timeout(600)
def test_a_large_output_comes_back(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Ten megabytes, and a hundred with `--long`, are stored once, and read again when the run goes on."""
    length = 100_000_000 if pytestconfig.getoption("--long") else 10_000_000
    backend = SQLiteBackend(tmp_path / "runs.db", durability="fast")
    calls: list[str] = []

    async def large(_: int) -> str:
        calls.append("large")
        return "\0é\U0001f99c" + "x" * length

    async def fails_once(text: str) -> int:
        calls.append("fails once")
        if len(calls) == 2:
            raise ConnectionError("not yet")
        return len(text)

    pipeline = Step("large", large) >> Step("fails once", fails_once, max_retries=0)
    runner = Flujo(pipeline, state_backend=backend)
    first = runner.run(1, run_id="run")
    second = runner.run(1, run_id="run")

    assert (first.success, second.output) == (False, length + 3)
    assert calls == ["large", "fails once", "fails once"]
    asyncio.run(backend.close())


# Ending and forking


def _python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


_PROGRAM = """
from flujo import Flujo, SQLiteBackend, Step
runner = Flujo(Step.from_callable(str.upper, name="shout"), state_backend=SQLiteBackend("runs.db"))
print(runner.run("hello", run_id="run").output, flush=True)
"""


def test_a_program_may_end_without_closing(tmp_path: Path) -> None:
    """It does not hang, warns of nothing, and leaves one file without a log."""
    done = _python(_PROGRAM, tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (0, "HELLO\n", "")
    assert list(_files(tmp_path)) == ["runs.db"]


def test_a_forked_process_has_a_thread_of_its_own(tmp_path: Path) -> None:
    """Parent and child both go on writing with the same store, and both end."""
    fork = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
child = os.fork()
name = "parent" if child else "child"
print(f"{name} {runner.run(name, run_id=name).output}\\n", end="", flush=True)
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(f"{runner.run('again', run_id='again').output} {runner.run('-', run_id='child').output}", flush=True)
"""
    done = _python(_PROGRAM + fork, tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split("\n")) == ["", "AGAIN CHILD", "HELLO", "child CHILD", "parent PARENT"]


async def test_a_store_that_is_dropped_ends_its_thread(tmp_path: Path) -> None:
    """Whoever lets go of a store without closing it leaves no open file."""
    backend: Any = SQLiteBackend(tmp_path / "dropped.db")
    await _stored(backend, RunDraft())
    assert "dropped.db-wal" in _files(tmp_path)
    (thread,) = (each for each in threading.enumerate() if each.name == f"flujo-writer-{backend.path.name}")

    del backend
    await asyncio.to_thread(thread.join, 10)

    assert list(_files(tmp_path)) == ["dropped.db"]


_FREEZE = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has locked a file")
async def test_who_keeps_others_from_writing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped within a commit blocks the file; the error says which, and the store works on."""
    monkeypatch.setattr("flujo.state.sqlite_writer.BUSY_S", 0.05)
    backend, draft, owner = (
        SQLiteBackend(tmp_path / "runs.db", durability="fast"),
        RunDraft("the run"),
        owner_elsewhere(),
    )
    await backend.create(draft.record(), owner)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _FREEZE, str(backend.path))
    change = draft.change(draft.entry("0"))
    try:
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(StateError, match=f"process {process.pid}, which is stopped, has kept others from writing"):
            await backend.write("the run", owner, change)
    finally:
        process.kill()
        await process.wait()

    await backend.write("the run", owner, change)

    assert draft.is_like(await backend.load("the run"))
    await backend.close()
