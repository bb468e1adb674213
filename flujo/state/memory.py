"""A store in the memory of this process: for tests, and for runs that need to survive a pause only."""

import sqlite3
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from flujo.state.backend import LEASE_S, Durability
from flujo.state.budget_keeper import BudgetKeeper, BudgetWork
from flujo.state.budget_tables import BudgetTables
from flujo.state.budgets import RunWrite
from flujo.state.ownership import Owner
from flujo.state.records import JournalEntry, JournalWrite, RunQuery, RunRecord, StoredRun
from flujo.state.refusals import earlier_write_failed, run_not_found, run_owned, run_superseded
from flujo.utils.clock import SYSTEM_CLOCK, Clock

T = TypeVar("T")


@dataclass(slots=True)
class _Run:
    record: RunRecord
    owner: Owner | None
    lease_until_s: float
    entries: dict[int, JournalEntry] = field(default_factory=dict[int, JournalEntry])

    def stored(self) -> StoredRun:
        """Return the run as it is now."""
        return StoredRun(self.record, list(self.entries.values()))


class InMemoryBackend(BudgetKeeper):
    """Keeps runs and budgets for as long as it lives.

    Args:
        durability: `exit` stores only the end, a pause or a failure of a run; the others are the same here.
        lease_s: Seconds for which an owner keeps a run without renewing it.
        clock: Tells the time.

    Example:
        ```python
        from flujo import Flujo, InMemoryBackend, Step

        runner = Flujo(Step.from_callable(str.upper, name="shout"), state_backend=InMemoryBackend())
        first = runner.run("hello", run_id="greeting")
        assert runner.run("hello", run_id="greeting").output == first.output
        ```
    """

    def __init__(
        self, *, durability: Durability = "full", lease_s: float = LEASE_S, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.durability: Durability = durability
        self.lease_s = lease_s
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()  # each method is one step for all threads
        self._tables = BudgetTables(lease_s=lease_s)
        self._budgets: sqlite3.Connection | None = None  # a database in memory, once there is a budget

    async def create(self, record: RunRecord, owner: Owner) -> bool:
        """Store a new run, unless one of its identity exists."""
        with self._lock:
            if record.run_id in self._runs:
                return False
            record = record.model_copy(update={"owner": owner.text})
            self._runs[record.run_id] = _Run(record, owner, self._lease())
            return True

    async def claim(self, run_id: str, owner: Owner) -> StoredRun:
        """Take a run over, unless somebody else has it."""
        with self._lock:
            run = self._find(run_id)
            if run.record.status != "completed":
                self._check_free(run, owner)
                run.owner, run.lease_until_s = owner, self._lease()
                run.record = run.record.model_copy(update={"owner": owner.text})
            return run.stored()

    async def load(self, run_id: str) -> StoredRun:
        """Return a run."""
        with self._lock:
            return self._find(run_id).stored()

    async def write(self, run_id: str, owner: Owner, change: JournalWrite) -> None:
        """Change a run."""
        with self._lock:
            self._change(run_id, owner, change)

    def _change(self, run_id: str, owner: Owner, change: JournalWrite) -> None:
        run = self._owned(run_id, owner)
        if run.record.head != change.after:
            raise earlier_write_failed(run_id)
        for number in change.removed:
            del run.entries[number]
        run.entries.update({entry.number: entry for entry in change.entries})
        run.owner = None if change.releases else owner
        run.record = run.record.model_copy(
            update={
                "status": change.status,
                "updated_at": datetime.fromtimestamp(change.at, UTC),
                "owner": None if change.releases else owner.text,
                "total_cost": change.total_cost,
                "total_tokens": change.total_tokens,
                "head": change.head,
                "entry_count": change.entry_count,
                "checksum": change.checksum,
            }
        )
        run.lease_until_s = self._lease()

    async def renew(self, run_id: str, owner: Owner) -> None:
        """Renew the lease of a run."""
        with self._lock:
            self._owned(run_id, owner).lease_until_s = self._lease()

    async def release(self, run_id: str, owner: Owner) -> None:
        """Let a run go."""
        with self._lock:
            run = self._runs.get(run_id)
            if run is not None and run.owner == owner:
                run.owner, run.record = None, run.record.model_copy(update={"owner": None})

    async def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the records of runs."""
        with self._lock:
            records = [run.record for run in self._runs.values()]
        found = [
            record
            for record in records
            if query.status in (None, record.status)
            and query.pipeline_name in (None, record.pipeline_name)
            and (query.since is None or record.updated_at >= query.since)
            and (query.until is None or record.updated_at < query.until)
        ]
        found.sort(key=lambda record: (record.updated_at, record.run_id), reverse=True)
        return found[: query.limit]

    async def delete(self, run_id: str) -> None:
        """Forget a run."""
        with self._lock:
            if run_id in self._runs:
                self._check_free(self._runs[run_id], None)
                del self._runs[run_id]

    async def close(self) -> None:
        """Do nothing: what it holds is memory."""

    async def _in_budgets(self, which: str, work: BudgetWork[T], *, run: RunWrite | None = None) -> T:
        with self._lock:
            connection = self._open_budgets()
            connection.execute("BEGIN")
            try:
                done = work(connection, self._clock.now().timestamp())
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()
                raise
            return done

    def _write_with(self, connection: sqlite3.Connection, run: RunWrite) -> None:
        self._change(run.run_id, run.owner, run.change)  # the last that can fail in its transaction

    def _open_budgets(self) -> sqlite3.Connection:
        if self._budgets is None:
            self._budgets = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            for statement in BudgetTables.migration():
                self._budgets.execute(statement)
        return self._budgets

    def _lease(self) -> float:
        return self._clock.monotonic() + self.lease_s

    def _find(self, run_id: str) -> _Run:
        if run_id not in self._runs:
            raise run_not_found(run_id)
        return self._runs[run_id]

    def _owned(self, run_id: str, owner: Owner) -> _Run:
        run = self._find(run_id)
        if run.owner != owner:
            raise run_superseded(run_id, run.owner)
        return run

    def _check_free(self, run: _Run, owner: Owner | None) -> None:
        holder = run.owner
        if holder is None or holder == owner or holder.is_dead() or self._clock.monotonic() >= run.lease_until_s:
            return
        raise run_owned(run.record.run_id, holder)
