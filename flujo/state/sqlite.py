"""A store in one SQLite file: the embedded default.

The file is in write-ahead mode, so that readers and one writer do not wait for each other.
One thread writes, or the event loop where that takes less (see `sqlite_writer`); what is read, which is seldom, is
read through connections of its own.
What a run began with has a table of its own, because changing a row writes all of it again.
The schema is numbered by `PRAGMA user_version`; each step to the next number is one transaction, so that a migration
that was killed goes on where it stood.
"""

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flujo.exceptions import ConfigurationError, SchemaTooNewError, StateCorruptedError, StateError
from flujo.state.backend import LEASE_S, Durability
from flujo.state.budget_keeper import BudgetKeeper, BudgetWork
from flujo.state.budget_tables import BudgetTables
from flujo.state.budgets import RunWrite
from flujo.state.file_locks import describe_writer
from flujo.state.ownership import Owner
from flujo.state.records import (
    JournalEntry,
    JournalWrite,
    RunQuery,
    RunRecord,
    StoredRun,
    read_text,
    stored_text,
)
from flujo.state.refusals import earlier_write_failed, run_not_found, run_owned, run_superseded
from flujo.state.sqlite_writer import BUSY_S, READING, SQLiteWriter

_log = logging.getLogger("flujo.state")

T = TypeVar("T")

APPLICATION_ID = 0x464C554A  # "FLUJ"
_SYNCHRONOUS: dict[Durability, str] = {"full": "FULL", "fast": "NORMAL", "exit": "FULL"}
_NO_TEXT = 0  # Python's own error for what should be text, and cannot be decoded
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, _NO_TEXT)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_RETRY_S = 0.01
_SMALL_BYTES = 16_384  # of entries; those that they take the place of are not much more
_LEAST_LOGGED_BYTES = 2 * 4096  # pages of the run and of its journal
_LOG_PAGES = 250  # a log of a megabyte, so that it does not outweigh what a run of some size stores

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            id INTEGER PRIMARY KEY,
            run_id TEXT NOT NULL UNIQUE,
            pipeline_name TEXT NOT NULL,
            pipeline_version TEXT NOT NULL,
            status TEXT NOT NULL,
            created_at REAL NOT NULL,
            updated_at REAL NOT NULL,
            owner TEXT,
            lease_until REAL NOT NULL,
            total_cost TEXT NOT NULL,
            total_tokens INTEGER NOT NULL,
            head INTEGER NOT NULL,
            entry_count INTEGER NOT NULL,
            checksum INTEGER NOT NULL
        ) STRICT""",
        """CREATE TABLE starts (
            run INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
            start TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE journal (
            id INTEGER PRIMARY KEY,
            path TEXT NOT NULL,
            kind TEXT NOT NULL,
            at REAL NOT NULL,
            payload TEXT NOT NULL,
            checksum INTEGER NOT NULL
        ) STRICT""",
    ),
    BudgetTables.migration(),
)
"""The statements that lead from each version of the schema to the next."""

_COLUMNS = (
    "run_id, pipeline_name, pipeline_version, status, created_at, updated_at, owner, total_cost, total_tokens, "
    "head, entry_count, checksum"
)
_RUNS = f"SELECT id, start, {_COLUMNS} FROM runs LEFT JOIN starts ON run = id"


class SQLiteBackend(BudgetKeeper):
    """Keeps runs and budgets in a SQLite file that many processes of one machine may use at once.

    Args:
        path: The file; it is made, readable for its owner only, if it is not there.
        durability: What a finished step survives: `full` the loss of power, `fast` the death of the process;
            with `exit` only the end, a pause or a failure of a run is stored.
        lease_s: Seconds for which a process that cannot be asked keeps a run; it renews its lease while it runs.

    Raises:
        ConfigurationError: The durability is none of these, or the lease is not positive.

    Example:
        ```python
        from flujo import Flujo, SQLiteBackend, Step

        runner = Flujo(Step.from_callable(str.upper, name="shout"), state_backend=SQLiteBackend("runs.db"))
        result = runner.run("hello", run_id="greeting")
        assert result.output == runner.run("hello", run_id="greeting").output
        ```
    """

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Durability = "full", lease_s: float = LEASE_S
    ) -> None:
        if durability not in _SYNCHRONOUS:
            raise ConfigurationError(f"durability is {durability!r}; it is one of {', '.join(map(repr, _SYNCHRONOUS))}")
        if not lease_s > 0:
            raise ConfigurationError(f"lease_s is {lease_s!r}; a lease is more than 0 seconds")
        if "\0" in str(path) or str(path) in ("", ":memory:"):
            raise ConfigurationError(f"{str(path)!r} is no file; give a path, or keep runs in an InMemoryBackend")
        self.path = Path(path).absolute()  # the program may go to another folder later
        self.durability: Durability = durability
        self.lease_s = lease_s
        self._connect = partial(_connect, self.path, _SYNCHRONOUS[durability])
        self._writer = SQLiteWriter(self._connect, self.path)
        self._tables = BudgetTables(lease_s=lease_s)

    @property
    def location(self) -> Path:
        """The file, wherever links lead."""
        return self.path.resolve()

    async def create(self, record: RunRecord, owner: Owner) -> bool:
        """Store a new run, unless one of its identity exists."""

        def insert(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                f"INSERT INTO runs ({_COLUMNS}, lease_until) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (run_id) DO NOTHING RETURNING id",
                (
                    *(stored_text(record.run_id), stored_text(record.pipeline_name)),
                    *(stored_text(record.pipeline_version), record.status),
                    *(record.created_at.timestamp(), record.updated_at.timestamp(), owner.text),
                    *(str(record.total_cost), record.total_tokens),
                    *(record.head, record.entry_count, record.checksum, time.time() + self.lease_s),
                ),
            ).fetchone()
            if row is not None:
                connection.execute("INSERT INTO starts (run, start) VALUES (?, ?)", (*row, record.start))
            return row is not None

        return await self._write(record.run_id, insert)

    async def claim(self, run_id: str, owner: Owner) -> StoredRun:
        """Take a run over, unless somebody else has it."""

        def take(connection: sqlite3.Connection) -> StoredRun:
            stored = _load(connection, run_id)
            if stored.record.status == "completed":
                return stored
            _check_free(connection, run_id, owner)
            lease = time.time() + self.lease_s
            connection.execute(
                "UPDATE runs SET owner = ?, lease_until = ? WHERE run_id = ?", (owner.text, lease, stored_text(run_id))
            )
            return StoredRun(stored.record.model_copy(update={"owner": owner.text}), stored.entries)

        return await self._write(run_id, take)

    async def load(self, run_id: str) -> StoredRun:
        """Return a run."""
        return await self._read(run_id, lambda connection: _load(connection, run_id))

    async def write(self, run_id: str, owner: Owner, change: JournalWrite) -> None:
        """Change a run."""
        store = self._storing(run_id, owner, change)
        await self._write(run_id, store, log_bytes=self._small(change))

    def _storing(self, run_id: str, owner: Owner, change: JournalWrite) -> Callable[[sqlite3.Connection], None]:
        """Return what stores a change of a run."""
        text, key = owner.text, stored_text(run_id)
        values = (
            *(change.status, change.at, None if change.releases else text),
            *(str(change.total_cost), change.total_tokens, change.head, change.entry_count, change.checksum),
        )

        def store(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "UPDATE runs SET status = ?, updated_at = ?, owner = ?, total_cost = ?, total_tokens = ?, head = ?, "
                "entry_count = ?, checksum = ?, lease_until = ? WHERE run_id = ? AND owner = ? AND head = ? "
                "RETURNING id",
                (*values, time.time() + self.lease_s, key, text, change.after),
            ).fetchone()
            if row is None:
                raise _lost(connection, run_id, owner)
            first, _ = entry_ids(row[0])
            if change.removed:
                removed = [(first + number,) for number in change.removed]
                connection.executemany("DELETE FROM journal WHERE id = ?", removed)
            for each in change.entries:
                connection.execute(
                    "INSERT INTO journal (id, path, kind, at, payload, checksum) VALUES (?, ?, ?, ?, ?, ?)",
                    (first + each.number, each.path, each.kind, each.at, each.payload, each.checksum),
                )

        return store

    def _small(self, change: JournalWrite | None) -> int | None:
        """Return about what a change adds to the log, if it is small and its commit does not wait for the disk."""
        size = 0 if change is None else sum([len(entry.payload) for entry in change.entries])
        return _LEAST_LOGGED_BYTES + size if self.durability == "fast" and size <= _SMALL_BYTES else None

    async def renew(self, run_id: str, owner: Owner) -> None:
        """Renew the lease of a run."""

        def extend(connection: sqlite3.Connection) -> None:
            cursor = connection.execute(
                "UPDATE runs SET lease_until = ? WHERE run_id = ? AND owner = ?",
                (time.time() + self.lease_s, stored_text(run_id), owner.text),
            )
            if cursor.rowcount != 1:
                raise _lost(connection, run_id, owner)

        await self._write(run_id, extend)

    async def release(self, run_id: str, owner: Owner) -> None:
        """Let a run go."""

        def let_go(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE runs SET owner = NULL WHERE run_id = ? AND owner = ?", (stored_text(run_id), owner.text)
            )

        await self._write(run_id, let_go)

    async def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the records of runs; those that cannot be read are told to the log."""
        conditions = {
            "status = ?": query.status,
            "pipeline_name = ?": None if query.pipeline_name is None else stored_text(query.pipeline_name),
            "updated_at >= ?": None if query.since is None else query.since.timestamp(),
            "updated_at < ?": None if query.until is None else query.until.timestamp(),
        }
        given = {condition: value for condition, value in conditions.items() if value is not None}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        statement = f"{_RUNS} {where} ORDER BY updated_at DESC, run_id DESC LIMIT ?"
        limit = -1 if query.limit is None else query.limit

        def select(connection: sqlite3.Connection) -> list[RunRecord]:
            rows = connection.execute(statement, (*given.values(), limit))
            return [record for row in rows if (record := self._readable(row)) is not None]

        return await self._read(None, select)

    def _readable(self, row: tuple[Any, ...]) -> RunRecord | None:
        try:
            return _record(row)
        except StateCorruptedError as error:
            _log.warning("a run in %s is left out of the list: %s", self.path, error)
            return None

    async def delete(self, run_id: str) -> None:
        """Forget a run."""

        def remove(connection: sqlite3.Connection) -> None:
            _check_free(connection, run_id, None)
            row = connection.execute(
                "DELETE FROM runs WHERE run_id = ? RETURNING id", (stored_text(run_id),)
            ).fetchone()
            if row is not None:
                connection.execute("DELETE FROM journal WHERE id BETWEEN ? AND ?", entry_ids(row[0]))

        await self._write(run_id, remove)

    async def _in_budgets(self, which: str, work: BudgetWork[T], *, run: RunWrite | None = None) -> T:
        log_bytes = self._small(None if run is None else run.change)
        try:
            return await self._writer.run(lambda connection: work(connection, time.time()), log_bytes=log_bytes)
        except _FAILURES as error:
            raise self._clear_error(which, error) from error

    def _write_with(self, connection: sqlite3.Connection, run: RunWrite) -> None:
        self._storing(run.run_id, run.owner, run.change)(connection)

    async def close(self) -> None:
        """End the thread that writes, and close the file."""
        await asyncio.to_thread(self._writer.stop)

    async def _write(self, run_id: str, work: Callable[[sqlite3.Connection], T], *, log_bytes: int | None = None) -> T:
        try:
            return await self._writer.run(work, log_bytes=log_bytes)
        except _FAILURES as error:
            raise self._clear_error(f"run {run_id!r}", error, run_id) from error

    async def _read(self, run_id: str | None, work: Callable[[sqlite3.Connection], T]) -> T:
        def read() -> T:
            with READING, closing(self._connect()) as connection:
                return work(connection)

        try:
            return await asyncio.to_thread(read)
        except _FAILURES as error:
            which = "the runs" if run_id is None else f"run {run_id!r}"
            raise self._clear_error(which, error, run_id) from error

    def _clear_error(self, which: str, error: Exception, run_id: str | None = None) -> StateError:
        """Return an error that says what it is about, and names the file."""
        if isinstance(error, UnicodeError) or (isinstance(error, sqlite3.DatabaseError) and _code(error) in _DAMAGED):
            return StateCorruptedError(f"{which} in {self.path}: {error}", run_id=run_id)
        why = error.strerror if isinstance(error, OSError) else str(error)
        if self.path.is_dir():
            why = "it is a folder; give the path of a file"
        elif not self.path.parent.exists():
            why = "its folder is not there; make it first"
        elif isinstance(error, sqlite3.Error) and _code(error) in _BUSY:
            who = describe_writer(self.path) or "another process"
            why = f"{who} has kept others from writing to it for {BUSY_S:.0f} s; let it go on, or end it"
        return StateError(f"{which} could not be stored in or read from {self.path}: {why}")


_FAILURES = (sqlite3.Error, OSError, OverflowError, UnicodeError)
"""What goes wrong with files and databases.

The last ones are a number of tokens beyond 63 bits, and an error of SQLite's that quotes damaged text.
"""


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _version(connection, path)  # nothing of another program's is touched
        _use_wal(connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute("PRAGMA foreign_keys = ON")
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Let the file have a write-ahead log, which SQLite refuses without waiting while others open the file."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _code(error) not in _BUSY or time.monotonic() > until:
                raise
            time.sleep(_RETRY_S)


def _code(error: sqlite3.Error) -> int:
    """Return the kind of an error, without what SQLite adds to it; `_NO_TEXT` if it is one of Python's own."""
    return getattr(error, "sqlite_errorcode", _NO_TEXT) & 0xFF


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to the newest version, one transaction for each step."""
    while (version := _version(connection, path)) < len(MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _version(connection, path) == version:  # nobody else has done it meanwhile
                for statement in MIGRATIONS[version]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version, application, tables = connection.execute(_SCHEMA).fetchone()
    if version > len(MIGRATIONS) and application == APPLICATION_ID:
        raise SchemaTooNewError(
            f"{path} has schema {version}, and this flujo knows {len(MIGRATIONS)}; upgrade flujo to open it"
        )
    if application != APPLICATION_ID and (version or tables):
        raise StateError(f"{path} is a database of another program; give another file")
    return int(version)


# One statement, because another process may make the tables between two.
_SCHEMA = (
    "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master) "
    "FROM pragma_user_version, pragma_application_id"
)


def _load(connection: sqlite3.Connection, run_id: str) -> StoredRun:
    row = connection.execute(f"{_RUNS} WHERE run_id = ?", (stored_text(run_id),)).fetchone()
    if row is None:
        raise run_not_found(run_id)
    entries = connection.execute(ENTRIES, entry_ids(row[0]))
    return StoredRun(_record(row), [_entry(run_id, each) for each in entries])


def _entry(run_id: str, row: tuple[Any, ...]) -> JournalEntry:
    if tuple(map(type, row)) != _ENTRY_TYPES:  # a damaged row may have any
        raise StateCorruptedError(f"an entry of run {run_id!r} is damaged in the store", run_id=run_id)
    return JournalEntry(*row)


_ENTRY_TYPES = (int, str, str, float, str, int)

_ENTRY_BITS = 32
_MOST_ENTRIES = 1 << _ENTRY_BITS

ENTRIES = f"SELECT id & {_MOST_ENTRIES - 1}, path, kind, at, payload, checksum FROM journal WHERE id BETWEEN ? AND ?"
"""Reads the entries of a run: takes `entry_ids`, and gives the fields of `JournalEntry`."""


def entry_ids(run: int) -> tuple[int, int]:
    """Return the lowest and the highest identity that an entry of a run may have in the table.

    The numbers of a run's entries are added to the lowest, so that its entries lie together and need no index.
    """
    lowest = run << _ENTRY_BITS
    return lowest, lowest + _MOST_ENTRIES - 1


def run_of_entry(entry_id: int) -> int:
    """Return the number of the run that an entry of the table belongs to."""
    return entry_id >> _ENTRY_BITS


def _record(row: tuple[Any, ...]) -> RunRecord:
    _, start, run_id, name, version, status, created, updated, owner, cost, tokens, head, count, checksum = row
    try:
        return RunRecord(
            run_id=read_text(run_id),
            pipeline_name=read_text(name),
            pipeline_version=read_text(version),
            status=status,
            created_at=datetime.fromtimestamp(created, UTC),
            updated_at=datetime.fromtimestamp(updated, UTC),
            owner=owner,
            total_cost=Decimal(cost),
            total_tokens=tokens,
            start=start,
            head=head,
            entry_count=count,
            checksum=checksum,
        )
    except (ValueError, TypeError, OverflowError, OSError, ArithmeticError) as error:
        raise StateCorruptedError(
            f"the record of run {run_id!r} is damaged in the store", run_id=str(run_id)
        ) from error


def _check_free(connection: sqlite3.Connection, run_id: str, owner: Owner | None) -> None:
    row = connection.execute("SELECT owner, lease_until FROM runs WHERE run_id = ?", (stored_text(run_id),)).fetchone()
    if row is None or row[0] is None:
        return
    holder = Owner.parse(row[0])
    if holder != owner and not holder.is_dead() and time.time() < row[1]:
        raise run_owned(run_id, holder)


def _lost(connection: sqlite3.Connection, run_id: str, owner: Owner) -> StateError:
    """Return the error for an owner whose change was not for the run as it is."""
    row = connection.execute("SELECT owner FROM runs WHERE run_id = ?", (stored_text(run_id),)).fetchone()
    if row is None:
        return run_not_found(run_id)
    if row[0] == owner.text:
        return earlier_write_failed(run_id)
    return run_superseded(run_id, None if row[0] is None else Owner.parse(row[0]))
