"""A store in a real Postgres does what every store does, and what only Postgres can do."""

import asyncio
import threading

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from flujo import Budget, Flujo, PostgresBackend, Step
from flujo.exceptions import ConfigurationError, RunOwnedError, SchemaTooNewError, StateError
from flujo.state.backend import Durability, StateBackend
from flujo.state.ownership import Owner
from flujo.state.postgres import MIGRATIONS
from flujo.state.records import JournalWrite, RunQuery
from flujo.testing.budget_conformance import BudgetStoreConformance
from flujo.testing.conformance import RunDraft, StateBackendConformance, owner_elsewhere
from tests.faults.every_kind import ANSWER, Effects, runner_of
from tests.postgres import PostgresServer


class TestPostgresBackend(StateBackendConformance, BudgetStoreConformance):
    """A store in a database of its own, opened twice where a test asks for two."""

    server: PostgresServer
    dsns: dict[int, str]

    @pytest.fixture(autouse=True)
    def _server(self, postgres: PostgresServer) -> None:
        self.server, self.dsns = postgres, {}

    def new_store(self, *, lease_s: float) -> PostgresBackend:
        return self._store(self.server.new_database(), lease_s)

    def reopened(self, store: StateBackend, *, lease_s: float) -> PostgresBackend:
        return self._store(self.dsns[id(store)], lease_s)

    def _store(self, dsn: str, lease_s: float) -> PostgresBackend:
        store = PostgresBackend(dsn, lease_s=lease_s)
        self.dsns[id(store)] = dsn
        return store


async def test_a_newer_schema_is_refused(postgres_dsn: str) -> None:
    """The error says which version the database has, and what to do."""
    backend = PostgresBackend(postgres_dsn)
    await backend.list_runs(RunQuery())
    await backend.close()
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("INSERT INTO flujo_schema (version) VALUES (99)")

    with pytest.raises(SchemaTooNewError, match=r"schema 99.*upgrade flujo"):
        await PostgresBackend(postgres_dsn).list_runs(RunQuery())


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_database_of_an_older_schema_is_brought_up_to_date(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Its runs are there, and it keeps budgets too."""
    draft, older = RunDraft("run"), PostgresBackend(postgres_dsn)
    with monkeypatch.context() as patch:
        patch.setattr("flujo.state.postgres.MIGRATIONS", MIGRATIONS[:version])
        await older.create(draft.record(), owner_elsewhere())
        await older.close()

    backend = PostgresBackend(postgres_dsn)

    assert draft.is_like(await backend.load("run"))
    assert (await backend.set_budget(Budget("team", usd=1))).left.usd == 1
    await backend.close()


async def test_many_may_open_an_empty_database_at_once(postgres_dsn: str) -> None:
    """Each of them finds the whole schema, and it is made once."""
    backends = [PostgresBackend(postgres_dsn) for _ in range(6)]

    assert await asyncio.gather(*(backend.list_runs(RunQuery()) for backend in backends)) == [[]] * 6
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM flujo_schema").fetchone() == (len(MIGRATIONS),)
    for backend in backends:
        await backend.close()


async def test_a_database_that_is_not_there_is_an_error_at_once(postgres_dsn: str) -> None:
    """No pool tries again and again; the error says in one line what the server said."""
    backend = PostgresBackend(make_conninfo(postgres_dsn, dbname="nowhere"))

    async with asyncio.timeout(5):
        with pytest.raises(StateError, match='"nowhere" does not exist') as refused:
            await backend.load("run")

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dsn", ["postgresql://127.0.0.1:1/x", "no connection string"])
async def test_a_wrong_connection_string_is_an_error_at_once(dsn: str) -> None:
    """Nobody listens, or the text says nothing: a `StateError`, not a wait."""
    async with asyncio.timeout(5):
        with pytest.raises(StateError, match="Postgres"):
            await PostgresBackend(dsn).list_runs(RunQuery())


class CandidBackend(PostgresBackend):
    """A store that tells how its sessions are set."""

    async def synchronous_commit(self) -> str:
        """Return whether the server waits for its disk."""
        row: tuple[str] = await self._transact(
            "the runs", lambda session: session.execute("SHOW synchronous_commit").fetchone()
        )
        return row[0]


@pytest.mark.parametrize(("durability", "setting"), [("full", "on"), ("fast", "off"), ("exit", "on")])
async def test_durability_is_when_the_server_acknowledges(
    postgres_dsn: str, durability: Durability, setting: str
) -> None:
    """With `fast` the server does not wait for its disk."""
    backend = CandidBackend(postgres_dsn, durability=durability)

    assert await backend.synchronous_commit() == setting
    await backend.close()


def test_an_unknown_durability_is_refused() -> None:
    """A misspelt durability is a mistake that is found when the store is declared."""
    with pytest.raises(ConfigurationError, match="'full', 'fast', 'exit'"):
        PostgresBackend("postgresql://", durability="none")  # type: ignore[arg-type]  # the mistake


def test_closing_leaves_no_connection_and_no_thread(postgres_dsn: str) -> None:
    """After `close` the server has no session of the store, and the process none of its threads."""
    before = set(threading.enumerate())
    backend = PostgresBackend(postgres_dsn)
    asyncio.run(backend.list_runs(RunQuery()))

    asyncio.run(backend.close())

    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while connection.execute(count).fetchone() != (0,):  # a session takes a moment to end; else the test times out
            pass
    assert not [thread.name for thread in threading.enumerate() if thread not in before]


async def test_two_stores_share_runs(postgres_dsn: str) -> None:
    """What one has begun the other sees, and cannot take while its owner lives."""
    first, second = PostgresBackend(postgres_dsn), PostgresBackend(postgres_dsn)
    draft, owner = RunDraft(), owner_elsewhere()
    await first.create(draft.record(), owner)

    with pytest.raises(RunOwnedError):
        await second.claim(draft.run_id, owner_elsewhere())
    await first.release(draft.run_id, owner)
    assert (await second.claim(draft.run_id, owner_elsewhere())).record.run_id == draft.run_id
    await first.close()
    await second.close()


def test_a_runner_serves_one_event_loop_after_another(postgres_dsn: str) -> None:
    """Each `run` has a loop of its own, and the store serves all of them; a NUL in an identity does no harm."""
    backend = PostgresBackend(postgres_dsn)
    runner = Flujo(Step.from_callable(str.upper, "shout"), state_backend=backend)

    assert [runner.run(text, run_id=f"{text}\0").output for text in ("a", "b", "a")] == ["A", "B", "A"]
    assert len(asyncio.run(backend.list_runs(RunQuery()))) == 2
    asyncio.run(backend.close())


class Crash(BaseException):
    """The process dies here."""


class CrashingBackend(PostgresBackend):
    """A store whose process dies after one of the writes."""

    writes, dies_at = 0, -1

    async def write(self, run_id: str, owner: Owner, change: JournalWrite) -> None:
        """Store a change, and die."""
        self.writes += 1
        await super().write(run_id, owner, change)
        if self.writes == self.dies_at:
            raise Crash


async def test_a_crash_anywhere_changes_nothing(postgres_dsn: str) -> None:
    """A run of every kind of step that dies after any fifth of its writes goes on to the same end, and pays once."""
    backend = CrashingBackend(postgres_dsn)

    async def run_all(effects: Effects, run_id: str) -> tuple[object, ...]:
        while True:
            try:
                result = await runner_of(effects, backend).run_async(1, run_id=run_id)
                while result.status == "paused":
                    path = result.waiting[0].path
                    result = await runner_of(effects, backend).resume_async(run_id, ANSWER, path=path)
                return result.status, result.output, result.total_tokens
            except Crash:
                continue

    effects = Effects()
    expected, writes = await run_all(effects, "undisturbed"), backend.writes
    assert expected[0] == "completed"
    for at in range(1, writes + 1, 5):
        crashed = Effects()
        backend.writes, backend.dies_at = 0, at
        assert (await run_all(crashed, f"dies at {at}"))[:2] == expected[:2]
        assert (crashed.done - effects.done).total() <= 1
    await backend.close()
