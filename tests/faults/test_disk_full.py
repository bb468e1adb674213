"""A disk that is full gives a typed error that names the run, loses nothing, and the run goes on once there is room.

By default the disk is full at 100 sizes each way; `--long` tries 1,000.
"""

import asyncio
import multiprocessing
import random
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flujo import SQLiteBackend
from flujo.exceptions import StateCorruptedError, StateError
from tests.faults.every_kind import PRICE, Effects, runner_of
from tests.faults.stored import but_totals
from tests.faults.worker import FAILING, MOST_AT_ONCE

pytestmark = pytest.mark.timeout(600)

_SERVER = multiprocessing.get_context("forkserver")
_PAGE_BYTES = 4096
_NO_LIMIT = 1_000_000


class SmallBackend(SQLiteBackend):
    """A store whose database may have so many pages and no more."""

    async def limit_pages(self, pages: int) -> None:
        """Let the database grow to a number of pages."""
        await self._writer.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())


async def _interrupted(backend: SQLiteBackend, effects: Effects) -> StateError | None:
    """Run until there is no room, and return the error."""
    try:
        await runner_of(effects, backend, asks=False).run_async(1, run_id="the run")
    except StateError as error:
        return error
    return None


async def _check_room_again(backend: SQLiteBackend, effects: Effects, expected: dict[str, Any]) -> None:
    """Go on where there was no room, and compare with a run that had it always."""
    plain = Effects()
    reference = await runner_of(plain, None, asks=False).run_async(1)
    result = await runner_of(effects, backend, asks=False).run_async(1, run_id="the run")
    assert but_totals(result) == expected
    repeated: Counter[str] = effects.done - plain.done
    assert sum(effect not in FAILING for effect in repeated.elements()) <= MOST_AT_ONCE, repeated
    assert 0 <= result.total_cost - reference.total_cost <= repeated.total() * PRICE


def _sizes(pytestconfig: pytest.Config, most: int) -> list[int]:
    chance = random.Random(23)
    return [chance.randint(1, most) for _ in range(1000 if pytestconfig.getoption("--long") else 100)]


async def _expected() -> dict[str, Any]:
    return but_totals(await runner_of(Effects(), None, asks=False).run_async(1))


async def test_a_database_that_may_not_grow_is_a_typed_error(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """At whatever page the database ends, the same store goes on once it may grow."""
    expected, errors = await _expected(), 0
    for trial, pages in enumerate(_sizes(pytestconfig, 14)):
        backend, effects = SmallBackend(tmp_path / f"{trial}.db", durability="fast"), Effects()
        await backend.limit_pages(pages)
        error = await _interrupted(backend, effects)
        if error is not None:
            errors += 1
            assert "run 'the run'" in str(error)
            assert "full" in str(error)
            assert not isinstance(error, StateCorruptedError)
        await backend.limit_pages(_NO_LIMIT)

        await _check_room_again(backend, effects, expected)

        await backend.close()
    assert errors > 5


def test_a_file_that_may_not_grow_is_a_typed_error(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """At whatever size the operating system refuses to write, the run goes on once it may."""
    sizes = [pages * _PAGE_BYTES // 3 for pages in _sizes(pytestconfig, 180)]

    with _SERVER.Pool(1) as pool:
        errors = pool.apply(_fill_files, (tmp_path, sizes))

    assert errors > 5


def _fill_files(folder: Path, sizes: list[int]) -> int:
    """Run in files that may have these sizes, in a process of its own; return how often there was no room."""
    return sum(asyncio.run(_fill(folder / f"{trial}.db", size)) for trial, size in enumerate(sizes))


async def _fill(path: Path, size_bytes: int) -> bool:
    expected, effects = await _expected(), Effects()
    backend = SQLiteBackend(path, durability="fast")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, most))
    try:
        error = await _interrupted(backend, effects)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert error is None or ("run 'the run'" in str(error) and not isinstance(error, StateCorruptedError)), error
    await _check_room_again(backend, effects, expected)
    await backend.close()
    return error is not None
