"""Reserves and charges what one attempt at an agent's step uses, call by call."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from time import perf_counter
from typing import Any

from flujo.application.core.admissions import HeldReservation
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.shared_budgets import SharedBudgets, SharedReservation
from flujo.domain.agents import Answer
from flujo.domain.metering import Bound, BoundedCall, FixedCall, MeteredCall, Reservation
from flujo.domain.models import MIN_OUTPUT_TOKENS
from flujo.domain.money import ZERO, add_usd, subtract_usd
from flujo.domain.step import AgentStep
from flujo.exceptions import RefusedCallError
from flujo.state.budgets import BudgetOutcome, BudgetRequest


@dataclass(slots=True)
class CallMeter:
    """The meter of one attempt.

    Attributes:
        cost: US dollars that its calls were charged.
        tokens: Tokens that its calls were charged.
        calls: What its calls were charged, one by one; they add up to `cost`.
        part_cost: US dollars that calls used which are parts of an attempt that is reserved as a whole.
        part_tokens: Tokens that they used.
        is_used: Whether it was asked to reserve anything, so that what the answer reports is charged already.
        is_doubtful: Whether a part of an attempt that is reserved as a whole may have cost more than it was charged.
    """

    _frame: ExecutionFrame[Any]
    cost: Decimal = ZERO
    tokens: int = 0
    calls: list[MeteredCall] = field(default_factory=list[MeteredCall])
    is_used: bool = False
    is_doubtful: bool = False
    part_cost: Decimal = ZERO
    part_tokens: int = 0
    _task: "asyncio.Task[Any] | None" = field(default_factory=asyncio.current_task)
    _kept_cost: Decimal = ZERO  # of calls that the store has by themselves
    _kept_tokens: int = 0
    _whole: Reservation | None = None
    _open: list["_MeteredReservation"] = field(default_factory=list["_MeteredReservation"])

    @property
    def has_limit(self) -> bool:
        """Whether a limit has to hold at every moment; if the attempt as a whole is reserved, that is enough."""
        return self._whole is None and (self._frame.usage.has_limit or self._frame.scope.budgets is not None)

    @property
    def has_usd_limit(self) -> bool:
        """Whether a limit in dollars has to hold at every moment; likewise."""
        budgets = self._frame.scope.budgets
        return self._whole is None and (
            self._frame.usage.has_usd_limit or (budgets is not None and budgets.has_usd_limit)
        )

    @property
    def min_output_tokens(self) -> int:
        """The fewest output tokens that an answer is worth asking for."""
        of_limits = self._frame.usage.min_output_tokens
        return of_limits if self._frame.scope.budgets is None else max(of_limits, MIN_OUTPUT_TOKENS)

    def fits(self, call: BoundedCall) -> bool:
        """Tell whether the call as a whole fits; see `Meter`."""
        if not self.has_limit:
            return True
        whole, budgets = call.within(None, None), self._frame.scope.budgets
        assert whole is not None, "every call fits where there is no limit"
        return self._frame.usage.fits(whole) and (budgets is None or budgets.fits(whole))

    def doubt(self) -> None:
        """Note that a call may have cost more than it will be settled with; see `Meter`."""
        self.is_doubtful = True

    async def reserve(self, call: BoundedCall, *, label: str | None = None) -> Reservation:
        """Set aside what a call can use; see `Meter`.

        Raises:
            RefusedCallError: It does not fit, or nothing more may start in the run.
        """
        if self._whole is not None:
            return self._part(call, label)
        self.is_used = True
        control = self._frame.scope.control
        if (halt := control.halt) is not None:
            raise RefusedCallError(halt.reason)
        try:
            reservation = _MeteredReservation(await self._frame.usage.reserve(call), self, label)
            self._open.append(reservation)
            await self._keep(call, reservation)
        except RefusedCallError as refused:
            control.refuse(str(refused), refused.budget)
            raise
        reservation.started = perf_counter()
        return reservation

    @property
    def keeps_calls(self) -> bool:
        """Whether the run is stored."""
        return self._frame.scope.durable is not None

    def recall(self, key: str) -> Any | None:
        """Return what a call gave that was made before the run was killed; see `Meter`."""
        durable = self._frame.scope.durable
        kept = None if durable is None else durable.recall_call(self._frame.path, key)
        if kept is None:
            return None
        value, call = kept
        self.is_used = True
        self._count_kept(call.cost, call.tokens)
        self.add(call.cost, call.tokens)
        self.note(call)
        return value

    async def keep(self, key: str, value: Any, cost: Decimal, tokens: int) -> None:
        """Keep what a call gave; see `Meter`."""
        durable = self._frame.scope.durable
        if durable is None:
            return
        self._count_kept(cost, tokens)
        await durable.keep_call(self._frame.path, key, value, self._ended(cost, tokens), self._held())

    def _ended(self, cost: Decimal, tokens: int) -> MeteredCall:
        """Return the last call that was charged so much."""
        unlabeled = MeteredCall(None, cost, tokens)
        if not cost and not tokens:
            return unlabeled  # it may be no call at all, but what a tool gave
        return next((each for each in reversed(self.calls) if each.cost == cost and each.tokens == tokens), unlabeled)

    def _count_kept(self, cost: Decimal, tokens: int) -> None:
        self._kept_cost, self._kept_tokens = add_usd(self._kept_cost, cost), self._kept_tokens + tokens

    def _held(self) -> MeteredCall:
        """Return what the attempt may have paid at the most, but for the calls that the store has."""
        cost = subtract_usd(add_usd(self.cost, self.part_cost), self._kept_cost)
        tokens = self.tokens + self.part_tokens - self._kept_tokens
        labels = {each.label for each in self._open}
        for each in self._open:
            bound = each.bound.cost
            if each is self._whole:  # its parts are counted above
                bound = max(subtract_usd(bound, self.part_cost), ZERO)
            cost, tokens = add_usd(cost, bound), tokens + each.bound.tokens
        return MeteredCall(labels.pop() if len(labels) == 1 else None, cost, tokens, is_uncertain=True)

    def tell_store(self) -> None:
        """Let the run be stored with what the attempt has paid by now, whenever its budgets are."""
        if (durable := self._frame.scope.durable) is not None:
            durable.note_held(self._frame.path, self._held())

    async def _keep(self, call: BoundedCall, reservation: "_MeteredReservation") -> None:
        """Let stores know what may be paid, before it is: whoever is killed cannot tell afterwards."""
        scope = self._frame.scope
        try:
            if scope.budgets is not None:
                await self._share(call, reservation, scope.budgets)
            elif scope.durable is not None:
                await scope.durable.hold(self._frame.path, self._held())
        except BaseException:
            reservation.release()  # the call is not made
            raise

    async def _share(self, call: BoundedCall, reservation: "_MeteredReservation", budgets: SharedBudgets) -> None:
        """Reserve a call in the budgets of the step too, and store what may be paid in the same transaction."""
        durable = self._frame.scope.durable

        async def hold(request: BudgetRequest, bound: Bound) -> BudgetOutcome:
            reservation.held.make_smaller(bound)
            if durable is None:
                return await budgets.desk.ask(request)
            return await durable.hold_in_budgets(self._frame.path, self._held(), request)

        step = self._frame.step
        timeout_s = step.config.timeout_s if isinstance(step, AgentStep) else None
        reservation.shared = await budgets.reserve(
            call, reservation.bound, hold, timeout_s=timeout_s, halt=self._frame.scope.control.why_halted
        )

    def _part(self, call: BoundedCall, label: str | None) -> Reservation:
        """Return what stands for a call within an attempt that is reserved as a whole: it only counts."""
        bound = call.within(None, None)
        assert bound is not None, "every call fits where there is no limit"
        return _Part(bound, self, label)

    async def begin(self, max_cost: Decimal) -> None:
        """Set aside the most that the attempt as a whole can cost; what its answer reports settles it."""
        self._whole = await self.reserve(FixedCall(Bound(max_cost)))

    @property
    def whole_s(self) -> float:
        """Seconds that an attempt that is reserved as a whole may take; 0 if no budget limits them."""
        return 0.0 if self._whole is None else float(self._whole.bound.seconds)

    def end(self, answer: Answer) -> None:
        """Charge what is reserved still, and let the answer say what was charged in all.

        What an attempt did not say of its calls counts as all that was reserved for them.
        """
        cost, tokens = add_usd(answer.cost, self.part_cost), answer.tokens + self.part_tokens
        if self._whole is not None and (answer.failure is None or cost or tokens):
            self._whole.settle(max(cost, self._whole.bound.cost) if self.is_doubtful else cost, tokens)
        for reservation in list(self._open):
            reservation.lose()
        answer.cost, answer.tokens, answer.calls = self.cost, self.tokens, self.calls

    @contextmanager
    def settling(self) -> Generator[None]:
        """Let a breach that a charge of this attempt causes not cut the attempt short, which has what it is for."""
        self._frame.scope.control.settling = self._task
        try:
            yield
        finally:
            self._frame.scope.control.settling = None

    def take_back(self, reservation: "_MeteredReservation") -> bool:
        """Note that a reservation has ended; tell whether it had not before."""
        if reservation not in self._open:
            return False
        self._open.remove(reservation)
        return True

    def add(self, cost: Decimal, tokens: int) -> None:
        """Count what a call was charged."""
        self.cost, self.tokens = add_usd(self.cost, cost), self.tokens + tokens

    def note(self, call: MeteredCall) -> None:
        """Note what a call was charged, if it was charged anything."""
        if call.cost or call.tokens:
            self.calls.append(call)

    def note_whole(self, reservation: "_MeteredReservation", cost: Decimal, tokens: int) -> None:
        """Note what a reservation was charged; of the attempt as a whole, what is left of it without its parts."""
        if reservation is self._whole:
            cost, tokens = subtract_usd(cost, self.part_cost), tokens - self.part_tokens
        is_uncertain = self.is_doubtful and reservation is self._whole
        self.note(MeteredCall(reservation.label, cost, tokens, is_uncertain=is_uncertain))


@dataclass(slots=True, eq=False)
class _MeteredReservation:
    """A reservation whose end its meter is told of first, because the end may be the end of the run."""

    held: HeldReservation
    meter: CallMeter
    label: str | None
    shared: SharedReservation | None = None
    started: float = 0.0  # on the clock of `perf_counter`

    @property
    def bound(self) -> Bound:
        return self.held.bound

    def settle(self, cost: Decimal, tokens: int) -> None:
        if self.meter.take_back(self):
            self.meter.add(cost, tokens)
            self.meter.note_whole(self, cost, tokens)
            if self.shared is not None:
                self.shared.settle(cost, tokens, perf_counter() - self.started)
                self.meter.tell_store()
            with self.meter.settling():
                self.held.settle(cost, tokens)

    def release(self) -> None:
        if self.meter.take_back(self):
            if self.shared is not None:
                self.shared.release()
                self.meter.tell_store()
            self.held.release()

    def lose(self) -> None:
        if self.meter.take_back(self):
            self.meter.add(self.bound.cost, self.bound.tokens)
            self.meter.note(MeteredCall(self.label, self.bound.cost, self.bound.tokens, is_uncertain=True))
            if self.shared is not None:
                self.shared.lose()
                self.meter.tell_store()
            with self.meter.settling():
                self.held.lose()


@dataclass(slots=True, eq=False)
class _Part:
    """A call within an attempt that is reserved as a whole."""

    bound: Bound
    meter: CallMeter
    label: str | None
    is_open: bool = True

    def settle(self, cost: Decimal, tokens: int) -> None:
        self._end(MeteredCall(self.label, cost, tokens))

    def release(self) -> None:
        self.is_open = False

    def lose(self) -> None:
        self._end(MeteredCall(self.label, self.bound.cost, self.bound.tokens, is_uncertain=True))

    def _end(self, call: MeteredCall) -> None:
        if self.is_open:
            self.is_open = False
            self.meter.part_cost = add_usd(self.meter.part_cost, call.cost)
            self.meter.part_tokens += call.tokens
            self.meter.note(call)
