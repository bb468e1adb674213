"""Where runs survive: the protocol of a store."""

from typing import Literal, Protocol

from flujo.state.ownership import Owner
from flujo.state.records import JournalWrite, RunQuery, RunRecord, StoredRun

Durability = Literal["full", "fast", "exit"]
"""What a finished step survives: `full` the loss of power, `fast` the death of the process.

With `exit` only the end, a pause or a failure of a run is stored.
"""

LEASE_S = 15.0
"""Seconds for which an owner that cannot be asked keeps a run."""


class StateBackend(Protocol):
    """Keeps runs and their journals.

    Every method is one transaction: it happens as a whole or not at all, and is durable when it returns.
    A store is used from many tasks at once and from one event loop after another; several processes may use one.
    A call that is cancelled may return early only if calls that come later cannot overtake it.
    It raises `StateError` if it cannot do what it is asked, and keeps what it had.
    """

    @property
    def durability(self) -> Durability:
        """What a finished step survives."""
        ...

    @property
    def lease_s(self) -> float:
        """Seconds for which an owner keeps a run without renewing it."""
        ...

    async def create(self, record: RunRecord, owner: Owner) -> bool:
        """Store a new run that belongs to an owner; return `False`, and do nothing, if a run of its identity exists."""
        ...

    async def claim(self, run_id: str, owner: Owner) -> StoredRun:
        """Make an owner that of a run, and return the run; a run that completed is returned and belongs to nobody.

        Raises:
            RunNotFoundError: There is no such run.
            RunOwnedError: It belongs to another owner, who is not known to be dead and whose lease has not run out.
        """
        ...

    async def load(self, run_id: str) -> StoredRun:
        """Return a run, whoever owns it.

        Raises:
            RunNotFoundError: There is no such run.
        """
        ...

    async def write(self, run_id: str, owner: Owner, change: JournalWrite) -> None:
        """Change a run, and renew its lease.

        Raises:
            RunOwnedError: The run belongs to another owner by now; nothing is changed.
        """
        ...

    async def renew(self, run_id: str, owner: Owner) -> None:
        """Renew the lease of a run.

        Raises:
            RunOwnedError: The run belongs to another owner by now.
        """
        ...

    async def release(self, run_id: str, owner: Owner) -> None:
        """Let a run belong to nobody, if it belongs to this owner."""
        ...

    async def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the records of the runs that a query asks for, the ones that changed last first."""
        ...

    async def delete(self, run_id: str) -> None:
        """Forget a run, if it is there.

        Raises:
            RunOwnedError: It belongs to a live owner.
        """
        ...

    async def close(self) -> None:
        """Let go of what the store holds open; it may be used again."""
        ...
