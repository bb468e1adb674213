"""One thread that writes to a SQLite database, with many writers' changes in one commit.

Whoever wants to write hands over a function of the connection and awaits what it returns.
The thread takes all the functions that have come since its last commit, runs them in one transaction, commits,
and only then answers; so one commit, and one wait for the disk, serves every run that had something to write.
A small function whose commit does not wait for the disk is run where it comes from, while the writing thread has
nothing to do: handing it over and back takes more than twice the time of its statements.
A function that raises changes nothing, and the others go on: one that checks before it writes is only left out;
if it did write, the transaction is rolled back and each function is run again in one of its own.

No connection is open while the process forks, because SQLite's locks do not survive that: the thread ends before,
and both processes start one of their own when they write next.
"""

import asyncio
import atexit
import logging
import os
import queue
import sqlite3
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

_log = logging.getLogger("flujo.state")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

BUSY_S = 60.0
"""How long one process waits for another's commit."""

_MOST_AT_ONCE = 500  # functions in one transaction
_MOST_LOGGED_BYTES = 800_000  # by small functions, before the writing thread empties the log


@dataclass(slots=True)
class _Job:
    """A function to run, and who waits for what it returns."""

    work: Work[Any]
    loop: asyncio.AbstractEventLoop
    waiter: "asyncio.Future[Any]"
    result: Any = None
    error: Exception | None = None
    is_settled: bool = False

    def answer(self) -> None:
        """Tell the waiter, in its event loop."""
        if self.waiter.done():  # it was cancelled meanwhile
            return
        if self.error is not None:
            self.waiter.set_exception(self.error)
        else:
            self.waiter.set_result(self.result)


_THREADS: "weakref.WeakSet[_WritingThread]" = weakref.WeakSet()  # those of writers that were dropped too


class _WritingThread(threading.Thread):
    """Writes what is put into its queue, until that is `None`."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._open = connect
        self._connection: sqlite3.Connection | None = None
        self._handed_over = self._settled = 0  # jobs; each is counted up by one thread at a time
        self._logged_bytes = 0
        self._waits = True

    def run(self) -> None:
        """Write until asked to stop."""
        is_going = True
        while is_going:
            is_going = self._write_next()
        self._close()

    def _write_next(self) -> bool:
        """Write what comes next, and tell whether more may come; nothing of it is kept while waiting."""
        batch, is_last = self._next_batch()
        self._write(batch)
        self._settled += len(batch)
        _answer(batch)
        return not is_last

    def hand_over(self, job: _Job) -> None:
        """Let the thread write a job; called by one thread at a time."""
        self._handed_over += 1
        self.jobs.put(job)

    def write_here(self, work: Work[T], log_bytes: int) -> tuple[T] | None:
        """Run a function in a transaction of its own, in the thread that calls; one thread at a time does.

        Returns:
            What it returned; `None` if nothing was done, because this thread is at work, another process is, or the
            log is to be emptied.

        Raises:
            Exception: What the function raised, or what went wrong with the commit.
        """
        connection = self._connection
        if connection is None or self._settled < self._handed_over or self._logged_bytes >= _MOST_LOGGED_BYTES:
            return None
        self._logged_bytes += log_bytes
        try:
            self._let_wait(connection, waits=False)
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            _log.debug("a change is left to the writing thread: %s", error)
            return None
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
        return (result,)

    def _let_wait(self, connection: sqlite3.Connection, *, waits: bool) -> None:
        """Let a transaction wait for those of other processes, or fail at once."""
        if self._waits != waits:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000 if waits else 0:.0f}")
            self._waits = waits

    def end(self) -> None:
        """Wait until everything handed over is written, and the database closed."""
        self.jobs.put(None)
        self.join()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Wait for a job, and return it with those that came with it, and whether they are the last."""
        batch: list[_Job] = []
        job = self.jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) == _MOST_AT_ONCE:
                return batch, False
            try:
                job = self.jobs.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _write(self, batch: list[_Job]) -> None:
        try:
            if batch and self._connection is None:
                self._connection, self._waits = self._open(), True
            if self._connection is not None:
                self._let_wait(self._connection, waits=True)
                self._empty_log(self._connection)
                _commit(self._connection, batch)
        except Exception as error:  # whoever waits gets it, and the next batch opens the database anew
            for job in batch:
                if not job.is_settled:
                    job.error = error
            self._close()

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        """Bring the log into the database if small functions have filled it; the commit that follows starts a new one.

        Both wait for the disk.
        """
        if self._logged_bytes >= _MOST_LOGGED_BYTES:
            self._logged_bytes = 0
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        except sqlite3.Error as error:
            _log.warning("a database could not be closed: %s", error)


class SQLiteWriter:
    """Writes to one database.

    Args:
        connect: Opens the database; called in the thread, when it first writes. It must not refer to who has
            the writer, which would then never be let go.
        name: What the thread is called after.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: Path) -> None:
        self._connect = connect
        self._name = f"flujo-writer-{name.name}"
        self._lock = threading.Lock()
        self._thread: _WritingThread | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        _WRITERS.add(self)

    async def run(self, work: Work[T], *, log_bytes: int | None = None) -> T:
        """Run a function in a transaction of its own or of several, and return what it returned once that is committed.

        Whoever is cancelled while waiting does not know whether the function was run; it will have been before
        whatever is handed over later.

        Args:
            work: The function.
            log_bytes: About how much it adds to the write-ahead log, if that is little and committing does not wait
                for the disk: it is run in the thread that calls if nobody else is writing.

        Raises:
            Exception: What the function raised, or what went wrong with the transaction.
        """
        with self._lock:  # so that nothing is put behind the end of a thread
            thread = self._thread or self._start()
            if log_bytes is not None and (done := thread.write_here(work, log_bytes)) is not None:
                return done[0]
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[T] = loop.create_future()
            thread.hand_over(_Job(work, loop, waiter))
        return await waiter

    def stop(self) -> None:
        """End the thread once everything handed over is written; the next function starts another one."""
        with self._lock:
            thread = self._let_go()
        if thread is not None:
            thread.end()

    def _start(self) -> _WritingThread:
        thread = _WritingThread(self._connect, self._name)
        thread.start()
        _THREADS.add(thread)
        self._thread = thread
        # Garbage may be collected in a thread that writes to the same file, so nobody waits for the end here.
        self._finalizer = weakref.finalize(self, thread.jobs.put, None)
        self._finalizer.atexit = False
        return thread

    def _let_go(self) -> _WritingThread | None:
        thread, self._thread = self._thread, None
        if self._finalizer is not None:
            self._finalizer.detach()
        return thread

    def pause(self) -> None:
        """Let go of the thread, and let nobody start one until `go_on`."""
        self._lock.acquire()
        self._let_go()

    def go_on(self) -> None:
        """Let a thread be started again."""
        self._lock.release()


def _commit(connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    """Run jobs in one transaction, without those that fail; raises if the database does not take any."""
    error = _attempt(connection, jobs)
    if error is not None and len(jobs) > 1:  # whose fault it was is seen when each is alone
        for job in jobs:
            _commit(connection, [job])
        return
    for job in jobs:
        job.error = job.error or error
        job.is_settled = True


def _attempt(connection: sqlite3.Connection, jobs: list[_Job]) -> Exception | None:
    """Run jobs and commit them; or change nothing, and return what went wrong."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for job in jobs:
            job.error = None
            changes = connection.total_changes
            try:
                job.result = job.work(connection)
            except Exception as error:  # a function raises what it likes; it goes to whoever waits
                if isinstance(error, sqlite3.Error) or connection.total_changes != changes:
                    raise
                job.error = error
        connection.execute("COMMIT")
    except Exception as error:  # as above, or there is no room for what was written
        if connection.in_transaction:
            connection.rollback()
        return error
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


# Forking, and the end of the interpreter

READING = threading.Lock()
"""Held by whoever has another connection open, one at a time, and while the process forks."""

_WRITERS: "weakref.WeakSet[SQLiteWriter]" = weakref.WeakSet()
_PAUSED: list[SQLiteWriter] = []


def _end_threads() -> None:
    for thread in list(_THREADS):
        thread.end()


def _before_fork() -> None:
    READING.acquire()
    _PAUSED.extend(_WRITERS)
    for writer in _PAUSED:
        writer.pause()
    _end_threads()


def _after_fork() -> None:
    for writer in _PAUSED:
        writer.go_on()
    _PAUSED.clear()
    READING.release()


atexit.register(_end_threads)
if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
