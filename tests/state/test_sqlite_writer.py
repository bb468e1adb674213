"""Many changes share one commit, and none suffers from another."""

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from flujo.state.sqlite_writer import SQLiteWriter, Work

_SOON_S = 2.0  # less than what a connection waits for another, which is 5 seconds here


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER UNIQUE)")
    return connection


def _insert(number: int, connection: sqlite3.Connection) -> int:
    connection.execute("INSERT INTO numbers VALUES (?)", (number,))
    return number


def _insert_and_raise(number: int, connection: sqlite3.Connection) -> int:
    _insert(number, connection)
    raise LookupError("after it has written")


def _check_and_raise(connection: sqlite3.Connection) -> int:
    connection.execute("SELECT * FROM numbers").fetchall()
    raise LookupError("before it has written")


def _numbers(connection: sqlite3.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number")]


async def test_a_failure_among_many_changes_hurts_nobody_else(tmp_path: Path) -> None:
    """Whoever raises, before or after it has written, gets that error, and the others are committed."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)
    works: list[Work[int]] = [partial(_insert, 0), partial(_insert_and_raise, 1), partial(_insert, 2), _check_and_raise]
    works += [partial(_insert, 2), partial(_insert, 3)]

    results = await asyncio.gather(*(writer.run(work) for work in works), return_exceptions=True)

    kinds = [result if isinstance(result, int) else type(result) for result in results]
    assert kinds == [0, LookupError, 2, LookupError, sqlite3.IntegrityError, 3]
    assert await writer.run(_numbers) == [0, 2, 3]
    writer.stop()


async def test_many_changes_share_a_commit(tmp_path: Path) -> None:
    """What comes while the thread is at work is committed at once."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)
    entered, free, seen = threading.Event(), threading.Event(), list[str]()

    def wait(connection: sqlite3.Connection) -> int:
        connection.set_trace_callback(seen.append)
        entered.set()
        assert free.wait(10)
        return connection.total_changes

    first = asyncio.ensure_future(writer.run(wait))
    await asyncio.to_thread(entered.wait, 10)
    others = [asyncio.ensure_future(writer.run(partial(_insert, number))) for number in range(100)]
    await asyncio.sleep(0)
    free.set()

    await asyncio.gather(first, *others)

    assert seen.count("COMMIT") == 2  # that of the first, and that of all others
    assert await writer.run(_numbers) == list(range(100))
    writer.stop()


async def test_a_database_that_cannot_be_opened_fails_who_waits(tmp_path: Path) -> None:
    """Everybody gets the error, and whoever comes later finds it open if it can be."""
    path = tmp_path / "missing" / "numbers.db"
    writer = SQLiteWriter(partial(_connect, path), tmp_path)

    results = await asyncio.gather(*(writer.run(_numbers) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [sqlite3.OperationalError] * 3
    (tmp_path / "missing").mkdir()

    assert await writer.run(partial(_insert, 1)) == 1
    writer.stop()


async def test_stopping_loses_nothing_that_comes_at_the_same_time(tmp_path: Path) -> None:
    """Changes that are handed over while the thread ends are made, by it or by the next one."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)

    async def insert_ten(first: int) -> None:
        for number in range(first, first + 10):
            await writer.run(partial(_insert, number))

    async def stop_often() -> None:
        for _ in range(20):
            await asyncio.to_thread(writer.stop)

    await asyncio.gather(stop_often(), *(insert_ten(10 * part) for part in range(5)))

    assert await writer.run(_numbers) == list(range(50))
    writer.stop()


def test_a_loop_that_has_ended_stops_nobody(tmp_path: Path) -> None:
    """A change whose event loop is closed is made; nobody waits for it."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)
    free = threading.Event()

    async def leave_behind() -> None:
        blocked = asyncio.ensure_future(writer.run(lambda _: free.wait(10)))
        left = asyncio.ensure_future(writer.run(partial(_insert, 1)))
        await asyncio.sleep(0)
        blocked.cancel()
        left.cancel()

    asyncio.run(leave_behind())
    free.set()

    assert asyncio.run(writer.run(_numbers)) == [1]
    writer.stop()


async def test_an_error_that_undoing_meets_is_told(tmp_path: Path) -> None:
    """A connection that breaks down within a change fails it, and the next change has another one."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)

    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        await writer.run(lambda connection: connection.close())

    assert await asyncio.wait_for(writer.run(partial(_insert, 1)), 10) == 1
    writer.stop()


def _insert_and_tell(number: int, connection: sqlite3.Connection) -> int:
    _insert(number, connection)
    return threading.get_ident()


async def test_a_small_change_is_made_where_it_comes_from(tmp_path: Path) -> None:
    """While the thread has nothing to do, a small function runs in that of its caller, and is committed."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)
    here = threading.get_ident()

    ran_in = [await writer.run(partial(_insert_and_tell, number), log_bytes=100) for number in range(3)]
    large = await writer.run(partial(_insert_and_tell, 3))

    assert ran_in[1:] == [here, here]
    assert here not in (ran_in[0], large)  # the thread opens the database, and makes what is not small
    with closing(_connect(tmp_path / "numbers.db")) as other:
        assert _numbers(other) == [0, 1, 2, 3]
    writer.stop()


async def test_a_small_change_does_not_overtake(tmp_path: Path) -> None:
    """What was handed over before is made before, even if nobody waits for it any more."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)
    await writer.run(_numbers)
    free = threading.Event()
    blocked = asyncio.ensure_future(writer.run(lambda _: free.wait(10)))
    waiting = asyncio.ensure_future(writer.run(partial(_insert, 1), log_bytes=100))
    await asyncio.sleep(0)
    waiting.cancel()

    last = asyncio.ensure_future(writer.run(_numbers, log_bytes=100))
    await asyncio.sleep(0)
    free.set()

    assert await last == [1]
    await blocked
    writer.stop()


async def test_a_small_change_waits_in_the_thread_for_other_processes(tmp_path: Path) -> None:
    """Who would have to wait for somebody else's transaction does not stop the event loop."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)
    await writer.run(partial(_insert, 0), log_bytes=100)
    with closing(_connect(tmp_path / "numbers.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(writer.run(partial(_insert_and_tell, 1), log_bytes=100))
        began_s = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - began_s < _SOON_S
        assert not waiting.done()
        _insert(2, other)
        other.execute("COMMIT")

    assert await waiting != threading.get_ident()
    assert await writer.run(partial(_insert_and_tell, 3), log_bytes=100) == threading.get_ident()
    assert await writer.run(_numbers) == [0, 1, 2, 3]
    writer.stop()


async def test_a_small_change_leaves_the_connection_to_a_thread_that_waits(tmp_path: Path) -> None:
    """While the thread waits for another process, small changes wait behind it, and the event loop does not."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)
    await writer.run(_numbers)
    with closing(_connect(tmp_path / "numbers.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        large = asyncio.ensure_future(writer.run(partial(_insert, 1)))
        await asyncio.sleep(0.05)
        began_s = time.monotonic()
        small = asyncio.ensure_future(writer.run(_numbers, log_bytes=100))
        await asyncio.sleep(0)
        assert time.monotonic() - began_s < _SOON_S
        other.execute("COMMIT")

    assert await small == [1]
    assert large.done()
    writer.stop()


@pytest.mark.parametrize("error", [LookupError("a mistake"), KeyboardInterrupt()])
async def test_a_small_change_that_fails_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    """Its error goes to who asked, with nothing of it made, and the next change is made."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)
    await writer.run(_numbers)

    def fail(connection: sqlite3.Connection) -> None:
        _insert(1, connection)
        raise error

    with pytest.raises(type(error)):
        await writer.run(fail, log_bytes=100)

    assert await writer.run(partial(_insert, 2), log_bytes=100) == 2
    assert await writer.run(_numbers) == [2]
    writer.stop()


async def test_the_log_of_small_changes_is_emptied(tmp_path: Path) -> None:
    """The thread makes the change that finds the log full, and brings it into the database before."""
    writer = SQLiteWriter(partial(_connect, tmp_path / "numbers.db"), tmp_path)
    here = threading.get_ident()

    ran_in = [await writer.run(partial(_insert_and_tell, number), log_bytes=8_192) for number in range(300)]

    assert 1 < sum(thread != here for thread in ran_in) < 10
    assert (tmp_path / "numbers.db-wal").stat().st_size < 2_000_000
    assert await writer.run(_numbers) == list(range(300))
    writer.stop()
