"""What a store of budgets is asked and says, and the protocol of such a store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from flujo.domain.budgets import AmountLimits, Amounts, Budget, BudgetStatus
from flujo.state.backend import StateBackend
from flujo.state.ownership import Owner
from flujo.state.records import JournalWrite


@dataclass(slots=True, frozen=True)
class BudgetRequest:
    """A call that wants to be reserved in budgets, in all of them or in none.

    Attributes:
        call_id: Its identity, the same while it waits.
        budgets: The names of the budgets.
        most: What it can use at the most.
        run_id: The run it belongs to.
        owner: Who makes it.
        is_waiting: Whether it was told to wait before, so that it has a place in the queue.
        looks_for_dead: Whether the store is to find out if those who stand in the way are alive, which takes a while.
    """

    call_id: str
    budgets: tuple[str, ...]
    most: Amounts
    run_id: str
    owner: Owner
    is_waiting: bool = False
    looks_for_dead: bool = True


@dataclass(slots=True, frozen=True)
class Settlement:
    """The end of a call, or a charge that was not reserved.

    Attributes:
        budgets: The names of the budgets.
        call_id: The call that was reserved; it leaves the queue if it still waits. `None` for a charge.
        used: What it used, which is nothing if it was not made; `None` if nobody knows, so that all that was reserved
            is charged.
    """

    budgets: tuple[str, ...]
    call_id: str | None
    used: Amounts | None


@dataclass(slots=True, frozen=True)
class BudgetChange:
    """What changes in budgets, all of it at once: first what has ended, and then a call that wants to begin."""

    settlements: Sequence[Settlement] = ()
    request: BudgetRequest | None = None

    @property
    def budgets(self) -> set[str]:
        """The names of all budgets concerned."""
        names = {name for settlement in self.settlements for name in settlement.budgets}
        return names if self.request is None else names | set(self.request.budgets)


CallState = Literal["reserved", "waiting", "lost"]
"""How a call stands: it is in flight, or waits, or nobody knows what it used and it was charged in full."""


@dataclass(slots=True, frozen=True)
class BudgetCall:
    """A call that a budget knows of.

    Attributes:
        call_id: Its identity.
        run_id: The run it belongs to.
        owner: Who makes it.
        state: How it stands.
        most: What it can use at the most, or was charged if it is lost.
        window: The window it counts for, such as `2026-11-25`; empty if there is only one.
        is_alive: Whether its owner is taken to be making it, or to be waiting; if not, it is charged in full or leaves
            the queue as soon as it stands in the way of another call.
    """

    call_id: str
    run_id: str
    owner: Owner
    state: CallState
    most: Amounts
    window: str
    is_alive: bool


@dataclass(slots=True, frozen=True)
class RunWrite:
    """A change of a run that belongs to a change of budgets: both are stored in one transaction, or neither is."""

    run_id: str
    owner: Owner
    change: JournalWrite


@dataclass(slots=True, frozen=True)
class BudgetRoom:
    """What a budget has for a call.

    Attributes:
        name: What it is called.
        label: How errors speak of the budget.
        left: What is not spent.
        free: What is neither spent nor reserved.
    """

    name: str
    label: str
    left: AmountLimits
    free: AmountLimits


@dataclass(slots=True, frozen=True)
class BudgetOutcome:
    """What came of a change.

    Attributes:
        is_granted: Whether the call that wanted to begin may; `True` if there was none. If not, it waits in the queue
            of its budgets, and nothing of the run was written.
        rooms: What each budget has for the call, if it may not begin.
        ahead: How many calls wait for the same budgets and came before; those beyond a hundred need not be counted.
        breaches: The budgets whose limits are passed.
    """

    is_granted: bool = True
    rooms: tuple[BudgetRoom, ...] = ()
    ahead: int = 0
    breaches: tuple[BudgetStatus, ...] = ()


@runtime_checkable
class BudgetStore(StateBackend, Protocol):
    """A store that keeps budgets too.

    Every method is one transaction, as those of `StateBackend` are. At every moment, in every budget,
    `spent + reserved <= limit` holds, but for charges that were not reserved or came to more than was.
    """

    @property
    def location(self) -> object:
        """What tells the place where the budgets are kept from others; stores of one place have equal ones."""
        ...

    async def declare_budgets(self, budgets: Sequence[Budget]) -> list[BudgetStatus]:
        """Make those budgets that are not there, and give new limits to those whose declaration has changed.

        What was set by hand holds as long as the declaration stays what it was.
        """
        ...

    async def change_budgets(self, change: BudgetChange, run: RunWrite | None = None) -> BudgetOutcome:
        """Settle what has ended, reserve for a call if it fits and it is its turn, and then write to a run.

        Raises:
            RunOwnedError: The run belongs to another owner by now; nothing is changed.
        """
        ...

    async def renew_calls(self, owner: Owner) -> None:
        """Renew the lease on all calls of an owner that are reserved or wait."""
        ...

    async def lose_calls(self, run_id: str) -> None:
        """Charge all calls that earlier owners of a run left behind, as uncertain."""
        ...

    async def budget_status(self, name: str) -> BudgetStatus:
        """Return how a budget stands in its present window.

        Raises:
            BudgetNotFoundError: There is no such budget.
        """
        ...

    async def list_budgets(self) -> list[BudgetStatus]:
        """Return how all budgets stand, by name."""
        ...

    async def budget_calls(self, name: str) -> Sequence[BudgetCall]:
        """Return the calls of a budget that are in flight, wait, or were lost, in the order in which they came.

        Raises:
            BudgetNotFoundError: There is no such budget.
        """
        ...

    async def set_budget(self, budget: Budget) -> BudgetStatus:
        """Give a budget these limits and windows by hand, and make it if it is not there."""
        ...

    async def top_up_budget(self, name: str, more: Amounts) -> BudgetStatus:
        """Let so much more be used in the present window of a budget.

        Raises:
            BudgetNotFoundError: There is no such budget.
        """
        ...
