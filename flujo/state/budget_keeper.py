"""What stores that keep budgets have in common: every question is a function that is run in one transaction."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flujo.domain.budgets import Amounts, Budget, BudgetStatus
from flujo.state.budget_tables import BudgetTables
from flujo.state.budgets import BudgetCall, BudgetChange, BudgetOutcome, RunWrite
from flujo.state.ownership import Owner

T = TypeVar("T")

BudgetWork = Callable[[Any, float], T]
"""What one transaction does with a connection, at a moment in seconds since 1970."""


class BudgetKeeper(ABC):
    """A store whose budgets are in the tables of a SQL database; see `BudgetStore`."""

    _tables: BudgetTables

    @property
    def location(self) -> object:
        """The place where the budgets are kept: this store, if there is no other."""
        return self

    @abstractmethod
    async def _in_budgets(self, which: str, work: BudgetWork[T], *, run: RunWrite | None = None) -> T:
        """Run a function in a transaction; `which` says what it is about, `run` what it writes to a run."""

    @abstractmethod
    def _write_with(self, connection: Any, run: RunWrite) -> None:
        """Write to a run in a transaction that has begun."""

    async def declare_budgets(self, budgets: Sequence[Budget]) -> list[BudgetStatus]:
        """Make budgets, or give new limits to those whose declaration has changed."""
        tables = self._tables
        return await self._in_budgets("the budgets", lambda connection, now: tables.declare(connection, budgets, now))

    async def change_budgets(self, change: BudgetChange, run: RunWrite | None = None) -> BudgetOutcome:
        """Settle, reserve, and write to a run."""

        def work(connection: Any, now: float) -> BudgetOutcome:
            outcome = self._tables.change(connection, change, now)
            if run is not None and outcome.is_granted:
                self._write_with(connection, run)
            return outcome

        return await self._in_budgets("the budgets" if run is None else f"run {run.run_id!r}", work, run=run)

    async def renew_calls(self, owner: Owner) -> None:
        """Renew the lease on the calls of an owner."""
        await self._in_budgets("the budgets", lambda connection, now: self._tables.renew(connection, owner, now))

    async def lose_calls(self, run_id: str) -> None:
        """Charge what earlier owners of a run left behind."""
        tables = self._tables
        await self._in_budgets(f"run {run_id!r}", lambda connection, now: tables.lose(connection, run_id, now))

    async def budget_status(self, name: str) -> BudgetStatus:
        """Return how a budget stands in its present window.

        Raises:
            BudgetNotFoundError: There is no such budget.
        """
        tables = self._tables
        return await self._in_budgets("the budgets", lambda connection, now: tables.status(connection, name, now))

    async def list_budgets(self) -> list[BudgetStatus]:
        """Return how all budgets stand, by name."""
        return await self._in_budgets("the budgets", self._tables.list)

    async def budget_calls(self, name: str) -> Sequence[BudgetCall]:
        """Return the calls of a budget that are in flight, wait, or were lost, in the order in which they came.

        Raises:
            BudgetNotFoundError: There is no such budget.
        """
        tables = self._tables
        return await self._in_budgets("the budgets", lambda connection, now: tables.calls(connection, name, now))

    async def set_budget(self, budget: Budget) -> BudgetStatus:
        """Give a budget limits and windows by hand, and make it if it is not there."""
        tables = self._tables
        return await self._in_budgets("the budgets", lambda connection, now: tables.set(connection, budget, now))

    async def top_up_budget(self, name: str, more: Amounts) -> BudgetStatus:
        """Let so much more be used in the present window of a budget.

        Raises:
            BudgetNotFoundError: There is no such budget.
        """
        tables = self._tables
        return await self._in_budgets("the budgets", lambda connection, now: tables.top_up(connection, name, more, now))
