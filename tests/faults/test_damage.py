"""A damaged file gives a typed error or the right data, never wrong data, and other runs go on.

By default 300 bits are flipped anywhere, 300 in payloads, 600 in budgets, and 100 logs are cut;
`--long` does ten times as many.
"""

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flujo import Amounts, Budget, BudgetStatus, SQLiteBackend
from flujo.exceptions import StateCorruptedError, StateError
from flujo.state.budgets import BudgetChange, BudgetRequest, Settlement
from flujo.state.checkup import check_database
from flujo.state.ownership import Owner
from tests.faults.stored import break_off, but_totals, run

pytestmark = pytest.mark.timeout(600)

_WRITES = 35
"""So many writes of the run are stored that is gone on with."""


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a run that was broken off, one that was not begun, and two that completed."""
    return asyncio.run(_make(tmp_path_factory.mktemp("intact") / "runs.db"))


async def _make(path: Path) -> Path:
    for run_id in ("done", "also done"):
        backend = SQLiteBackend(path, durability="fast")
        await run(backend, run_id)
        await backend.close()
    await (await break_off(path, "broken off", after=_WRITES)).close()
    return path


@pytest.fixture(scope="module")
def expected(intact: Path) -> dict[str, Any]:
    """What each of the runs comes to."""
    return but_totals(asyncio.run(run(SQLiteBackend(intact), "done")))


def _flipped(intact: Path, copy: Path, bit: int) -> Path:
    data = bytearray(intact.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    copy.write_bytes(data)
    return copy


_ALL = """SELECT run_id, path, kind, payload, start
    FROM runs JOIN starts ON starts.run = runs.id JOIN journal ON journal.id >> 32 = runs.id ORDER BY journal.id"""


def _raw(path: Path) -> list[tuple[bytes, ...]]:
    """Return what SQLite itself reads, whatever its checksums say."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return connection.execute(_ALL).fetchall()


def _outcomes(path: Path, *run_ids: str) -> list[dict[str, Any] | StateError]:
    """Return what runs come to, one after the other, each in a store of its own."""
    return [asyncio.run(_outcome(path, run_id)) for run_id in run_ids]


async def _outcome(path: Path, run_id: str) -> dict[str, Any] | StateError:
    backend = SQLiteBackend(path, durability="fast")
    try:
        return but_totals(await run(backend, run_id))
    except StateError as error:
        return error
    finally:
        await backend.close()


def test_a_flipped_bit_gives_an_error_or_the_right_data(
    tmp_path: Path, pytestconfig: pytest.Config, intact: Path, expected: dict[str, Any]
) -> None:
    """Wherever one bit changes, each run comes to what it should, or says that it cannot, with a typed error."""
    chance = random.Random(11)
    for trial in range(3000 if pytestconfig.getoption("--long") else 300):
        bit = chance.randrange(8 * intact.stat().st_size)
        copy = _flipped(intact, tmp_path / f"{trial}.db", bit)

        outcomes = _outcomes(copy, "broken off", "done", "new")

        assert all(isinstance(outcome, StateError) or outcome == expected for outcome in outcomes), (bit, outcomes)


def test_every_changed_payload_is_detected(
    tmp_path: Path, pytestconfig: pytest.Config, intact: Path, expected: dict[str, Any]
) -> None:
    """A bit that changes what a journal says is a `StateCorruptedError` that names the run; the other runs go on."""
    chance = random.Random(13)
    before, data, places = _raw(intact), intact.read_bytes(), list[int]()
    for *_, payload, beginning in before:
        for text in (payload[:300], beginning[:300]):
            found = data.find(text)
            places += range(found, found + len(text)) if found >= 0 else ()
    detected = 0
    for trial in range(3000 if pytestconfig.getoption("--long") else 300):
        copy = _flipped(intact, tmp_path / f"{trial}.db", 8 * chance.choice(places) + chance.randrange(8))
        after = _raw(copy)
        changed = {old[0].decode() for old, new in zip(before, after, strict=True) if old != new}
        detected += len(changed)
        run_ids = ("broken off", "done", "also done", "new")

        outcomes = dict(zip(run_ids, _outcomes(copy, *run_ids), strict=True))

        for run_id, outcome in outcomes.items():
            if run_id in changed:
                assert isinstance(outcome, StateCorruptedError), outcome
                assert outcome.run_id == run_id
            else:
                assert outcome == expected
    assert detected > 30


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_log_that_lost_its_end_gives_an_earlier_state(
    tmp_path: Path, pytestconfig: pytest.Config, damage: str, expected: dict[str, Any]
) -> None:
    """A write-ahead log that is cut or damaged anywhere holds what came before; the run goes on from there."""
    chance = random.Random(17)
    whole = asyncio.run(_log(tmp_path / "original.db"))
    assert len(whole) > 100_000
    for trial in range(1000 if pytestconfig.getoption("--long") else 100):
        at = chance.randrange(len(whole))
        flipped = bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]
        copy = tmp_path / f"{trial}.db"
        shutil.copy(tmp_path / "original.db", copy)
        Path(f"{copy}-wal").write_bytes(whole[:at] + (b"" if damage == "cut" else flipped))

        (outcome,) = _outcomes(copy, "broken off")

        assert outcome == expected


def _read(path: Path) -> bytes:
    return path.read_bytes()


async def _log(path: Path) -> bytes:
    """Make a database whose runs are in its write-ahead log still, and return that."""
    backend = await break_off(path, "broken off", after=_WRITES)
    log = _read(Path(f"{path}-wal"))
    shutil.copy(path, f"{path}.copy")
    await backend.close()
    shutil.move(f"{path}.copy", path)  # closing has written the log into the file
    return log


@pytest.mark.parametrize("size", [0, 1, 50, 99, 100, 4095, 4096, 8192, 10_000])
def test_a_file_that_was_cut_is_no_other_data(
    tmp_path: Path, size: int, intact: Path, expected: dict[str, Any]
) -> None:
    """A database that lost its end, or all of it, gives a typed error or begins anew."""
    copy = tmp_path / "runs.db"
    copy.write_bytes(intact.read_bytes()[:size])

    outcomes = _outcomes(copy, "broken off", "done")

    assert all(isinstance(outcome, StateError) or outcome == expected for outcome in outcomes), outcomes


def test_a_file_of_noise_is_refused(tmp_path: Path) -> None:
    """What is no database is a `StateCorruptedError`, and stays as it is."""
    noise = random.Random(19).randbytes(20_000)
    path = tmp_path / "runs.db"
    path.write_bytes(noise)

    (refused,) = _outcomes(path, "new")

    assert isinstance(refused, StateCorruptedError)
    assert path.read_bytes() == noise


# Budgets

_BUDGET_TABLES = (
    "SELECT id, name, limits, declared, per, timezone, checksum FROM budgets ORDER BY id",
    "SELECT budget, period, topped_up, spent, reserved, uncertain, checksum FROM budget_windows ORDER BY budget",
    "SELECT call_id, budget, period, run_id, state, amount, checksum FROM budget_calls ORDER BY id",
)


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two budgets, each with calls that ended, were lost, are in flight and wait."""
    return asyncio.run(_spend(tmp_path_factory.mktemp("spent") / "runs.db"))


async def _spend(path: Path) -> Path:
    backend, owner = SQLiteBackend(path, durability="fast"), Owner(host="elsewhere", pid=7)
    await backend.declare_budgets([Budget("team", usd=5, tokens=900), Budget("day", usd=7, per="day")])
    most = Amounts(Decimal("1.25"), 100, 1)
    for run_id in ("ended", "lost", "in flight", "also in flight", "waiting"):
        await backend.change_budgets(
            BudgetChange(request=BudgetRequest(f"call of {run_id}", ("team", "day"), most, run_id, owner))
        )
    await backend.change_budgets(
        BudgetChange([Settlement(("team", "day"), "call of ended", Amounts(Decimal("1.125"), 70, 1))])
    )
    await backend.lose_calls("lost")
    await backend.top_up_budget("team", Amounts(tokens=5))
    await backend.close()
    return path


def _raw_budgets(path: Path) -> list[list[tuple[bytes | int, ...]]]:
    """Return what SQLite itself reads of budgets, but for owners and leases, which have no checksums."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return [connection.execute(statement).fetchall() for statement in _BUDGET_TABLES]


async def _looked_at(path: Path) -> list[BudgetStatus | StateError]:
    """Return how each budget stands, each looked at in a store of its own."""
    found = list[BudgetStatus | StateError]()
    for name in ("team", "day"):
        backend = SQLiteBackend(path, durability="fast")
        try:
            found.append(await backend.budget_status(name))
        except StateError as error:
            found.append(error)
        finally:
            await backend.close()
    return found


def test_a_flipped_bit_does_not_change_what_was_spent(tmp_path: Path, pytestconfig: pytest.Config, spent: Path) -> None:
    """Wherever one bit changes, a budget stands as it did, or says that it cannot be read, with a typed error."""
    chance = random.Random(23)
    before = asyncio.run(_looked_at(spent))
    assert all(isinstance(status, BudgetStatus) for status in before)
    for trial in range(3000 if pytestconfig.getoption("--long") else 300):
        bit = chance.randrange(8 * spent.stat().st_size)
        copy = _flipped(spent, tmp_path / f"{trial}.db", bit)

        after = asyncio.run(_looked_at(copy))

        assert all(isinstance(new, StateError) or new == old for old, new in zip(before, after, strict=True)), bit


def test_every_changed_row_of_a_budget_is_found(tmp_path: Path, pytestconfig: pytest.Config, spent: Path) -> None:
    """A bit that changes what a row of a budget says is found by a check of the file."""
    chance = random.Random(29)
    assert check_database(spent).findings == []
    before, data, places = _raw_budgets(spent), spent.read_bytes(), list[int]()
    for row in (row for table in before for row in table):
        for value in row:
            if isinstance(value, bytes) and len(value) > 3:
                found = data.rfind(value)  # not in the schema, which comes first
                places += range(found, found + len(value)) if found >= 0 else ()
    detected = 0
    for trial in range(3000 if pytestconfig.getoption("--long") else 300):
        copy = _flipped(spent, tmp_path / f"{trial}.db", 8 * chance.choice(places) + chance.randrange(8))

        checkup = check_database(copy)

        if _raw_budgets(copy) != before:
            assert not checkup.is_healthy
            detected += 1
    assert detected > 100
