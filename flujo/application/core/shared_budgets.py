"""The budgets that the calls of a run share with other runs, in other tasks, threads and processes.

A call is reserved in the store, in all budgets at once, after it is reserved in the limits of its run.
If only what others have reserved stands in the way it waits in a queue that is kept in the store as well, so that
whoever came first is served first, wherever they are.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from flujo.application.core.budget_desk import BudgetDesk
from flujo.domain.budgets import AmountLimits, Amounts, Budget, in_milliseconds
from flujo.domain.metering import Bound, BoundedCall
from flujo.exceptions import RefusedCallError
from flujo.state.budgets import BudgetOutcome, BudgetRequest, BudgetRoom, Settlement

DEFAULT_CALL_S = Decimal(600)
"""The most seconds of a call under a limit in seconds whose step has no timeout."""

_LEAST_CALL_S = Decimal(1)
_LOOK_FOR_DEAD_S = 0.5

Hold = Callable[[BudgetRequest, Bound], Awaitable[BudgetOutcome]]
"""Asks the store to reserve a call that is made to fit into a bound, with what has to be stored besides."""


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
        """Return these budgets and more, each once."""
        more = [budget.name for budget in budgets if budget.name not in {*self.names, *self.desk.covered}]
        return SharedBudgets(self.desk, (*self.names, *more)) if more else self

    @property
    def has_usd_limit(self) -> bool:
        """Whether one of them has a limit in dollars."""
        return any(self.desk.statuses[name].limit.usd is not None for name in self.names)

    @property
    def has_seconds_limit(self) -> bool:
        """Whether one of them has a limit in seconds."""
        return any(self.desk.statuses[name].limit.seconds is not None for name in self.names)

    def fits(self, bound: Bound) -> bool:
        """Tell whether so much fit into what was left when the run last heard of it."""
        return all(self.desk.statuses[name].left.allow(_most(bound)) for name in self.names)

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
            raise RefusedCallError(_refusal(call, room), budget=room.name)
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
