"""One thread that writes to a SQLite database, with many writers' changes in one commit.

Whoever wants to write hands over a function of the connection and awaits what it returns.
The thread takes all the functions that have come since its last commit, runs them in one transaction, commits,
and only then answers; so one commit, and one wait for the disk, serves every run that had something to write.
A function that raises changes nothing, and the others go on: it checks before it writes, and if it did write,
the transaction is rolled back and the others are run again without it.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

_log = logging.getLogger("flujo.state")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_MOST_AT_ONCE = 500  # functions in one transaction


@dataclass(slots=True)
class _Job:
    """A function to run, and who waits for what it returns."""

    work: Work[Any]
    loop: asyncio.AbstractEventLoop
    waiter: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None

    def answer(self) -> None:
        """Tell the waiter, in its event loop."""
        if self.waiter.done():  # it was cancelled meanwhile
            return
        if self.error is not None:
            self.waiter.set_exception(self.error)
        else:
            self.waiter.set_result(self.result)


@dataclass(slots=True)
class _Stop:
    """Asks the thread to end; carries the answer that it has."""

    done: "Future[None]" = field(default_factory=Future[None])


class SQLiteWriter:
    """Writes to one database.

    Args:
        connect: Opens the database; called in the thread, when it starts.
        name: What the thread is called.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: Path) -> None:
        self._connect = connect
        self._name = f"flujo-writer-{name.name}"
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | _Stop] | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    async def run(self, work: Work[T]) -> T:
        """Run a function in a transaction of its own or of several, and return what it returned once that is committed.

        Raises:
            Exception: What the function raised, or what went wrong with the transaction.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()
        self._queue().put(_Job(work, loop, waiter))
        return await waiter

    def stop(self) -> None:
        """End the thread once everything handed over is written; the next function starts another one."""
        with self._lock:
            if self._finalizer is not None:
                self._finalizer()
            self._jobs, self._finalizer = None, None

    def _queue(self) -> "queue.SimpleQueue[_Job | _Stop]":
        jobs = self._jobs
        return self._start() if jobs is None else jobs

    def _start(self) -> "queue.SimpleQueue[_Job | _Stop]":
        with self._lock:
            if self._jobs is None:
                jobs: queue.SimpleQueue[_Job | _Stop] = queue.SimpleQueue()
                thread = threading.Thread(target=_work, args=(self._connect, jobs), name=self._name, daemon=True)
                thread.start()
                self._jobs = jobs
                self._finalizer = weakref.finalize(self, _end, jobs)
            return self._jobs


def _end(jobs: "queue.SimpleQueue[_Job | _Stop]") -> None:
    stop = _Stop()
    jobs.put(stop)
    stop.done.result()


def _work(connect: Callable[[], sqlite3.Connection], jobs: "queue.SimpleQueue[_Job | _Stop]") -> None:
    """Write until asked to stop."""
    connection: sqlite3.Connection | None = None
    stop: _Stop | None = None
    while stop is None:
        batch, stop = _next_batch(jobs)
        if batch and connection is None:
            connection = _connected(connect, batch)
        if batch and connection is not None:
            _commit(connection, batch)
        _answer(batch)
    if connection is not None:
        connection.close()
    stop.done.set_result(None)


def _next_batch(jobs: "queue.SimpleQueue[_Job | _Stop]") -> tuple[list[_Job], _Stop | None]:
    """Wait for a job, and return it with those that came with it."""
    batch: list[_Job] = []
    job = jobs.get()
    while True:
        if isinstance(job, _Stop):
            return batch, job
        batch.append(job)
        if len(batch) == _MOST_AT_ONCE:
            return batch, None
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            return batch, None


def _connected(connect: Callable[[], sqlite3.Connection], batch: list[_Job]) -> sqlite3.Connection | None:
    try:
        return connect()
    except Exception as error:  # whoever waits gets it, and the next batch tries again
        for job in batch:
            job.error = error
        return None


def _commit(connection: sqlite3.Connection, batch: list[_Job]) -> None:
    """Run a batch in one transaction, without the jobs that fail."""
    todo = list(batch)
    while todo:
        failed = _attempt(connection, todo)
        if failed is None:
            return
        job, error = failed
        if isinstance(error, sqlite3.Error) and len(todo) > 1:  # whose fault it was is seen when each is alone
            for each in todo:
                _commit(connection, [each])
            return
        job.error = error
        todo.remove(job)


def _attempt(connection: sqlite3.Connection, jobs: list[_Job]) -> tuple[_Job, Exception] | None:
    """Run jobs and commit them; or change nothing, and return the job that failed and why."""
    job = jobs[0]
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            job.result = job.work(connection)
        connection.execute("COMMIT")
    except Exception as error:  # a function raises what it likes; it goes to whoever waits
        if connection.in_transaction:
            connection.rollback()
        return job, error
    return None


def _answer(batch: list[_Job]) -> None:
    """Tell all waiters, those of one event loop in one go."""
    loops: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in batch:
        loops.setdefault(job.loop, []).append(job)
    for loop, jobs in loops.items():
        try:
            loop.call_soon_threadsafe(_answer_all, jobs)
        except RuntimeError as error:  # the loop is closed, and nobody waits any more
            _log.debug("nobody waits for %d changes any more: %s", len(jobs), error)


def _answer_all(jobs: list[_Job]) -> None:
    for job in jobs:
        job.answer()
