"""A cache in one SQLite file, which many processes of one machine may use at once."""

import asyncio
import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from flujo.cache.backends import check_bounds
from flujo.exceptions import ConfigurationError, SerializationError, StateError
from flujo.state.sqlite_writer import BUSY_S, SQLiteWriter
from flujo.utils.clock import SYSTEM_CLOCK, Clock
from flujo.utils.codec import Codec
from flujo.utils.declared_types import DeclaredTypes

T = TypeVar("T")

_log = logging.getLogger("flujo.cache")

APPLICATION_ID = 0x464C5543  # "FLUC"
_VERSION = 1
_DAMAGED = ("malformed", "not a database", "corrupt")

_SCHEMA = (
    """CREATE TABLE entries (
        key BLOB NOT NULL PRIMARY KEY,
        value TEXT NOT NULL,
        expires REAL,
        used INTEGER NOT NULL,
        checksum BLOB NOT NULL
    ) STRICT""",
    "CREATE INDEX entries_by_use ON entries (used)",
    "CREATE INDEX entries_by_end ON entries (expires) WHERE expires IS NOT NULL",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)
_NEXT_USE = "(SELECT COALESCE(MAX(used), 0) + 1 FROM entries)"


class SQLiteCache:
    """Keeps values in a SQLite file, for all processes of one machine and those to come.

    A value is kept as text: of any type that flujo can write, if it is registered or one of Python's own
    (see `flujo.utils.serialization`). A row that is damaged is a value that is gone.

    Args:
        path: The file; it is made, readable for its owner only, if it is not there.
        max_size: The most values kept, the least recently used ones go first; `None` for no bound.
        ttl: Seconds a value is kept if `set` does not say; `None` for ever.
        clock: Tells the time.

    Raises:
        ConfigurationError: The bounds are none; when it is first used: the file cannot be opened, is damaged,
            or is a database of another program.

    Example:
        ```python
        from flujo import SQLiteCache, Step

        cache = SQLiteCache("answers.db", max_size=10_000, ttl=7 * 24 * 3600)
        shout = Step.cached(Step.from_callable(str.upper, name="shout"), cache)
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_size: int | None = None,
        ttl: float | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_bounds(1 if max_size is None else max_size, ttl)
        self.path = Path(path)
        self._max_size, self._ttl, self._clock = max_size, ttl, clock
        self._codec = Codec(DeclaredTypes())
        self._writer = SQLiteWriter(self._connect, self.path)

    async def get(self, key: str) -> Any | None:
        """Return the value, or `None` if it was never kept, is gone or is damaged."""
        name, now = _key_bytes(key), self._clock.now().timestamp()

        def find(connection: sqlite3.Connection) -> str | None:
            row = connection.execute("SELECT value, expires, checksum FROM entries WHERE key = ?", (name,)).fetchone()
            if row is None:
                return None
            value, expires, checksum = row
            is_intact = checksum == _checksum(name, value, expires)
            if not is_intact:
                _log.warning("a value in the cache %s is damaged, and counts as gone", self.path)
            if not is_intact or (expires is not None and expires <= now):
                connection.execute("DELETE FROM entries WHERE key = ?", (name,))
                return None
            if self._max_size is not None:
                connection.execute(f"UPDATE entries SET used = {_NEXT_USE} WHERE key = ?", (name,))
            return str(value)

        found = await self._run(find)
        return None if found is None else self._read(found)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a value, for `ttl` seconds or else for the cache's own time.

        Raises:
            SerializationError: It is of a type that flujo cannot write.
        """
        name, text, now = _key_bytes(key), self._codec.dumps(value), self._clock.now().timestamp()
        kept_s = self._ttl if ttl is None else ttl
        expires = None if kept_s is None else now + kept_s
        checksum = _checksum(name, text, expires)

        def keep(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM entries WHERE expires <= ?", (now,))
            connection.execute(
                "INSERT OR REPLACE INTO entries (key, value, expires, used, checksum) "
                f"VALUES (?, ?, ?, {_NEXT_USE}, ?)",
                (name, text, expires, checksum),
            )
            if self._max_size is not None:
                (count,) = connection.execute("SELECT COUNT(*) FROM entries").fetchone()
                connection.execute(
                    "DELETE FROM entries WHERE key IN (SELECT key FROM entries ORDER BY used LIMIT ?)",
                    (max(0, count - self._max_size),),
                )

        await self._run(keep)

    async def delete(self, key: str) -> None:
        """Forget a value, if it is there."""
        name = _key_bytes(key)

        def remove(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM entries WHERE key = ?", (name,))

        await self._run(remove)

    async def clear(self) -> None:
        """Forget all values."""

        def remove_all(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM entries")

        await self._run(remove_all)

    async def close(self) -> None:
        """End the thread that writes, and close the file; the next use opens it again."""
        await asyncio.to_thread(self._writer.stop)

    def _read(self, text: str) -> Any | None:
        try:
            return self._codec.loads(text)
        except SerializationError as error:
            _log.warning("a value in the cache %s cannot be read, and counts as gone: %s", self.path, error)
            return None

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._writer.run(work)
        except OSError as error:
            raise ConfigurationError(f"the cache {self.path} cannot be opened: {error.strerror}") from error
        except sqlite3.Error as error:
            if any(word in str(error) for word in _DAMAGED):
                raise ConfigurationError(
                    f"the cache {self.path} is damaged, or no SQLite file; delete it, or give another file: {error}"
                ) from error
            if "unable to open" in str(error):
                raise ConfigurationError(f"the cache {self.path} cannot be opened: {error}") from error
            raise StateError(f"the cache {self.path} could not be read or written: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            if not _is_ours(connection, self.path):
                _set_up(connection, self.path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # what a loss of power takes is only made anew
        except BaseException:
            connection.close()
            raise
        return connection


def _key_bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _checksum(key: bytes, value: str, expires: float | None) -> bytes:
    made = hashlib.blake2b(f"{len(key)} {expires!r} ".encode(), digest_size=8)
    made.update(key)
    made.update(value.encode("utf-8", "surrogatepass"))
    return made.digest()


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Tell whether a file is a cache already; refuse one that is anything but empty."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID and version == _VERSION:
        return True
    if application == APPLICATION_ID and version > _VERSION:
        raise ConfigurationError(f"the cache {path} was made by a newer flujo; delete it, or give another file")
    if application or version or connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None:
        raise ConfigurationError(f"{path} is a database, but no cache of flujo's; give another file")
    return False


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _is_ours(connection, path):  # nobody else has done it meanwhile
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise
