"""`SQLiteCache`: one file for many processes, whose damage never gives a wrong value."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flujo import ConfigurationError, SerializationError, SQLiteCache, StateError


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[SQLiteCache]:
    """An empty cache."""
    made = SQLiteCache(tmp_path / "cache.db")
    yield made
    await made.close()


async def test_values_come_back_in_another_cache_of_the_file(cache: SQLiteCache) -> None:
    """They are equal and of the same types, and no live objects."""
    value: Any = {"tuple": (1, 2), "price": Decimal("1.10"), "text": "\ud800\x00é", 1: {"a", "b"}}
    await cache.set("key \ud800", value)

    other = SQLiteCache(cache.path)
    found: Any = await other.get("key \ud800")
    await other.close()

    assert found == value
    assert found is not value
    assert type(found["tuple"]) is tuple


async def test_a_value_that_cannot_be_written_is_refused(cache: SQLiteCache) -> None:
    """The error names its type and place, and the cache is as it was."""

    class Opaque:
        pass

    with pytest.raises(SerializationError, match=r"\[0\].*Opaque"):
        await cache.set("key", [Opaque()])

    assert await cache.get("key") is None


async def test_the_file_is_for_its_owner_only(cache: SQLiteCache) -> None:
    """So are the files that SQLite keeps beside it."""
    await cache.set("key", 1)

    assert {path.stat().st_mode & 0o777 for path in cache.path.parent.iterdir()} == {0o600}


async def test_a_closed_cache_may_be_used_again(cache: SQLiteCache) -> None:
    """What was set is there."""
    await cache.set("key", 1)
    await cache.close()
    await cache.close()

    assert await cache.get("key") == 1


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE entries SET value = '2'",
        "UPDATE entries SET expires = 1e12",
        "UPDATE entries SET checksum = x'00'",
        "UPDATE entries SET key = CAST('key' AS BLOB)",
    ],
)
async def test_a_damaged_row_is_a_value_that_is_gone(
    cache: SQLiteCache, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so; the key may be set anew."""
    await cache.set("yek" if "SET key" in damage else "key", 1)
    await cache.close()
    with closing(sqlite3.connect(cache.path, isolation_level=None)) as connection:
        connection.execute(damage)

    assert await cache.get("key") is None
    assert "is damaged" in caplog.text
    await cache.set("key", 3)
    assert await cache.get("key") == 3


def _write_text(path: Path) -> None:
    path.write_text("this is no database at all, and long enough to be read as the head of one\n" * 20)


def _write_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")


def _write_newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 0x464C5543")
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_write_text, "is damaged, or no SQLite file"),
        (_write_database, "no cache of flujo's"),
        (_write_newer, "newer flujo"),
        (Path.mkdir, "cannot be opened"),
    ],
)
async def test_a_file_that_is_no_cache_is_refused_at_first_use(tmp_path: Path, write: Any, said: str) -> None:
    """The error names the file, which stays as it is."""
    path = tmp_path / "other.db"
    write(path)
    cache = SQLiteCache(path)
    before = path.read_bytes() if path.is_file() else None

    with pytest.raises(ConfigurationError, match=said) as caught:
        await cache.get("key")
    await cache.close()

    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


async def test_a_full_disk_is_an_error_and_loses_nothing(cache: SQLiteCache) -> None:
    """What is there already can still be read."""
    await cache.set("small", 1)

    def limit(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    await cache._run(limit)  # pyright: ignore[reportPrivateUsage]  # a disk cannot be filled otherwise
    with pytest.raises(StateError, match="full"):
        await cache.set("large", "x" * 1_000_000)

    assert await cache.get("small") == 1


_WRITER = """
import asyncio, sys
from flujo import SQLiteCache

async def main(path, number):
    cache = SQLiteCache(path, max_size=40)
    for i in range(30):
        await cache.set(f"{number}-{i % 10}", [number, i])
        assert (await cache.get(f"{number}-{i % 10}")) in (None, [number, i])
    await cache.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_many_processes_may_use_one_file(tmp_path: Path) -> None:
    """Nobody is told that the database is locked, not even while it is made, and its size is kept."""
    path = tmp_path / "cache.db"
    processes = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(number)], stderr=subprocess.PIPE, text=True)
        for number in range(4)
    ]

    errors = [process.communicate()[1] for process in processes]

    assert errors == [""] * 4
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM entries").fetchone() == (40,)


async def test_a_file_keeps_its_size_while_values_are_set_anew(tmp_path: Path) -> None:
    """What expires and what is pushed out makes room."""
    cache = SQLiteCache(tmp_path / "cache.db", max_size=10)

    await asyncio.gather(*(cache.set(f"{i}", "x" * 1000) for i in range(500)))
    await cache.close()

    assert cache.path.stat().st_size < 100_000
