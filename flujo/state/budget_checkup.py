"""Checks the budgets of a SQLite database: whether their rows are what was written, and whether the amounts add up."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flujo.domain.budgets import Amounts
from flujo.exceptions import StateCorruptedError, StateError
from flujo.state.budget_tables import BudgetTables, read_amounts, row_checksum
from flujo.state.budgets import BudgetCall
from flujo.state.findings import Finding
from flujo.state.ownership import Owner
from flujo.state.records import read_text

_NOTHING = Amounts()

_BUDGETS = "SELECT id, name, limits, declared, per, timezone, checksum FROM budgets ORDER BY id"
_WINDOWS = "SELECT budget, period, topped_up, spent, reserved, uncertain, checksum FROM budget_windows"
_CALLS = "SELECT call_id, budget, period, run_id, state, amount, checksum, owner FROM budget_calls ORDER BY id"


@dataclass(slots=True)
class _Sums:
    """What the calls of one window come to."""

    reserved: Amounts = _NOTHING
    lost: Amounts = _NOTHING


@dataclass(slots=True)
class BudgetCheckup:
    """The check of the budgets of a database.

    Args:
        connection: The database, within a transaction.
        now: The present moment, in seconds since 1970.

    Attributes:
        count: How many budgets were read.
    """

    connection: sqlite3.Connection
    now: float
    count: int = 0
    _names: dict[int, str] = field(default_factory=dict[int, str])
    _sums: dict[tuple[int, str], _Sums] = field(default_factory=dict[tuple[int, str], _Sums])
    _damaged: set[int] = field(default_factory=set[int])

    def findings(self) -> Iterator[Finding]:
        """Yield what there is to know."""
        try:
            yield from self._found_in_budgets()
            yield from self._found_in_calls()
            yield from self._found_in_windows()
            yield from self._notes()
        except sqlite3.DatabaseError as error:
            yield Finding(f"the budgets cannot be read: {error}")

    def _found_in_budgets(self) -> Iterator[Finding]:
        for number, *values, checksum in self.connection.execute(_BUDGETS):
            self.count += 1
            self._names[number] = name = read_text(str(values[0]))
            if not _is_intact(values, checksum):
                yield self._damage(number, "its record is damaged: name, limits or window are not what was written")
            elif not name:
                yield self._damage(number, "it has no name")

    def _found_in_calls(self) -> Iterator[Finding]:
        for call_id, number, period, run_id, state, amount, checksum, owner in self.connection.execute(_CALLS):
            what = f"its call {call_id!a} of run {read_text(str(run_id))!r}"
            if number not in self._names:
                yield Finding(f"there is a call of budget number {number}, which is not there")
            elif not _is_intact((call_id, number, period, run_id, state, amount), checksum):
                yield self._damage(number, f"{what} is damaged")
            elif Owner.parse(owner).text != owner:
                yield self._damage(number, f"{what} has owner {owner!a}, which is none")
            elif (most := _amounts(amount)) is None:
                yield self._damage(number, f"{what} has amount {amount!a}, which is none")
            else:
                sums = self._sums.setdefault((number, period), _Sums())
                if state == "reserved":
                    sums.reserved += most
                elif state == "lost":
                    sums.lost += most

    def _found_in_windows(self) -> Iterator[Finding]:
        """Yield windows that are damaged, or whose amounts do not add up; what is damaged is not added."""
        seen = set[tuple[int, str]]()
        for number, *values, checksum in self.connection.execute(_WINDOWS):
            period = values[0]
            seen.add((number, period))
            if number not in self._names:
                yield Finding(f"something was spent of budget number {number}, which is not there")
            elif not _is_intact((number, *values), checksum):
                yield self._damage(number, f"what was spent{_within(period)} is damaged")
            elif number not in self._damaged:
                yield from self._found_in_amounts(number, period, values[2:])
        for number, period in self._sums.keys() - seen:
            if number not in self._damaged and self._sums[number, period] != _Sums():
                yield self._damage(number, f"it has calls{_within(period)}, and nothing of what was reserved for them")

    def _found_in_amounts(self, number: int, period: str, texts: Sequence[str]) -> Iterator[Finding]:
        spent, reserved, uncertain = map(_amounts, texts)
        if spent is None or reserved is None or uncertain is None:
            yield self._damage(number, f"what was spent{_within(period)} is no amount")
            return
        sums = self._sums.get((number, period), _Sums())
        if reserved != sums.reserved:
            message = f"{reserved} is reserved{_within(period)}, and for its calls in flight it is {sums.reserved}"
            yield self._damage(number, message)
        if not _holds(uncertain, sums.lost):
            message = f"{uncertain} is uncertain{_within(period)}, and for its lost calls alone it is {sums.lost}"
            yield self._damage(number, message)
        if not _holds(spent, uncertain):
            yield self._damage(number, f"{uncertain} is uncertain{_within(period)}, and only {spent} was spent")

    def _notes(self) -> Iterator[Finding]:
        """Yield what is worth knowing of budgets that are whole."""
        tables = BudgetTables()
        for number, name in self._names.items():
            if number in self._damaged:
                continue
            try:
                status = tables.status(self.connection, name, self.now)
                calls = tables.calls(self.connection, name, self.now)
            except (StateError, ArithmeticError, ValueError, LookupError) as error:  # an index may be damaged
                yield self._damage(number, str(error))
                continue
            if status.is_passed:
                message = f"it passed its limit of {status.limit}{_within(status.window)}: {status.spent} spent"
                yield Finding(message, budget=name, is_damage=False)
            yield from _left_behind(name, calls)

    def _damage(self, number: int, message: str) -> Finding:
        self._damaged.add(number)
        return Finding(message, budget=self._names[number])


def _left_behind(name: str, calls: Sequence[BudgetCall]) -> Iterator[Finding]:
    """Yield what is reserved for owners that are dead, or whose lease has run out."""
    amounts = dict[tuple[str, str], Amounts]()
    for call in calls:
        if call.state == "reserved" and not call.is_alive:
            owner = call.owner.describe()
            who = f"{owner}, which is dead" if call.owner.is_dead() else f"{owner}, whose lease has run out"
            key = (call.run_id, who)
            amounts[key] = amounts.get(key, _NOTHING) + call.most
    for (run_id, who), amount in amounts.items():
        message = (
            f"{amount} is reserved for run {run_id!r} by {who}; it is charged, as uncertain, when it stands in the way "
            "of another call or the run goes on"
        )
        yield Finding(message, budget=name, is_damage=False)


def _is_intact(values: Sequence[Any], checksum: object) -> bool:
    return row_checksum(*values) == checksum


def _amounts(text: str) -> Amounts | None:
    try:
        return read_amounts(text)
    except StateCorruptedError:
        return None


def _holds(amount: Amounts, part: Amounts) -> bool:
    """Tell whether an amount is no less than a part of it."""
    rest = amount - part
    return rest.usd >= 0 and rest.tokens >= 0 and rest.requests >= 0 and rest.seconds >= 0


def _within(period: str) -> str:
    return f" in {period}" if period else ""
