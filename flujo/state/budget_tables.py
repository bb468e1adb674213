"""The budgets of a store as tables of a SQL database, the same in SQLite and in Postgres.

A budget has a row, every window of it that was used has one, and so has every call in every budget that it is
reserved in or waits for. Amounts are text, because no column of every database is exact.
Whoever changes a budget has its row for himself until the transaction ends; several are taken in order.
Rows carry checksums, because a database does not tell of a flipped bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from flujo.domain.budgets import AmountLimits, Amounts, Budget, BudgetStatus, window_of
from flujo.exceptions import BudgetNotFoundError, StateCorruptedError
from flujo.state.budgets import (
    BudgetCall,
    BudgetChange,
    BudgetOutcome,
    BudgetRequest,
    BudgetRoom,
    CallState,
    Settlement,
)
from flujo.state.ownership import Owner
from flujo.state.records import checksum_of, read_text, stored_text

_NOTHING = Amounts()
_NO_LIMIT = "-"
_MOST_COUNTED = 100  # calls that wait

_TABLES = (
    """CREATE TABLE {budgets} (
        id {identity},
        name TEXT NOT NULL UNIQUE,
        limits TEXT NOT NULL,
        declared TEXT NOT NULL,
        per TEXT NOT NULL,
        timezone TEXT NOT NULL,
        checksum {integer} NOT NULL
    ){strict}""",
    """CREATE TABLE {budget_windows} (
        budget {integer} NOT NULL REFERENCES {budgets} (id),
        period TEXT NOT NULL,
        topped_up TEXT NOT NULL,
        spent TEXT NOT NULL,
        reserved TEXT NOT NULL,
        uncertain TEXT NOT NULL,
        checksum {integer} NOT NULL,
        PRIMARY KEY (budget, period)
    ){strict}""",
    """CREATE TABLE {budget_calls} (
        id {identity},
        call_id TEXT NOT NULL,
        budget {integer} NOT NULL REFERENCES {budgets} (id),
        period TEXT NOT NULL,
        run_id TEXT NOT NULL,
        owner TEXT NOT NULL,
        lease_until {real} NOT NULL,
        state TEXT NOT NULL,
        amount TEXT NOT NULL,
        checksum {integer} NOT NULL,
        UNIQUE (call_id, budget)
    ){strict}""",
    "CREATE INDEX {budget_calls}_in_queue ON {budget_calls} (budget, id) WHERE state = 'waiting'",
    "CREATE INDEX {budget_calls}_in_flight ON {budget_calls} (budget, owner) WHERE state = 'reserved'",
)


@dataclass(slots=True)
class _Window:
    """What was used of a budget in one window."""

    period: str
    topped_up: Amounts = _NOTHING
    spent: Amounts = _NOTHING
    reserved: Amounts = _NOTHING
    uncertain: Amounts = _NOTHING
    is_changed: bool = False

    @property
    def texts(self) -> tuple[str, str, str, str]:
        return written(self.topped_up), written(self.spent), written(self.reserved), written(self.uncertain)


@dataclass(slots=True)
class _Account:
    """A budget, for as long as a transaction has it."""

    number: int
    name: str
    limits: AmountLimits
    per: str | None
    timezone: str
    now: float
    windows: dict[str, _Window] = field(default_factory=dict[str, _Window])

    @property
    def present(self) -> str:
        """The present window."""
        return window_of(self.per, self.timezone, datetime.fromtimestamp(self.now, UTC))

    def status(self, window: _Window) -> BudgetStatus:
        limit = self.limits.plus(window.topped_up)
        return BudgetStatus(
            self.name,
            limit,
            window.spent,
            window.reserved,
            window.uncertain,
            self.per,
            self.timezone,
            window.period,
            window.topped_up,
        )


@dataclass(slots=True, frozen=True)
class BudgetTables:
    """The statements for the tables of budgets, as one kind of database takes them.

    Args:
        prefix: What the names of tables begin with.
        mark: What stands for a value.
        locks: What follows a `SELECT` to keep others from the rows until the transaction ends.
        lease_s: Seconds for which an owner that cannot be asked is taken to be alive.
    """

    prefix: str = ""
    mark: str = "?"
    locks: str = ""
    lease_s: float = 15.0

    @staticmethod
    def migration(prefix: str = "", *, is_postgres: bool = False) -> tuple[str, ...]:
        """Return the statements that make the tables."""
        kinds = {
            "identity": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY" if is_postgres else "INTEGER PRIMARY KEY",
            "integer": "BIGINT" if is_postgres else "INTEGER",
            "real": "DOUBLE PRECISION" if is_postgres else "REAL",
            "strict": "" if is_postgres else " STRICT",
        }
        names = {name: prefix + name for name in ("budgets", "budget_windows", "budget_calls")}
        return tuple(statement.format(**names, **kinds) for statement in _TABLES)

    # What is asked

    def declare(self, connection: Any, budgets: Sequence[Budget], now: float) -> list[BudgetStatus]:
        """Make budgets, or give new limits to those whose declaration has changed."""
        return [self._declare(connection, budget, now) for budget in sorted(budgets, key=lambda each: each.name)]

    def _declare(self, connection: Any, budget: Budget, now: float) -> BudgetStatus:
        declared = _declaration(budget)
        row = self._row(connection, budget.name)
        if row is None or row[3] not in (declared, ""):
            return self._put(connection, budget, declared, now)
        if row[3] == "":  # it was set by hand before any program declared it
            self._save_budget(connection, (*row[1:3], declared, *row[4:6]))
        account = _account(budget.name, row, now)
        return account.status(self._window(connection, account, account.present))

    def set(self, connection: Any, budget: Budget, now: float) -> BudgetStatus:
        """Give a budget limits by hand."""
        row = self._row(connection, budget.name)
        return self._put(connection, budget, "" if row is None else row[3], now)

    def _put(self, connection: Any, budget: Budget, declared: str, now: float) -> BudgetStatus:
        values = (stored_text(budget.name), _written_limits(budget.limits), declared, budget.per or "", budget.timezone)
        self._save_budget(connection, values)
        return self.status(connection, budget.name, now)

    def _save_budget(self, connection: Any, values: tuple[str, ...]) -> None:
        self._execute(connection, _UPSERT_BUDGET, (*values, row_checksum(*values)))

    def top_up(self, connection: Any, name: str, more: Amounts, now: float) -> BudgetStatus:
        """Let so much more be used in the present window."""
        account = self._accounts(connection, {name}, now)[name]
        window = self._window(connection, account, account.present)
        window.topped_up += more
        window.is_changed = True
        self._save(connection, [account])
        return account.status(window)

    def status(self, connection: Any, name: str, now: float) -> BudgetStatus:
        """Return how a budget stands."""
        account = self._accounts(connection, {name}, now, locks=False)[name]
        return account.status(self._window(connection, account, account.present))

    def list(self, connection: Any, now: float) -> list[BudgetStatus]:
        """Return how all budgets stand, by name."""
        names = [read_text(name) for (name,) in self._execute(connection, "SELECT name FROM {budgets}").fetchall()]
        return [self.status(connection, name, now) for name in sorted(names)]

    def calls(self, connection: Any, name: str, now: float) -> Sequence[BudgetCall]:
        """Return the calls that are in flight, wait, or were lost, in order."""
        account = self._accounts(connection, {name}, now, locks=False)[name]
        rows = self._execute(
            connection,
            "SELECT call_id, budget, period, run_id, state, amount, checksum, owner, lease_until FROM {budget_calls} "
            "WHERE budget = ? ORDER BY id",
            (account.number,),
        ).fetchall()
        return [_listed(row, now) for row in rows]

    def change(self, connection: Any, change: BudgetChange, now: float) -> BudgetOutcome:
        """Settle what has ended, and reserve for a call if it fits and it is its turn."""
        accounts = self._accounts(connection, change.budgets, now)
        for settlement in change.settlements:
            self._settle(connection, settlement, accounts)
        settled = {name: accounts[name] for settlement in change.settlements for name in settlement.budgets}
        breaches = tuple(self._breaches(connection, settled.values()))
        outcome = BudgetOutcome()
        if change.request is not None:
            wanted = [accounts[name] for name in sorted(change.request.budgets)]
            outcome = self._reserve(connection, change.request, wanted)
        self._save(connection, accounts.values())
        return replace(outcome, breaches=breaches)

    def renew(self, connection: Any, owner: Owner, now: float) -> None:
        """Renew the lease on the calls of an owner."""
        self._execute(
            connection,
            "UPDATE {budget_calls} SET lease_until = ? WHERE owner = ? AND state <> 'lost'",
            (now + self.lease_s, owner.text),
        )

    def lose(self, connection: Any, run_id: str, now: float) -> None:
        """Charge what earlier owners of a run left behind."""
        rows = self._execute(
            connection,
            "SELECT DISTINCT name FROM {budget_calls} AS calls JOIN {budgets} AS budgets ON budgets.id = budget "
            "WHERE run_id = ? AND state <> 'lost'",
            (stored_text(run_id),),
        ).fetchall()
        accounts = self._accounts(connection, {read_text(name) for (name,) in rows}, now)
        for account in accounts.values():
            self._lose(connection, account, "run_id = ?", stored_text(run_id))
        self._save(connection, accounts.values())

    # Reserving

    def _reserve(self, connection: Any, request: BudgetRequest, accounts: Sequence[_Account]) -> BudgetOutcome:
        place = self._place(connection, request) if request.is_waiting else None
        ahead, rooms = self._ahead(connection, place, accounts), self._rooms(connection, accounts)
        if (ahead or not _fits(rooms, request)) and request.looks_for_dead and self._bury(connection, accounts):
            ahead, rooms = self._ahead(connection, place, accounts), self._rooms(connection, accounts)
        is_granted = not ahead and _fits(rooms, request)
        if is_granted or place is None:
            state = "reserved" if is_granted else "waiting"
            self._note(connection, request, accounts, state, has_place=place is not None)
        if not is_granted:
            return BudgetOutcome(is_granted=False, rooms=rooms, ahead=ahead)
        for account in accounts:
            window = self._window(connection, account, account.present)
            window.reserved += request.most
            window.is_changed = True
        return BudgetOutcome()

    def _place(self, connection: Any, request: BudgetRequest) -> int | None:
        """Return the place of a call in the queue; `None` if it was taken out because its lease had run out."""
        row = self._execute(
            connection,
            "SELECT min(id) FROM {budget_calls} WHERE call_id = ? AND state = 'waiting'",
            (request.call_id,),
        ).fetchone()
        return None if row[0] is None else int(row[0])

    def _ahead(self, connection: Any, place: int | None, accounts: Sequence[_Account]) -> int:
        """Return how many calls wait for the same budgets that came before, as far as it is worth counting."""
        values: tuple[int, ...] = tuple(account.number for account in accounts)
        marks, before = ", ".join("?" * len(values)), ""
        if place is not None:
            values, before = (*values, place), "AND id < ?"
        statement = (
            "SELECT count(*) FROM (SELECT DISTINCT call_id FROM {budget_calls} "
            f"WHERE state = 'waiting' AND budget IN ({marks}) {before} LIMIT {_MOST_COUNTED}) AS waiting"
        )
        return int(self._execute(connection, statement, values).fetchone()[0])

    def _rooms(self, connection: Any, accounts: Sequence[_Account]) -> tuple[BudgetRoom, ...]:
        statuses = [account.status(self._window(connection, account, account.present)) for account in accounts]
        return tuple(BudgetRoom(each.name, each.label, each.limit.less(each.spent), each.left) for each in statuses)

    def _note(
        self, connection: Any, request: BudgetRequest, accounts: Sequence[_Account], state: str, *, has_place: bool
    ) -> None:
        """Let a call have a row for each budget, which it has already if it has a place in the queue."""
        amount, run_id = written(request.most), stored_text(request.run_id)
        for account in accounts:
            period = account.present
            made = row_checksum(request.call_id, account.number, period, run_id, state, amount)
            lease = account.now + self.lease_s
            if has_place:
                self._execute(
                    connection,
                    "UPDATE {budget_calls} SET state = ?, period = ?, amount = ?, checksum = ?, lease_until = ? "
                    "WHERE call_id = ? AND budget = ?",
                    (state, period, amount, made, lease, request.call_id, account.number),
                )
            else:
                self._execute(
                    connection,
                    "INSERT INTO {budget_calls} "
                    "(call_id, budget, period, run_id, owner, lease_until, state, amount, checksum) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(request.call_id, account.number, period, run_id, request.owner.text, lease),
                        *(state, amount, made),
                    ),
                )

    def _bury(self, connection: Any, accounts: Sequence[_Account]) -> bool:
        """Charge the calls of owners that are dead, and take them out of the queue; tell whether there were any."""
        found = False
        for account in accounts:
            rows = self._execute(
                connection,
                "SELECT owner, max(lease_until) FROM {budget_calls} "
                "WHERE budget = ? AND state <> 'lost' GROUP BY owner",
                (account.number,),
            ).fetchall()
            for owner, lease_until in rows:
                if lease_until < account.now or Owner.parse(owner).is_dead():
                    found = True
                    self._lose(connection, account, "owner = ?", owner)
        return found

    def _lose(self, connection: Any, account: _Account, which: str, value: str) -> None:
        """Charge calls in flight at their reservation, and drop those that wait."""
        rows = self._execute(
            connection,
            "SELECT call_id, budget, period, run_id, state, amount, checksum FROM {budget_calls} "
            f"WHERE budget = ? AND {which} AND state = 'reserved'",
            (account.number, value),
        ).fetchall()
        for call in map(_Call.read, rows):
            self._lose_call(connection, account, call)
        self._execute(
            connection,
            f"DELETE FROM {{budget_calls}} WHERE budget = ? AND {which} AND state = 'waiting'",
            (account.number, value),
        )

    def _lose_call(self, connection: Any, account: _Account, call: "_Call") -> None:
        """Charge a call at its reservation; its row stays, so that whoever made it may still say what it used."""
        window = self._window(connection, account, call.period)
        window.reserved -= call.amount
        window.spent += call.amount
        window.uncertain += call.amount
        window.is_changed = True
        lost = call.sum(state="lost")
        self._execute(
            connection,
            "UPDATE {budget_calls} SET state = 'lost', checksum = ? WHERE call_id = ? AND budget = ?",
            (lost, call.call_id, call.budget),
        )

    # Settling

    def _settle(self, connection: Any, settlement: Settlement, accounts: dict[str, _Account]) -> None:
        if settlement.call_id is None:
            assert settlement.used is not None, "what is charged is known"
            for name in settlement.budgets:
                window = self._window(connection, accounts[name], accounts[name].present)
                window.spent += settlement.used
                window.is_changed = True
            return
        by_number = {account.number: account for account in accounts.values()}
        rows = self._execute(
            connection,
            "SELECT call_id, budget, period, run_id, state, amount, checksum FROM {budget_calls} WHERE call_id = ?",
            (settlement.call_id,),
        ).fetchall()
        for call in map(_Call.read, rows):
            if call.state != "waiting":
                self._settle_call(self._window(connection, by_number[call.budget], call.period), call, settlement.used)
        if rows:
            self._execute(connection, "DELETE FROM {budget_calls} WHERE call_id = ?", (settlement.call_id,))

    def _settle_call(self, window: _Window, call: "_Call", used: Amounts | None) -> None:
        if call.state == "lost":
            window.spent -= call.amount
            window.uncertain -= call.amount
        else:
            window.reserved -= call.amount
        window.spent += call.amount if used is None else used
        if used is None:
            window.uncertain += call.amount
        window.is_changed = True

    def _breaches(self, connection: Any, accounts: Iterable[_Account]) -> Iterator[BudgetStatus]:
        for account in accounts:
            status = account.status(self._window(connection, account, account.present))
            if status.is_passed:
                yield status

    # Rows

    def _accounts(
        self, connection: Any, names: Iterable[str], now: float, *, locks: bool = True
    ) -> dict[str, _Account]:
        """Return budgets by name, for this transaction alone.

        Raises:
            BudgetNotFoundError: One of them is not there.
        """
        stored = {stored_text(name): name for name in names}
        if not stored:
            return {}
        marks = ", ".join("?" * len(stored))
        statement = f"{_SELECT} WHERE name IN ({marks}) ORDER BY id {self.locks if locks else ''}"
        found = dict[str, _Account]()
        for row in self._execute(connection, statement, tuple(stored)).fetchall():
            name = stored[_intact(row)[1]]
            found[name] = _account(name, row, now)
        for name in stored.values():
            if name not in found:
                raise BudgetNotFoundError(f"no budget {name!r} is stored here", name=name)
        return found

    def _row(self, connection: Any, name: str) -> tuple[Any, ...] | None:
        statement = f"{_SELECT} WHERE name = ? {self.locks}"
        row = self._execute(connection, statement, (stored_text(name),)).fetchone()
        return None if row is None else _intact(row)

    def _window(self, connection: Any, account: _Account, period: str) -> _Window:
        window = account.windows.get(period)
        if window is None:
            row = self._execute(
                connection,
                "SELECT topped_up, spent, reserved, uncertain, checksum FROM {budget_windows} "
                "WHERE budget = ? AND period = ?",
                (account.number, period),
            ).fetchone()
            window = _Window(period) if row is None else _read_window(account, period, row)
            account.windows[period] = window
        return window

    def _save(self, connection: Any, accounts: Iterable[_Account]) -> None:
        for account in accounts:
            for window in account.windows.values():
                if window.is_changed:
                    values = (account.number, window.period, *window.texts)
                    self._execute(connection, _UPSERT_WINDOW, (*values, row_checksum(*values)))

    def _execute(self, connection: Any, statement: str, values: tuple[Any, ...] = ()) -> Any:
        return connection.execute(self._dialect(statement), values)

    def _dialect(self, statement: str) -> str:
        made = _DIALECTS.get((statement, self.prefix))
        if made is None:
            names = {name: self.prefix + name for name in ("budgets", "budget_windows", "budget_calls")}
            made = _DIALECTS[statement, self.prefix] = statement.format(**names).replace("?", self.mark)
        return made


_DIALECTS: dict[tuple[str, str], str] = {}  # statements as databases take them; there are few

_SELECT = "SELECT id, name, limits, declared, per, timezone, checksum FROM {budgets}"

_UPSERT_BUDGET = (
    "INSERT INTO {budgets} (name, limits, declared, per, timezone, checksum) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (name) DO UPDATE SET limits = excluded.limits, declared = excluded.declared, per = excluded.per, "
    "timezone = excluded.timezone, checksum = excluded.checksum"
)

_UPSERT_WINDOW = (
    "INSERT INTO {budget_windows} (budget, period, topped_up, spent, reserved, uncertain, checksum) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (budget, period) DO UPDATE SET topped_up = excluded.topped_up, "
    "spent = excluded.spent, reserved = excluded.reserved, uncertain = excluded.uncertain, "
    "checksum = excluded.checksum"
)


@dataclass(slots=True, frozen=True)
class _Call:
    """A call that has a row in a budget."""

    call_id: str
    budget: int
    period: str
    run_id: str
    state: CallState
    amount: Amounts

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> "_Call":
        call_id, budget, period, run_id, state, amount, checksum = row
        if checksum != row_checksum(call_id, budget, period, run_id, state, amount):
            raise _damaged(f"call {call_id!r} of a budget")
        return cls(call_id, budget, period, run_id, state, read_amounts(amount))

    def sum(self, *, state: str) -> int:
        """Return the checksum of its row in a state."""
        return row_checksum(self.call_id, self.budget, self.period, self.run_id, state, written(self.amount))


def _listed(row: tuple[Any, ...], now: float) -> BudgetCall:
    *columns, owner, lease_until = row
    call, made_by = _Call.read(tuple(columns)), Owner.parse(owner)
    is_alive = call.state != "lost" and lease_until >= now and not made_by.is_dead()
    return BudgetCall(
        call.call_id, read_text(call.run_id), made_by, call.state, call.amount, call.period, is_alive=is_alive
    )


def _account(name: str, row: tuple[Any, ...], now: float) -> _Account:
    number, _, limits, _, per, timezone, _ = row
    return _Account(number, name, _read_limits(limits), per or None, timezone, now)


def _intact(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the row of a budget.

    Raises:
        StateCorruptedError: It is not what was written.
    """
    if row[-1] != row_checksum(*row[1:-1]):
        raise _damaged(f"budget {row[1]!r}")
    return row


def _read_window(account: _Account, period: str, row: tuple[Any, ...]) -> _Window:
    *texts, checksum = row
    if checksum != row_checksum(account.number, period, *texts):
        raise _damaged(f"what was spent of budget {account.name!r}")
    topped_up, spent, reserved, uncertain = map(read_amounts, texts)
    return _Window(period, topped_up, spent, reserved, uncertain)


def _fits(rooms: Iterable[BudgetRoom], request: BudgetRequest) -> bool:
    return all(room.free.allow(request.most) for room in rooms)


def _declaration(budget: Budget) -> str:
    return f"{_written_limits(budget.limits)} {budget.per or _NO_LIMIT} {budget.timezone}"


def _damaged(what: str) -> StateCorruptedError:
    return StateCorruptedError(f"{what} is damaged in the store", run_id=None)


def row_checksum(*values: object) -> int:
    """Return the checksum of a row with these values."""
    return checksum_of("\0".join(map(str, values)))


def written(amounts: Amounts) -> str:
    """Return amounts as one text: dollars, tokens, requests, seconds."""
    return f"{amounts.usd} {amounts.tokens} {amounts.requests} {amounts.seconds}"


def read_amounts(text: str) -> Amounts:
    """Return the amounts that `written` wrote."""
    if text == _WRITTEN_NOTHING:
        return _NOTHING
    try:
        usd, tokens, requests, seconds = text.split(" ")
        return Amounts(Decimal(usd), int(tokens), int(requests), Decimal(seconds))
    except (ValueError, InvalidOperation) as error:
        raise _damaged(f"the amount {text!r} of a budget") from error


_WRITTEN_NOTHING = written(_NOTHING)


def _written_limits(limits: AmountLimits) -> str:
    given = (limits.usd, limits.tokens, limits.requests, limits.seconds)
    return " ".join([_NO_LIMIT if limit is None else str(limit) for limit in given])


def _read_limits(text: str) -> AmountLimits:
    usd, tokens, requests, seconds = [None if part == _NO_LIMIT else part for part in text.split(" ")]
    return AmountLimits(
        None if usd is None else Decimal(usd),
        None if tokens is None else int(tokens),
        None if requests is None else int(requests),
        None if seconds is None else Decimal(seconds),
    )
