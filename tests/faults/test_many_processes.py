"""Many processes use one database at once, and none is told that it is locked.

By default eight processes make 30 new databases at once, and do 20 runs each in one; `--long` makes 300 and does 200.
"""

import asyncio
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from flujo import Flujo, Pipeline, SQLiteBackend, Step
from flujo.state.records import RunQuery

pytestmark = pytest.mark.timeout(600)

_PROCESSES = 8
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.faults.worker"])


def test_processes_that_make_one_database_at_once_all_use_it(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Whoever comes first makes the tables; nobody takes the file for that of another program."""
    files = [str(tmp_path / f"{number}.db") for number in range(300 if pytestconfig.getoption("--long") else 30)]
    barrier = _SERVER.Barrier(_PROCESSES)

    with _SERVER.Pool(_PROCESSES, initializer=_share, initargs=(barrier,)) as pool:
        errors = pool.starmap(_make_all, [(files, number) for number in range(_PROCESSES)], chunksize=1)

    assert [error for error in errors if error] == []
    for file in files:
        assert len(asyncio.run(SQLiteBackend(file).list_runs(RunQuery()))) == _PROCESSES


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Each process does many runs at once in the same file; all complete, and all are there afterwards."""
    runs = 200 if pytestconfig.getoption("--long") else 20
    file = str(tmp_path / "runs.db")

    with _SERVER.Pool(_PROCESSES) as pool:
        errors = pool.starmap(_run_many, [(file, number, runs) for number in range(_PROCESSES)], chunksize=1)

    assert [error for error in errors if error] == []
    records = asyncio.run(SQLiteBackend(file).list_runs(RunQuery(status="completed")))
    assert len(records) == _PROCESSES * runs
    assert all(record.is_intact() and record.owner is None for record in records)


_shared: dict[str, Any] = {}


def _share(barrier: object) -> None:
    _shared["barrier"] = barrier


def _make_all(files: list[str], number: int) -> str:
    """Do a run in each of the files, all processes at once; return what went wrong."""
    try:
        for file in files:
            _shared["barrier"].wait()
            Flujo(Step("only", _next), state_backend=SQLiteBackend(file)).run(1, run_id=f"run {number}")
    except Exception as error:
        _shared["barrier"].abort()
        return repr(error)
    return ""


def _run_many(file: str, number: int, runs: int) -> str:
    """Do many runs of ten steps at once; return what went wrong."""
    try:
        asyncio.run(_runs(file, number, runs))
    except Exception as error:
        return repr(error)
    return ""


async def _runs(file: str, number: int, runs: int) -> None:
    backend = SQLiteBackend(file)
    runner = Flujo(Pipeline[int, int](steps=[Step(f"step {i}", _next) for i in range(10)]), state_backend=backend)
    results = await asyncio.gather(*(runner.run_async(0, run_id=f"{number}.{run}") for run in range(runs)))
    assert [result.output for result in results] == [10] * runs
    await backend.close()


async def _next(value: int) -> int:
    return value + 1
