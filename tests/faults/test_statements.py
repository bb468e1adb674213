"""A process that dies at any SQL statement, of a migration too, leaves a database that the next one goes on with.

By default it dies at each statement until the run is created and at every 11th after that; `--long` at every one.
"""

import asyncio
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flujo import Flujo, SQLiteBackend, Step
from flujo.state import sqlite as store
from flujo.state.records import RunQuery
from tests.faults.worker import Reference, Site, comparable, ending, run_all, start, undisturbed

pytestmark = pytest.mark.timeout(600)

_SERVER = multiprocessing.get_context("forkserver")
_OPENING = 24
"""So many statements are enough to open a new database and to create a run in it."""

NEXT = (
    "ALTER TABLE runs ADD COLUMN tag TEXT",
    "CREATE TABLE tags (run INTEGER PRIMARY KEY, tag TEXT NOT NULL) STRICT",
    "INSERT INTO tags SELECT id, pipeline_name FROM runs",
    "UPDATE runs SET tag = (SELECT tag FROM tags WHERE run = id)",
)
"""A later version of the schema, made up."""


def _kill_at(statement: int) -> None:
    """Let this process be killed before one of the statements that it runs from now on; they are counted from 1."""
    left = statement

    class Dying(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().execute(*args)

    sqlite3.connect = partial(sqlite3.connect, factory=Dying)  # type: ignore[assignment]  # of this process only


def _run_dying(site: Site, statement: int) -> None:
    _kill_at(statement)
    comparable(asyncio.run(run_all(site)))


def _migrate_dying(path: Path, statement: int) -> None:
    store.MIGRATIONS = (*store.MIGRATIONS, NEXT)
    _kill_at(statement)
    asyncio.run(SQLiteBackend(path).list_runs(RunQuery()))


def _dies(work: Callable[..., None], *args: Any) -> bool:
    """Run a function in a process of its own, and tell whether that was killed."""
    process = _SERVER.Process(target=work, args=args)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A run that nobody killed."""
    return undisturbed(Site(tmp_path_factory.mktemp("reference")))


def test_a_run_killed_at_any_statement_goes_on(
    tmp_path: Path, pytestconfig: pytest.Config, reference: Reference
) -> None:
    """Whatever was committed counts, whatever was not did not happen, and the run comes to the same end."""
    every = 1 if pytestconfig.getoption("--long") else 11
    statement, died = 1, True
    while died:
        site = Site(tmp_path / str(statement))
        site.folder.mkdir()
        died = _dies(_run_dying, site, statement)

        came_to = ending(site, start(site))

        reference.check(site, came_to, deaths=1)
        statement += 1 if statement < _OPENING else every
    assert statement > 2 * _OPENING


def test_a_migration_killed_at_any_statement_is_done_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration happens as a whole or not at all; what the database holds stays, and the next one repeats it."""
    old = tmp_path / "old.db"
    backend = SQLiteBackend(old)
    Flujo(Step("shout", _shout), state_backend=backend).run("hello", run_id="run")
    asyncio.run(backend.close())
    content = old.read_bytes()
    statement, died = 1, True
    while died:
        path = tmp_path / f"{statement}.db"
        path.write_bytes(content)
        died = _dies(_migrate_dying, path, statement)
        with sqlite3.connect(path) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        connection.close()

        assert ("tags" in tables) == (version == len(store.MIGRATIONS) + 1)
        with monkeypatch.context() as newer:
            newer.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, NEXT))
            result = Flujo(Step("shout", _shout), state_backend=SQLiteBackend(path)).run("hello", run_id="run")
            assert result.output == "HELLO"
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT count(*) FROM runs WHERE tag = pipeline_name").fetchone() == (1,)
            assert connection.execute("PRAGMA user_version").fetchone() == (len(store.MIGRATIONS) + 1,)
        connection.close()
        statement += 1
    assert statement > len(NEXT) + 4


async def _shout(text: str) -> str:
    return text.upper()
