"""The budgets that the calls of a run share with other runs, in other tasks, threads and processes.

A call is reserved in the store, in all budgets at once, after it is reserved in the limits of its run.
If only what others have reserved stands in the way it waits in a queue that is kept in the store as well, so that
whoever came first is served first, wherever they are; of the calls of one run only the first one asks again.
What a call used is settled with the next entry of the run's journal, which has what it gave, or else by itself.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal

from flujo.domain.budgets import AmountLimits, Amounts, Budget, BudgetStatus, in_milliseconds
from flujo.domain.metering import Bound, BoundedCall
from flujo.exceptions import RefusedCallError, StateError
from flujo.state.budgets import BudgetChange, BudgetOutcome, BudgetRequest, BudgetRoom, BudgetStore, Settlement
from flujo.state.ownership import Owner

_log = logging.getLogger("flujo.budgets")

DEFAULT_CALL_S = Decimal(600)
"""The most seconds of a call under a limit in seconds whose step has no timeout."""

_LEAST_CALL_S = Decimal(1)
_POLL_S = 0.01  # of whoever is next
_LONGEST_POLL_S = 1.0
_LOOK_FOR_DEAD_S = 0.5
_JOURNAL_S = 0.05  # in which what a call gave is expected to be stored, and its charge with it
_RENEWALS_PER_LEASE = 3

Hold = Callable[[BudgetRequest, Bound], Awaitable[BudgetOutcome]]
"""Asks the store to reserve a call that is made to fit into a bound, with what has to be stored besides."""


@dataclass(slots=True, eq=False)
class _Turn:
    """Tells a call that waits to ask again."""

    has_come: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Place:
    """The place of a call among those of its run that wait for the same budgets."""

    turn: _Turn
    turns: dict[_Turn, None]

    @property
    def is_first(self) -> bool:
        return next(iter(self.turns)) is self.turn

    async def until_turn(self, ahead: int) -> None:
        """Return when the call may have come to be the next one; what ends in other processes does not tell."""
        timeout_s = min(_POLL_S * (1 + ahead), _LONGEST_POLL_S) if self.is_first else None
        try:
            async with asyncio.timeout(timeout_s):
                await self.turn.has_come.wait()
        except TimeoutError:
            return
        self.turn.has_come.clear()


class BudgetDesk:
    """What a run has to do with the budgets of its store.

    Args:
        store: Where the budgets are.
        run_id: The run.
        owner: Who makes its calls.
        on_breach: Called with a message whenever a limit turns out to be passed.
        is_journaled: Whether what calls give is stored with the run while it goes on.
    """

    def __init__(
        self,
        store: BudgetStore,
        run_id: str,
        owner: Owner,
        *,
        on_breach: Callable[[str], None],
        is_journaled: bool = False,
    ) -> None:
        self.store = store
        self.run_id = run_id
        self.owner = owner
        self.is_journaled = is_journaled
        self.statuses: dict[str, BudgetStatus] = {}
        self._waiting: dict[tuple[str, ...], dict[_Turn, None]] = {}  # in order, by the budgets they wait for
        self._on_breach = on_breach
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
                self._on_breach(f"{status.label} has passed its limit of {status.limit}: {status.spent} spent")

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
            self._renewal = asyncio.create_task(self._renew())  # cancelled by `close`
        return f"{self.owner.token}-{next(self._numbers)}"

    async def ask(self, request: BudgetRequest) -> BudgetOutcome:
        """Reserve a call, without anything of the run."""
        return await self._change(request)

    async def charge(self, budgets: tuple[str, ...], used: Amounts) -> None:
        """Charge what was not reserved; with the result that was paid for, if that is stored."""
        self._pending.append(Settlement(budgets, None, used))
        if self.is_journaled:
            self._settle_soon()
        else:
            await self._flush()

    def settle(self, settlement: Settlement) -> None:
        """Let a call end."""
        self._pending.append(settlement)
        self._settle_soon()

    def take(self) -> list[Settlement]:
        """Return what is to be settled, to whoever is about to store it."""
        taken, self._pending = self._pending, []
        return taken

    def put_back(self, taken: list[Settlement]) -> None:
        """Take back what could not be stored."""
        self._pending = taken + self._pending

    def note(self, outcome: BudgetOutcome) -> None:
        """Tell of limits that a change has passed, and let the first call that waits ask again."""
        for breach in outcome.breaches:
            self._on_breach(breach)
        self._let_next_ask()

    @contextmanager
    def queue(self, budgets: tuple[str, ...]) -> Generator["_Place"]:
        """Give a call a place among those of its run that wait for the same budgets."""
        turns = self._waiting.setdefault(budgets, {})
        turn = _Turn()
        turns[turn] = None
        try:
            yield _Place(turn, turns)
        finally:
            del turns[turn]
            self._let_next_ask()

    def _let_next_ask(self) -> None:
        """Let the first of the calls that wait ask again."""
        for turns in self._waiting.values():
            if (first := next(iter(turns), None)) is not None:
                first.has_come.set()

    def _settle_soon(self) -> None:
        """See to it that what is pending is stored by itself if nothing of the run is stored soon."""
        if self._due is None:
            delay_s = _JOURNAL_S if self.is_journaled and not any(self._waiting.values()) else 0
            self._due = asyncio.get_running_loop().call_later(delay_s, self._fall_due)

    def _fall_due(self) -> None:
        self._due = None
        if self._pending:
            task = asyncio.create_task(self._flush())  # awaited by `close`
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _flush(self) -> None:
        """Store what is pending; if that fails, the calls stay reserved, which is more than they used."""
        async with self._writing:
            if not self._pending:
                return
            try:
                await self._change(None)
            except StateError as error:
                _log.warning("what calls of run %s used is not settled yet: %s", self.run_id, error)

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


@dataclass(slots=True, frozen=True)
class SharedBudgets:
    """The budgets of some steps of a run.

    Attributes:
        desk: That of the run.
        names: The names of the budgets.
    """

    desk: BudgetDesk
    names: tuple[str, ...]

    def within(self, budgets: Iterable[Budget]) -> "SharedBudgets":
        """Return these budgets and more."""
        more = [budget.name for budget in budgets if budget.name not in self.names]
        return SharedBudgets(self.desk, (*self.names, *more)) if more else self

    @property
    def has_usd_limit(self) -> bool:
        """Whether one of them has a limit in dollars."""
        return any(self.desk.statuses[name].limit.usd is not None for name in self.names)

    @property
    def has_seconds_limit(self) -> bool:
        """Whether one of them has a limit in seconds."""
        return any(self.desk.statuses[name].limit.seconds is not None for name in self.names)

    async def charge(self, cost: Decimal, tokens: int, seconds: float) -> None:
        """Charge a call that was not reserved."""
        await self.desk.charge(self.names, Amounts(cost, tokens, 1, _exact(seconds)))

    async def reserve(
        self, call: BoundedCall, bound: Bound, hold: Hold, *, timeout_s: float | None, halt: Callable[[], str | None]
    ) -> "SharedReservation":
        """Set aside what a call can use, once that fits.

        Args:
            call: The call.
            bound: What the limits of its run let it use.
            hold: Asks the store.
            timeout_s: Seconds that the step lets it take; `None` if it does not say.
            halt: Tells why nothing more may start in the run, if that is so.

        Raises:
            RefusedCallError: What is spent leaves too little, or nothing more may start.
        """
        seconds = bound.seconds
        if not seconds and self.has_seconds_limit:
            seconds = DEFAULT_CALL_S if timeout_s is None else Decimal(timeout_s)
        bound = replace(bound, seconds=in_milliseconds(seconds))
        desk = self.desk
        request = BudgetRequest(desk.new_call_id(), self.names, _most(bound), desk.run_id, desk.owner)
        made = SharedReservation(self, request.call_id)
        try:
            outcome = await hold(request, bound)
            if not outcome.is_granted:
                await self._wait(call, bound, request, outcome, hold, halt)
        except BaseException:
            made.release()  # it leaves the queue, and is not made if it was reserved meanwhile
            raise
        return made

    async def _wait(
        self,
        call: BoundedCall,
        bound: Bound,
        request: BudgetRequest,
        outcome: BudgetOutcome,
        hold: Hold,
        halt: Callable[[], str | None],
    ) -> None:
        """Ask again and again, until a call is reserved."""
        clock = asyncio.get_running_loop().time
        looked_at = clock()
        with self.desk.queue(self.names) as place:
            while not outcome.is_granted:
                bound = _made_to_fit(call, bound, outcome.rooms)
                fits = all(room.free.allow(_most(bound)) for room in outcome.rooms)
                if outcome.ahead or not fits or not place.is_first:
                    await place.until_turn(outcome.ahead)
                if (reason := halt()) is not None:
                    raise RefusedCallError(reason)
                looks = clock() - looked_at > _LOOK_FOR_DEAD_S
                looked_at = clock() if looks else looked_at
                outcome = await hold(replace(request, most=_most(bound), is_waiting=True, looks_for_dead=looks), bound)


@dataclass(slots=True, frozen=True)
class SharedReservation:
    """What is set aside for one call in the budgets of its step."""

    budgets: SharedBudgets
    call_id: str

    def settle(self, cost: Decimal, tokens: int, seconds: float) -> None:
        """Charge what the call did use."""
        self._end(Amounts(cost, tokens, 1, _exact(seconds)))

    def release(self) -> None:
        """Charge nothing."""
        self._end(Amounts())

    def lose(self) -> None:
        """Charge all that was reserved, as uncertain."""
        self._end(None)

    def _end(self, used: Amounts | None) -> None:
        self.budgets.desk.settle(Settlement(self.budgets.names, self.call_id, used))


def _most(bound: Bound) -> Amounts:
    return Amounts(bound.cost, bound.tokens, 1, bound.seconds)


def _exact(seconds: float) -> Decimal:
    return in_milliseconds(Decimal(seconds))


def _made_to_fit(call: BoundedCall, bound: Bound, rooms: Sequence[BudgetRoom]) -> Bound:
    """Return a bound that fits into what is not spent.

    Raises:
        RefusedCallError: There is none.
    """
    for room in rooms:
        seconds = bound.seconds
        left = room.left
        usd = bound.cost if left.usd is None else min(bound.cost, left.usd)
        tokens = bound.tokens if left.tokens is None else min(bound.tokens, left.tokens)
        fitting = call.within(usd, tokens)
        if left.seconds is not None:
            seconds = min(seconds, left.seconds)
        has_time = left.seconds is None or left.seconds >= _LEAST_CALL_S
        if fitting is None or not has_time or (left.requests is not None and left.requests < 1):
            raise RefusedCallError(_refusal(call, room))
        bound = replace(fitting, seconds=seconds)
    return bound


def _refusal(call: BoundedCall, room: BudgetRoom) -> str:
    """Return what a budget has left, and what a call needs."""
    least, left = call.least, room.left
    if left.usd is not None and least.cost > left.usd:
        have, need = AmountLimits(usd=max(left.usd, Decimal(0))), AmountLimits(usd=least.cost)
    elif left.tokens is not None and least.tokens > left.tokens:
        have, need = AmountLimits(tokens=max(left.tokens, 0)), AmountLimits(tokens=least.tokens)
    elif left.requests is not None and left.requests < 1:
        have, need = AmountLimits(requests=0), AmountLimits(requests=1)
    else:
        assert left.seconds is not None, "a call is refused for one of these"
        have, need = AmountLimits(seconds=max(left.seconds, Decimal(0))), AmountLimits(seconds=_LEAST_CALL_S)
    return f"{room.label} has {have} left to spend, and the next call may use {need}"
