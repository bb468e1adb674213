"""Checks a SQLite database of runs: what SQLite says of the file, and whether each run and budget is what was written.

It reads the tables by itself, row by row, because a store refuses to open what is damaged,
and one run that cannot be read says nothing of the others. Nothing is changed, and no run is taken over.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from flujo.exceptions import SchemaTooNewError, StateError
from flujo.state.budget_checkup import BudgetCheckup
from flujo.state.findings import Finding
from flujo.state.ownership import Owner
from flujo.state.records import JournalEntry, RunSeal, read_text
from flujo.state.sqlite import APPLICATION_ID, ENTRIES, MIGRATIONS, entry_ids, run_of_entry
from flujo.state.sqlite_writer import BUSY_S

_MOST_COMPLAINTS = 20  # of SQLite about the file


@dataclass(slots=True)
class Checkup:
    """What was found in a database.

    Attributes:
        path: The file.
        schema: The number of its schema.
        runs: How many runs were read.
        entries: How many entries of their journals were read.
        budgets: How many budgets were read.
        findings: What there is to know.
    """

    path: Path
    schema: int = 0
    runs: int = 0
    entries: int = 0
    budgets: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is damaged."""
        return not any(finding.is_damage for finding in self.findings)


def check_database(path: Path) -> Checkup:
    """Check a database of runs.

    Raises:
        StateError: It is a database of something else, was written by a newer flujo, or cannot be opened.
    """
    checkup = Checkup(path)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as connection:
            connection.isolation_level = None
            connection.text_factory = _text
            connection.execute("BEGIN")  # all that follows is seen as it is at one moment
            _check_kind(connection, checkup)
            _check_file(connection, checkup)
            _check_runs(connection, checkup)
            _check_budgets(connection, checkup)
    except sqlite3.OperationalError as error:
        raise StateError(f"{path} cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        checkup.findings.append(Finding(f"the file cannot be read: {error}"))
    return checkup


def _text(content: bytes) -> str:
    """Return text that may be damaged."""
    return content.decode("utf-8", "surrogateescape")


def _check_kind(connection: sqlite3.Connection, checkup: Checkup) -> None:
    (checkup.schema,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise StateError(f"{checkup.path} is no database of runs")
    if checkup.schema > len(MIGRATIONS):
        raise SchemaTooNewError(
            f"{checkup.path} has schema {checkup.schema}, and this flujo knows {len(MIGRATIONS)}; upgrade flujo"
        )
    if checkup.schema < len(MIGRATIONS):
        message = f"schema {checkup.schema} is brought to {len(MIGRATIONS)} when the database is used next"
        checkup.findings.append(Finding(message, is_damage=False))


def _check_file(connection: sqlite3.Connection, checkup: Checkup) -> None:
    complaints = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_MOST_COMPLAINTS})")]
    lines = [line for complaint in complaints if complaint != "ok" for line in str(complaint).splitlines()]
    checkup.findings += [Finding(f"SQLite says: {line}") for line in lines]


def _check_runs(connection: sqlite3.Connection, checkup: Checkup) -> None:
    seen: list[int] = []
    for number, row in _rows(connection, checkup):
        seen.append(number)
        checkup.runs += 1
        checkup.findings += _found_in_run(connection, checkup, number, row)
    if not any(finding.run_id is None and finding.is_damage for finding in checkup.findings):
        strays = {run_of_entry(entry) for (entry,) in connection.execute("SELECT id FROM journal")} - set(seen)
        checkup.findings += [
            Finding(f"there are entries of run number {run}, which is not there") for run in sorted(strays)
        ]


def _check_budgets(connection: sqlite3.Connection, checkup: Checkup) -> None:
    is_table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'budgets'"
    if checkup.schema < len(MIGRATIONS) and connection.execute(is_table).fetchone() is None:
        return  # it was written before there were budgets
    budgets = BudgetCheckup(connection, time.time())
    checkup.findings += budgets.findings()
    checkup.budgets = budgets.count


def _rows(connection: sqlite3.Connection, checkup: Checkup) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of runs by their numbers; those that cannot be read become findings."""
    try:
        numbers = [number for (number,) in connection.execute("SELECT id FROM runs NOT INDEXED")]
    except sqlite3.DatabaseError as error:
        checkup.findings.append(Finding(f"the list of runs cannot be read: {error}"))
        numbers = []
    for number in numbers:
        try:
            cursor = connection.execute(
                "SELECT runs.*, start FROM runs LEFT JOIN starts ON run = id WHERE id = ?", (number,)
            )
            row = cursor.fetchone()
        except sqlite3.DatabaseError as error:
            checkup.findings.append(Finding(f"run number {number} cannot be read: {error}"))
            continue
        if row is not None:
            yield number, dict(zip([column[0] for column in cursor.description], row, strict=True))


def _found_in_run(
    connection: sqlite3.Connection, checkup: Checkup, number: int, row: dict[str, Any]
) -> Iterator[Finding]:
    run_id = read_text(row["run_id"])
    head = count = 0
    try:
        for each in connection.execute(ENTRIES, entry_ids(number)):
            entry = JournalEntry(*each)
            checkup.entries += 1
            count += 1
            head ^= entry.checksum
            if not _is_intact(entry, run_id):
                yield Finding(f"the entry of step {entry.path!a} is damaged", run_id)
    except sqlite3.DatabaseError as error:
        yield Finding(f"its journal cannot be read: {error}", run_id)
    else:
        if count != row["entry_count"]:
            yield Finding(f"it has {count} entries, and {row['entry_count']} were written", run_id)
        elif head != row["head"]:
            yield Finding("its entries are not those that were written", run_id)
    if not _is_sealed(row, run_id):
        yield Finding("its record is damaged: name, status, times, totals or start are not what was written", run_id)
    if row["owner"] is not None:
        yield from _found_of_owner(row, run_id)


def _is_intact(entry: JournalEntry, run_id: str) -> bool:
    with suppress(ValueError, TypeError):  # text that is none, or of another type
        return entry.is_intact(run_id)
    return False


def _is_sealed(row: dict[str, Any], run_id: str) -> bool:
    with suppress(ValueError, TypeError, ArithmeticError):  # text that is none, a number that is none
        name, version = read_text(row["pipeline_name"]), read_text(row["pipeline_version"])
        seal = RunSeal.of(run_id, name, version, row["created_at"], row["start"] or "")
        totals = Decimal(row["total_cost"]), row["total_tokens"]
        made = seal.checksum(row["status"], row["updated_at"], *totals, row["head"], row["entry_count"])
        return bool(made == row["checksum"])
    return False


def _found_of_owner(row: dict[str, Any], run_id: str) -> Iterator[Finding]:
    owner = Owner.parse(row["owner"])
    if owner.text != row["owner"]:
        yield Finding(f"its owner is {row['owner']!a}, which is none", run_id)
        return
    if owner.is_dead():
        yield Finding(f"it belongs to {owner.describe()}, which is dead; it can be resumed", run_id, is_damage=False)
    elif row["lease_until"] < time.time():
        message = f"the lease of {owner.describe()} has run out; it can be resumed"
        yield Finding(message, run_id, is_damage=False)
    else:
        yield Finding(f"it belongs to {owner.describe()}, whose lease holds", run_id, is_damage=False)
