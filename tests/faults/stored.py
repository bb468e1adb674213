"""Runs of the pipeline of every kind in a SQLite file, broken off in the middle, for tests that damage the file."""

from pathlib import Path
from typing import Any

from flujo import PipelineResult, SQLiteBackend
from flujo.state.ownership import Owner
from flujo.state.records import JournalWrite
from tests.faults.every_kind import Effects, runner_of
from tests.faults.worker import comparable


class BrokenOffError(BaseException):
    """The run ends here; nothing in flujo catches it."""


class BreakingBackend(SQLiteBackend):
    """A store that breaks a run off before one of its writes.

    Attributes:
        left: How many writes come before.
    """

    def __init__(self, path: Path, left: int) -> None:
        super().__init__(path, durability="fast")
        self.left = left

    async def write(self, run_id: str, owner: Owner, change: JournalWrite) -> None:
        """Store a change, or break off."""
        self.left -= 1
        if self.left < 0:
            raise BrokenOffError
        await super().write(run_id, owner, change)


async def run(backend: SQLiteBackend, run_id: str) -> PipelineResult[Any]:
    """Run, or go on with a run, to its end; nobody is asked."""
    return await runner_of(Effects(), backend, asks=False).run_async(1, run_id=run_id)


async def break_off(path: Path, run_id: str, *, after: int) -> BreakingBackend:
    """Run until a number of writes are stored, and return the store, which is open still."""
    backend = BreakingBackend(path, after)
    try:
        await run(backend, run_id)
    except BrokenOffError:
        return backend
    raise AssertionError(f"the run has no {after} writes")


def but_totals(result: PipelineResult[Any]) -> dict[str, Any]:
    """Return what a run came to, without what it cost: what was in flight when it broke off may cost again."""
    return {**comparable(result), "total_cost": None, "total_tokens": None}
