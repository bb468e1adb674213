"""What a run has to do with the budgets of its store: what is settled, and which of its calls asks next.

Only the first of the calls that wait asks again, whoever ends anywhere, because the queue in the store is the same.
What a call used is settled with the next entry of the run's journal, which has what it gave, or else by itself.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from flujo.domain.budgets import Amounts, Budget, BudgetStatus
from flujo.exceptions import StateError
from flujo.state.budgets import BudgetChange, BudgetOutcome, BudgetRequest, BudgetStore, Settlement
from flujo.state.ownership import Owner
from flujo.utils.background import begin_in_background

_log = logging.getLogger("flujo.budgets")

_POLL_S = 0.01  # of whoever is next
_LONGEST_POLL_S = 1.0
_JOURNAL_S = 0.05  # in which what a call gave is expected to be stored, and its charge with it
_RENEWALS_PER_LEASE = 3


@dataclass(slots=True, eq=False)
class Place:
    """The place of a call among those of its run that wait for the same budgets, in order."""

    _places: "dict[Place, None]"
    has_come: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the call may have come to be the next one."""

    @property
    def is_first(self) -> bool:
        """Whether no other call of the run came before."""
        return next(iter(self._places)) is self

    async def until_turn(self, ahead: int) -> None:
        """Return when the call may have come to be the next one; what ends in other processes does not tell."""
        timeout_s = min(_POLL_S * (1 + ahead), _LONGEST_POLL_S) if self.is_first else None
        try:
            async with asyncio.timeout(timeout_s):
                await self.has_come.wait()
        except TimeoutError:
            return
        self.has_come.clear()


class BudgetDesk:
    """What a run has to do with the budgets of its store.

    Args:
        store: Where the budgets are.
        run_id: The run.
        owner: Who makes its calls.
        on_breach: Called with a message and the budget's name whenever a limit turns out to be passed.
        covered: The budgets in which the step of another run that this one is within counts what is paid here.
        settle_with_run: Stores what is to be settled together with what the run has to store, so that both agree on
            what was paid, whenever the process is killed; `None` if the run stores nothing while it goes on.
    """

    def __init__(
        self,
        store: BudgetStore,
        run_id: str,
        owner: Owner,
        *,
        on_breach: Callable[[str, str], None],
        covered: frozenset[str] = frozenset(),
        settle_with_run: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.store = store
        self.run_id = run_id
        self.owner = owner
        self.covered = covered
        self.statuses: dict[str, BudgetStatus] = {}
        self._waiting: dict[tuple[str, ...], dict[Place, None]] = {}  # in order, by the budgets they wait for
        self._on_breach = on_breach
        self._settle_with_run = settle_with_run
        self._numbers = itertools.count()
        self._pending: list[Settlement] = []
        self._due: asyncio.TimerHandle | None = None
        self._tasks = set[asyncio.Task[None]]()
        self._renewal: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    async def open(self, budgets: Sequence[Budget], *, goes_on: bool) -> None:
        """Declare the budgets of a run, and charge what its earlier owners left behind.

        A limit that is passed already lets nothing start.
        """
        statuses = await self.store.declare_budgets(budgets)
        self.statuses = {status.name: status for status in statuses}
        if goes_on:
            await self.store.lose_calls(self.run_id)
        for status in statuses:
            if status.is_passed:
                reason = f"{status.label} has passed its limit of {status.limit}: {status.spent} spent"
                self._on_breach(reason, status.name)

    async def close(self) -> None:
        """Settle what is to be settled yet."""
        if self._due is not None:
            self._due.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._flush()

    def new_call_id(self) -> str:
        """Return an identity for a call."""
        if self._renewal is None:
            self._renewal = begin_in_background(self._renew())  # cancelled by `close`
        return f"{self.owner.token}-{next(self._numbers)}"

    async def ask(self, request: BudgetRequest) -> BudgetOutcome:
        """Reserve a call, without anything of the run."""
        return await self._change(request)

    async def charge(self, budgets: tuple[str, ...], used: Amounts) -> None:
        """Charge what was not reserved; with the result that was paid for, if that is stored."""
        self._pending.append(Settlement(budgets, None, used))
        if self._settle_with_run is None:
            await self._flush()
        else:
            self._settle_soon()

    def settle(self, settlement: Settlement) -> None:
        """Let a call end."""
        self._pending.append(settlement)
        self._settle_soon()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to be settled."""
        return not self._pending

    def take(self) -> list[Settlement]:
        """Return what is to be settled, to whoever is about to store it."""
        taken, self._pending = self._pending, []
        return taken

    def put_back(self, taken: list[Settlement]) -> None:
        """Take back what could not be stored."""
        self._pending = taken + self._pending

    def note(self, outcome: BudgetOutcome) -> None:
        """Tell of limits that a change has passed, and let the first call that waits ask again."""
        for status in outcome.breaches:
            reason = f"{status.label} passed its limit of {status.limit}: {status.spent} spent"
            self._on_breach(reason, status.name)
        self._let_next_ask()

    @contextmanager
    def queue(self, budgets: tuple[str, ...]) -> Generator[Place]:
        """Give a call a place among those of its run that wait for the same budgets."""
        places = self._waiting.setdefault(budgets, {})
        place = Place(places)
        places[place] = None
        try:
            yield place
        finally:
            del places[place]
            self._let_next_ask()

    def _let_next_ask(self) -> None:
        """Let the first of the calls that wait ask again."""
        for places in self._waiting.values():
            if (first := next(iter(places), None)) is not None:
                first.has_come.set()

    def _settle_soon(self) -> None:
        """See to it that what is pending is stored by itself if nothing of the run is stored soon."""
        if self._due is None:
            delay_s = 0 if self._settle_with_run is None else _JOURNAL_S
            self._due = asyncio.get_running_loop().call_later(delay_s, self._fall_due)

    def _fall_due(self) -> None:
        self._due = None
        if self._pending:
            task = begin_in_background(self._settle(self._settle_with_run or self._settle_alone))  # awaited by `close`
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _flush(self) -> None:
        await self._settle(self._settle_alone)

    async def _settle(self, store: Callable[[], Awaitable[None]]) -> None:
        """Store what is pending; if that fails, the calls stay reserved, which is more than they used."""
        try:
            await store()
        except StateError as error:
            _log.warning("what calls of run %s used is not settled yet: %s", self.run_id, error)

    async def _settle_alone(self) -> None:
        async with self._writing:
            if self._pending:
                await self._change(None)

    async def _change(self, request: BudgetRequest | None) -> BudgetOutcome:
        settlements = self.take()
        try:
            outcome = await self.store.change_budgets(BudgetChange(settlements, request))
        except Exception:  # not if it is cancelled, because then it is stored all the same
            self.put_back(settlements)
            raise
        if settlements:
            self.note(outcome)
        return outcome

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.store.lease_s / _RENEWALS_PER_LEASE)
            try:
                await self.store.renew_calls(self.owner)
            except StateError as error:  # whoever finds them takes them for lost, and they are settled all the same
                _log.warning("the lease of the calls of run %s was not renewed: %s", self.run_id, error)
