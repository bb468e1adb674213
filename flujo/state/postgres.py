"""A store in Postgres, for many machines: the extra `flujo[postgres]`.

Every method is one transaction in a thread, over a pool of connections, so that one backend serves one event loop
after another. Leases are told by the clock of the server, which is the same for all machines.
"""

import asyncio
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from threading import Lock
from typing import Any, TypeVar

from flujo.exceptions import ConfigurationError, SchemaTooNewError, StateError
from flujo.state.backend import LEASE_S, Durability
from flujo.state.budget_keeper import BudgetKeeper, BudgetWork
from flujo.state.budget_tables import BudgetTables
from flujo.state.budgets import RunWrite
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

T = TypeVar("T")

_CONNECTIONS = 8
_CONNECT_S = 10
_MIGRATION_LOCK = 0x464C554A  # "FLUJ", among the advisory locks of the database
_NOW = "extract(epoch FROM clock_timestamp())"
_DURABILITIES: dict[Durability, str] = {"full": "on", "fast": "off", "exit": "on"}

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE flujo_runs (
            id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            run_id TEXT NOT NULL UNIQUE,
            pipeline_name TEXT NOT NULL,
            pipeline_version TEXT NOT NULL,
            status TEXT NOT NULL,
            created_at DOUBLE PRECISION NOT NULL,
            updated_at DOUBLE PRECISION NOT NULL,
            owner TEXT,
            lease_until DOUBLE PRECISION NOT NULL,
            total_cost TEXT NOT NULL,
            total_tokens BIGINT NOT NULL,
            start TEXT NOT NULL,
            head BIGINT NOT NULL,
            entry_count BIGINT NOT NULL,
            checksum BIGINT NOT NULL
        )""",
        "CREATE INDEX flujo_runs_by_update ON flujo_runs (updated_at DESC)",
        """CREATE TABLE flujo_journal (
            run BIGINT NOT NULL REFERENCES flujo_runs (id) ON DELETE CASCADE,
            number BIGINT NOT NULL,
            path TEXT NOT NULL,
            kind TEXT NOT NULL,
            at DOUBLE PRECISION NOT NULL,
            payload TEXT NOT NULL,
            checksum BIGINT NOT NULL,
            PRIMARY KEY (run, number)
        )""",
    ),
    BudgetTables.migration("flujo_", is_postgres=True),
)
"""The statements that lead from each version of the schema to the next."""

_RECORD = (
    "run_id, pipeline_name, pipeline_version, status, created_at, updated_at, owner, total_cost, total_tokens, start, "
    "head, entry_count, checksum"
)

Work = Callable[[Any], T]
"""What one transaction does with a connection."""


class PostgresBackend(BudgetKeeper):
    """Keeps runs and budgets in a Postgres database that many machines may use at once.

    Args:
        dsn: A connection string, such as `postgresql://user@host/database`.
        durability: What a finished step survives: `full` the loss of power, `fast` the death of the process
            (the server acknowledges before it has written to disk); with `exit` only the end, a pause or a failure
            of a run is stored.
        lease_s: Seconds for which a process that cannot be asked keeps a run; it renews its lease while it runs.

    Raises:
        ConfigurationError: The extra `postgres` is not installed, the durability is none of these, or the lease is
            not positive.

    Example:
        ```text
        runner = Flujo(pipeline, state_backend=PostgresBackend("postgresql://flujo@db/flujo"))
        ```
    """

    def __init__(self, dsn: str, *, durability: Durability = "full", lease_s: float = LEASE_S) -> None:
        if durability not in _DURABILITIES:
            known = ", ".join(map(repr, _DURABILITIES))
            raise ConfigurationError(f"durability is {durability!r}; it is one of {known}")
        if not lease_s > 0:
            raise ConfigurationError(f"lease_s is {lease_s!r}; a lease is more than 0 seconds")
        try:
            import psycopg
            import psycopg_pool
        except ImportError as error:
            raise ConfigurationError("Postgres needs an extra; run: pip install 'flujo[postgres]'") from error
        self.durability: Durability = durability
        self.lease_s = lease_s
        self._dsn = dsn
        self._error: type[Exception] = psycopg.Error
        self._connect: Callable[..., Any] = psycopg.connect
        self._make_pool: Callable[..., Any] = psycopg_pool.ConnectionPool
        self._lock = Lock()
        self._pool: Any = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._tables = BudgetTables("flujo_", mark="%s", locks="FOR UPDATE", lease_s=lease_s)

    @property
    def location(self) -> str:
        """The connection string."""
        return self._dsn

    async def create(self, record: RunRecord, owner: Owner) -> bool:
        """Store a new run, unless one of its identity exists."""

        def insert(connection: Any) -> bool:
            cursor = connection.execute(
                f"INSERT INTO flujo_runs ({_RECORD}, lease_until) "
                f"VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, {_NOW} + %s) "
                "ON CONFLICT (run_id) DO NOTHING",
                (
                    *map(stored_text, (record.run_id, record.pipeline_name, record.pipeline_version)),
                    record.status,
                    *(record.created_at.timestamp(), record.updated_at.timestamp(), owner.text),
                    *(str(record.total_cost), record.total_tokens, record.start),
                    *(record.head, record.entry_count, record.checksum, self.lease_s),
                ),
            )
            return bool(cursor.rowcount == 1)

        return await self._transact(f"run {record.run_id!r}", insert)

    async def claim(self, run_id: str, owner: Owner) -> StoredRun:
        """Take a run over, unless somebody else has it."""

        def take(connection: Any) -> StoredRun:
            stored = _load(connection, run_id, "FOR UPDATE")
            if stored.record.status == "completed":
                return stored
            _check_free(connection, run_id, owner)
            connection.execute(
                f"UPDATE flujo_runs SET owner = %s, lease_until = {_NOW} + %s WHERE run_id = %s",
                (owner.text, self.lease_s, stored_text(run_id)),
            )
            return StoredRun(stored.record.model_copy(update={"owner": owner.text}), stored.entries)

        return await self._transact(f"run {run_id!r}", take)

    async def load(self, run_id: str) -> StoredRun:
        """Return a run."""

        def read(connection: Any) -> StoredRun:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # record and entries of one moment
            return _load(connection, run_id)

        return await self._transact(f"run {run_id!r}", read)

    async def write(self, run_id: str, owner: Owner, change: JournalWrite) -> None:
        """Change a run."""
        run = RunWrite(run_id, owner, change)
        await self._transact(f"run {run_id!r}", lambda connection: self._write_with(connection, run))

    def _write_with(self, connection: Any, run: RunWrite) -> None:
        change, owner = run.change, run.owner
        row = connection.execute(
            "UPDATE flujo_runs SET status = %s, updated_at = %s, owner = %s, total_cost = %s, total_tokens = %s, "
            f"head = %s, entry_count = %s, checksum = %s, lease_until = {_NOW} + %s "
            "WHERE run_id = %s AND owner = %s AND head = %s RETURNING id",
            (
                *(change.status, change.at, None if change.releases else owner.text, str(change.total_cost)),
                *(change.total_tokens, change.head, change.entry_count, change.checksum, self.lease_s),
                *(stored_text(run.run_id), owner.text, change.after),
            ),
        ).fetchone()
        if row is None:
            raise _lost(connection, run.run_id, owner)
        _store_entries(connection, row[0], change)

    async def _in_budgets(self, which: str, work: BudgetWork[T], *, run: RunWrite | None = None) -> T:
        def transact(connection: Any) -> T:
            return work(connection, float(connection.execute(f"SELECT {_NOW}").fetchone()[0]))

        return await self._transact(which, transact)

    async def renew(self, run_id: str, owner: Owner) -> None:
        """Renew the lease of a run."""

        def extend(connection: Any) -> None:
            cursor = connection.execute(
                f"UPDATE flujo_runs SET lease_until = {_NOW} + %s WHERE run_id = %s AND owner = %s",
                (self.lease_s, stored_text(run_id), owner.text),
            )
            if cursor.rowcount != 1:
                raise _lost(connection, run_id, owner)

        await self._transact(f"run {run_id!r}", extend)

    async def release(self, run_id: str, owner: Owner) -> None:
        """Let a run go."""

        def let_go(connection: Any) -> None:
            connection.execute(
                "UPDATE flujo_runs SET owner = NULL WHERE run_id = %s AND owner = %s",
                (stored_text(run_id), owner.text),
            )

        await self._transact(f"run {run_id!r}", let_go)

    async def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the records of runs."""
        conditions = {
            "status = %s": query.status,
            "pipeline_name = %s": None if query.pipeline_name is None else stored_text(query.pipeline_name),
            "updated_at >= %s": None if query.since is None else query.since.timestamp(),
            "updated_at < %s": None if query.until is None else query.until.timestamp(),
        }
        given = {condition: value for condition, value in conditions.items() if value is not None}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        statement = f"SELECT {_RECORD} FROM flujo_runs {where} ORDER BY updated_at DESC, run_id DESC LIMIT %s"

        def select(connection: Any) -> list[RunRecord]:
            return [_record(row) for row in connection.execute(statement, (*given.values(), query.limit))]

        return await self._transact("the runs", select)

    async def delete(self, run_id: str) -> None:
        """Forget a run."""

        def remove(connection: Any) -> None:
            _check_free(connection, run_id, None)
            connection.execute("DELETE FROM flujo_runs WHERE run_id = %s", (stored_text(run_id),))

        await self._transact(f"run {run_id!r}", remove)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(self._close)

    async def _transact(self, which: str, work: Work[T]) -> T:
        """Run a function in a transaction, in a thread; `which` says what it is about."""

        def transact() -> T:
            with self._open_pool().connection() as connection, connection.transaction():
                return work(connection)

        running = asyncio.ensure_future(asyncio.to_thread(transact))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])  # what comes next builds on it
            raise
        except (self._error, ValueError) as error:  # a value error is text that Postgres has no place for, such as NUL
            raise StateError(f"{which} could not be stored in or read from Postgres: {_one_line(error)}") from error

    def _open_pool(self) -> Any:
        """Return the pool of connections, with the schema up to date."""
        with self._lock:
            if self._pool is None:
                settings = {
                    "autocommit": True,
                    "connect_timeout": _CONNECT_S,
                    "options": f"-c synchronous_commit={_DURABILITIES[self.durability]}",
                }
                with self._connect(self._dsn, **settings) as connection:  # a pool would try again and again
                    _migrate(connection)
                pool = self._make_pool(
                    self._dsn, min_size=1, max_size=_CONNECTIONS, kwargs=settings, open=True, name="flujo"
                )
                self._pool = pool
                self._finalizer = weakref.finalize(self, pool.close)
            return self._pool

    def _close(self) -> None:
        with self._lock:
            if self._finalizer is not None:
                self._finalizer()
            self._pool, self._finalizer = None, None


def _migrate(connection: Any) -> None:
    """Bring the schema to the newest version; one process at a time, one transaction for each step."""
    while True:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            connection.execute("CREATE TABLE IF NOT EXISTS flujo_schema (version INTEGER NOT NULL)")
            row = connection.execute("SELECT max(version) FROM flujo_schema").fetchone()
            version = row[0] or 0
            if version > len(MIGRATIONS):
                raise SchemaTooNewError(
                    f"the database has schema {version}, and this flujo knows {len(MIGRATIONS)}; "
                    "upgrade flujo to open it"
                )
            if version == len(MIGRATIONS):
                return
            for statement in MIGRATIONS[version]:
                connection.execute(statement)
            connection.execute("INSERT INTO flujo_schema (version) VALUES (%s)", (version + 1,))


def _store_entries(connection: Any, run: int, change: JournalWrite) -> None:
    if change.removed:
        connection.execute("DELETE FROM flujo_journal WHERE run = %s AND number = ANY(%s)", (run, list(change.removed)))
    for each in change.entries:
        connection.execute(
            "INSERT INTO flujo_journal (run, number, path, kind, at, payload, checksum) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (run, each.number, each.path, each.kind, each.at, each.payload, each.checksum),
        )


def _load(connection: Any, run_id: str, lock: str = "") -> StoredRun:
    statement = f"SELECT {_RECORD}, id FROM flujo_runs WHERE run_id = %s {lock}"
    row = connection.execute(statement, (stored_text(run_id),)).fetchone()
    if row is None:
        raise run_not_found(run_id)
    *fields, run = row
    entries = connection.execute(
        "SELECT number, path, kind, at, payload, checksum FROM flujo_journal WHERE run = %s ORDER BY number", (run,)
    ).fetchall()
    return StoredRun(_record(fields), [JournalEntry(*each) for each in entries])


def _record(row: Sequence[Any]) -> RunRecord:
    run_id, name, version, status, created, updated, owner, cost, tokens, start, head, count, checksum = row
    return RunRecord.model_construct(
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


def _check_free(connection: Any, run_id: str, owner: Owner | None) -> None:
    row = connection.execute(
        f"SELECT owner, {_NOW} < lease_until FROM flujo_runs WHERE run_id = %s", (stored_text(run_id),)
    ).fetchone()
    if row is None or row[0] is None:
        return
    holder = Owner.parse(row[0])
    if holder != owner and row[1] and not holder.is_dead():
        raise run_owned(run_id, holder)


def _lost(connection: Any, run_id: str, owner: Owner) -> StateError:
    """Return the error for an owner whose change was not for the run as it is."""
    row = connection.execute("SELECT owner FROM flujo_runs WHERE run_id = %s", (stored_text(run_id),)).fetchone()
    if row is None:
        return run_not_found(run_id)
    if row[0] == owner.text:
        return earlier_write_failed(run_id)
    return run_superseded(run_id, None if row[0] is None else Owner.parse(row[0]))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
