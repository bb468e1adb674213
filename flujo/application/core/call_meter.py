"""Reserves and charges what runs within one agent step, call by call."""

import asyncio
import logging
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
from flujo.exceptions import RefusedCallError, SerializationError
from flujo.state.budgets import BudgetOutcome, BudgetRequest

_log = logging.getLogger("flujo.steps")


@dataclass(slots=True)
class _Sum:
    """What some calls were charged together."""

    cost: Decimal = ZERO
    tokens: int = 0
    labels: set[str | None] = field(default_factory=set[str | None])

    def add(self, call: MeteredCall) -> None:
        self.cost, self.tokens = add_usd(self.cost, call.cost), self.tokens + call.tokens
        self.labels.add(call.label)

    def take(self, call: MeteredCall) -> None:
        self.cost, self.tokens = subtract_usd(self.cost, call.cost), self.tokens - call.tokens

    def as_call(self, *, is_uncertain: bool) -> MeteredCall:
        """Return all of them as one."""
        label = next(iter(self.labels)) if len(self.labels) == 1 else None
        return MeteredCall(label, self.cost, self.tokens, is_uncertain=is_uncertain)


@dataclass(slots=True)
class CallMeter:
    """The meter of one agent step, for what its agent, its processors, plugins and validators call.

    Attributes:
        cost: US dollars that were charged.
        tokens: Tokens that were charged.
        calls: What the calls that were metered were charged, one by one.
        of_step: Those of them that the store has, and that belong to the step and not to one attempt.
        part_cost: US dollars that calls used which are parts of an attempt that is reserved as a whole.
        part_tokens: Tokens that they used.
        is_used: Whether the attempt under way reserved anything.
        is_refused: Whether a call was refused.
        is_over: Whether the step has ended, so that nothing more is charged to it.
        is_doubtful: Whether a part of an attempt that is reserved as a whole may have cost more than it was charged.
    """

    _frame: ExecutionFrame[Any]
    _task: "asyncio.Task[Any] | None"
    cost: Decimal = ZERO
    tokens: int = 0
    calls: list[MeteredCall] = field(default_factory=list[MeteredCall])
    of_step: list[MeteredCall] = field(default_factory=list[MeteredCall])
    is_used: bool = False
    is_refused: bool = False
    is_over: bool = False
    is_doubtful: bool = False
    part_cost: Decimal = ZERO
    part_tokens: int = 0
    _certain: _Sum = field(default_factory=_Sum)  # charges of which it is known what they are
    _certain_before: tuple[Decimal, int] = ZERO, 0  # the agent's call under way
    _kept: list[MeteredCall] = field(default_factory=list[MeteredCall])  # that the store has by themselves
    _known: _Sum = field(default_factory=_Sum)  # charges that it has not
    _uncertain: _Sum = field(default_factory=_Sum)
    _whole: Reservation | None = None
    _open: list["_MeteredReservation"] = field(default_factory=list["_MeteredReservation"])

    @property
    def has_limit(self) -> bool:
        """Whether a limit has to hold at every moment; if the attempt as a whole is reserved, that is enough."""
        scope = self._frame.scope
        return self._whole is None and (
            self._frame.usage.has_limit
            or scope.budgets is not None
            or (scope.payer is not None and scope.payer.meter.has_limit)
        )

    @property
    def has_usd_limit(self) -> bool:
        """Whether a limit in dollars has to hold at every moment; likewise."""
        scope = self._frame.scope
        return self._whole is None and (
            self._frame.usage.has_usd_limit
            or (scope.budgets is not None and scope.budgets.has_usd_limit)
            or (scope.payer is not None and scope.payer.meter.has_usd_limit)
        )

    @property
    def min_output_tokens(self) -> int:
        """The fewest output tokens that an answer is worth asking for."""
        scope, least = self._frame.scope, self._frame.usage.min_output_tokens
        if scope.budgets is not None:
            least = max(least, MIN_OUTPUT_TOKENS)
        return least if scope.payer is None else max(least, scope.payer.meter.min_output_tokens)

    def fits(self, call: BoundedCall) -> bool:
        """Tell whether the call as a whole fits; see `Meter`."""
        if not self.has_limit:
            return True
        whole, scope = call.within(None, None), self._frame.scope
        assert whole is not None, "every call fits where there is no limit"
        return (
            self._frame.usage.fits(whole)
            and (scope.budgets is None or scope.budgets.fits(whole))
            and (scope.payer is None or scope.payer.meter.fits(call))
        )

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
        if self.is_over:
            return self._late(call, label)
        self.is_used = True
        control = self._frame.scope.control
        if (halt := control.halt) is not None:
            self.is_refused = True
            raise RefusedCallError(halt.reason)
        try:
            reservation = _MeteredReservation(await self._frame.usage.reserve(call), self, label)
            self._open.append(reservation)
            await self._keep(call, reservation)
        except RefusedCallError as refused:
            self.is_refused = True
            control.refuse(str(refused), refused.budget)
            raise
        reservation.started = perf_counter()
        return reservation

    @property
    def keeps_calls(self) -> bool:
        """Whether the run is stored, or one that it is within."""
        scope = self._frame.scope
        return scope.durable is not None or (scope.payer is not None and scope.payer.meter.keeps_calls)

    def recall(self, key: str) -> Any | None:
        """Return what a call gave that was made before the run was killed; see `Meter`."""
        kept = self.recall_charged(key)
        return None if kept is None else kept[0]

    def recall_charged(self, key: str) -> tuple[Any, MeteredCall] | None:
        """Do the same, and return with it what the call was charged."""
        scope = self._frame.scope
        kept: tuple[Any, MeteredCall] | None = None
        if scope.durable is not None:
            kept = scope.durable.recall_call(self._frame.path, key)
        elif scope.payer is not None and (kept := scope.payer.recall(key)) is not None:
            self._frame.usage.recall(kept[1].cost, kept[1].tokens)
        if kept is not None:
            self.is_used = True
            self.note_recalled(kept[1])
        return kept

    def note_recalled(self, call: MeteredCall) -> None:
        """Note what a call was charged before the run went on."""
        self.add(call.cost, call.tokens)
        self._kept.append(call)
        if not call.is_uncertain:
            self._certain.add(call)
        if call.cost or call.tokens:
            self.calls.append(call)

    async def keep(self, key: str, value: Any, cost: Decimal, tokens: int) -> None:
        """Keep what a call gave; see `Meter`."""
        scope = self._frame.scope
        if scope.durable is None:
            if scope.payer is not None:
                await scope.payer.meter.keep(key, value, cost, tokens)
            return
        call = self._ended(cost, tokens)
        self._kept.append(call)
        (self._uncertain if call.is_uncertain else self._known).take(call)
        await scope.durable.keep_call(self._frame.path, key, value, call, self.held())

    def _ended(self, cost: Decimal, tokens: int) -> MeteredCall:
        """Return the last call that was charged so much."""
        unlabeled = MeteredCall(None, cost, tokens)
        if not cost and not tokens:
            return unlabeled  # it may be no call at all, but what a tool gave
        return next((each for each in reversed(self.calls) if each.cost == cost and each.tokens == tokens), unlabeled)

    async def keep_answer(self, key: str, value: Any) -> None:
        """Keep what an attempt gave, if it was paid for and the store does not know what."""
        durable, known, uncertain = self._frame.scope.durable, self._known, self._uncertain
        if durable is None or not (known.cost or known.tokens or uncertain.cost or uncertain.tokens):
            return
        paid, is_uncertain = _Sum(known.cost, known.tokens, set(known.labels)), bool(uncertain.cost or uncertain.tokens)
        if is_uncertain:
            paid.add(uncertain.as_call(is_uncertain=True))
        call = paid.as_call(is_uncertain=is_uncertain)
        try:
            await durable.keep_call(self._frame.path, key, value, call, ())
        except SerializationError as error:  # a processor may make something of it that can be stored
            _log.debug("the answer of step %r is not kept: %s", self._frame.step.name, error)
            return
        self._kept.append(call)
        self._known, self._uncertain = _Sum(), _Sum()

    def held(self, without: "_MeteredReservation | None" = None) -> tuple[MeteredCall, ...]:
        """Return what was paid or may be, but for the calls that the store has: what is known, and what is not.

        Args:
            without: A reservation that is left out.
        """
        unsure = _Sum(self._uncertain.cost, self._uncertain.tokens, set(self._uncertain.labels))
        for each in self._open:
            if each is without:
                continue
            cost, tokens = each.bound.cost, each.bound.tokens
            if each is self._whole:  # its parts are counted where they are charged
                cost = max(subtract_usd(cost, self.part_cost), ZERO)
            unsure.add(MeteredCall(each.label, cost, tokens))
        known = self._known.as_call(is_uncertain=False), unsure.as_call(is_uncertain=True)
        return tuple(each for each in known if each.cost or each.tokens)

    def begin_attempts(self) -> None:
        """Let what was called so far belong to the step: it is not called again for another attempt."""
        self.of_step, self._kept = self._kept, []
        if (durable := self._frame.scope.durable) is not None:
            durable.keep_calls_of_step(self._frame.path)

    def note_stored(self) -> None:
        """Note that the store has all that was charged so far."""
        self._known, self._uncertain, self._kept = _Sum(), _Sum(), []

    def tell_store(self) -> None:
        """Let the run be stored with what was paid by now, whenever its budgets are."""
        if (durable := self._frame.scope.durable) is not None:
            durable.note_held(self._frame.path, self.held())

    async def _keep(self, call: BoundedCall, reservation: "_MeteredReservation") -> None:
        """Let stores know what may be paid, before it is: whoever is killed cannot tell afterwards."""
        scope = self._frame.scope
        try:
            if scope.payer is not None:
                reservation.outside = await scope.payer.meter.reserve(
                    _Within(call, reservation.bound), label=reservation.label
                )
                reservation.held.make_smaller(reservation.outside.bound)
            if scope.budgets is not None:
                await self._share(call, reservation, scope.budgets)
            elif scope.durable is not None:
                await scope.durable.hold(self._frame.path, self.held())
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
            return await durable.hold_in_budgets(self._frame.path, self.held(), self.held(without=reservation), request)

        step = self._frame.step
        timeout_s = step.config.timeout_s if isinstance(step, AgentStep) else None
        reservation.shared = await budgets.reserve(
            call, reservation.bound, hold, timeout_s=timeout_s, halt=self._frame.scope.control.why_halted
        )

    def _late(self, call: BoundedCall, label: str | None) -> Reservation:
        """Return what stands for a call that is made after the step has ended, which nobody pays for.

        Raises:
            RefusedCallError: A limit has to hold for it.
        """
        if self.has_limit:
            raise RefusedCallError(f"step {self._frame.step.name!r}, which would pay for it, has ended")
        return self._part(call, label)

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

    def begin_call(self) -> None:
        """Note that the agent is called: what it reports is held against what is metered from now on."""
        self.is_used, self._certain_before = False, (self._certain.cost, self._certain.tokens)

    def end_call(self, answer: Answer, *, is_metered: bool) -> None:
        """Charge what the agent has reserved still, and leave in its answer what is to be charged besides.

        Args:
            answer: What the agent gave.
            is_metered: Whether the agent itself asked for the meter, so that what it reports is charged already.
        """
        cost, tokens = self._unmetered(answer, is_metered=is_metered)
        if (whole := self._whole) is not None:
            cost, tokens = add_usd(cost, self.part_cost), tokens + self.part_tokens
            if answer.failure is None or cost or tokens:
                whole.settle(max(cost, whole.bound.cost) if self.is_doubtful else cost, tokens)
            cost, tokens = ZERO, 0
        self.end()
        answer.cost, answer.tokens = cost, tokens

    def _unmetered(self, answer: Answer, *, is_metered: bool) -> tuple[Decimal, int]:
        """Return what an answer reports that was not metered; whoever knows of no meter reports all it knows of."""
        if is_metered:
            return (ZERO, 0) if self.is_used and self._whole is None else (answer.cost, answer.tokens)
        cost, tokens = self._certain_before
        cost, tokens = subtract_usd(self._certain.cost, cost), self._certain.tokens - tokens
        return max(subtract_usd(answer.cost, cost), ZERO), max(answer.tokens - tokens, 0)

    def end(self) -> None:
        """Charge all that is reserved still: nobody knows what it has cost."""
        for reservation in list(self._open):
            reservation.lose()
        self._whole, self.part_cost, self.part_tokens = None, ZERO, 0
        self.is_doubtful = False

    async def charge(self, cost: Decimal, tokens: int, seconds: float) -> None:
        """Charge what was reported, and nothing had reserved."""
        scope, call = self._frame.scope, MeteredCall(None, cost, tokens)
        await self._frame.usage.add_usage(cost, tokens)
        self.add(cost, tokens)
        self._known.add(call)
        self._certain.add(call)
        if scope.payer is not None:
            await scope.payer.charge(cost, tokens, seconds)
        if scope.budgets is not None:
            self.tell_store()
            await scope.budgets.charge(cost, tokens, seconds)

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
            if call.is_uncertain:
                self._uncertain.add(call)
            else:
                self._known.add(call)
                self._certain.add(call)

    def note_whole(self, reservation: "_MeteredReservation", cost: Decimal, tokens: int) -> None:
        """Note what a reservation was charged; of the attempt as a whole, what is left of it without its parts."""
        if reservation is self._whole:
            cost, tokens = subtract_usd(cost, self.part_cost), tokens - self.part_tokens
        is_uncertain = self.is_doubtful and reservation is self._whole
        self.note(MeteredCall(reservation.label, cost, tokens, is_uncertain=is_uncertain))


@dataclass(slots=True, frozen=True)
class _Within:
    """A call that is made to fit into a bound at the most."""

    call: BoundedCall
    bound: Bound

    @property
    def least(self) -> Bound:
        return self.call.least

    def within(self, usd: Decimal | None, tokens: int | None) -> Bound | None:
        most = self.bound
        return self.call.within(
            most.cost if usd is None else min(usd, most.cost),
            most.tokens if tokens is None else min(tokens, most.tokens),
        )


@dataclass(slots=True, eq=False)
class _MeteredReservation:
    """A reservation whose end its meter is told of first, because the end may be the end of the run."""

    held: HeldReservation
    meter: CallMeter
    label: str | None
    shared: SharedReservation | None = None
    outside: Reservation | None = None
    started: float = 0.0  # on the clock of `perf_counter`

    @property
    def bound(self) -> Bound:
        return self.held.bound

    def settle(self, cost: Decimal, tokens: int) -> None:
        if self.meter.take_back(self):
            self.meter.add(cost, tokens)
            self.meter.note_whole(self, cost, tokens)
            if self.outside is not None:
                self.outside.settle(cost, tokens)
            if self.shared is not None:
                self.shared.settle(cost, tokens, perf_counter() - self.started)
                self.meter.tell_store()
            with self.meter.settling():
                self.held.settle(cost, tokens)

    def release(self) -> None:
        if self.meter.take_back(self):
            if self.outside is not None:
                self.outside.release()
            if self.shared is not None:
                self.shared.release()
                self.meter.tell_store()
            self.held.release()

    def lose(self) -> None:
        if self.meter.take_back(self):
            self.meter.add(self.bound.cost, self.bound.tokens)
            self.meter.note(MeteredCall(self.label, self.bound.cost, self.bound.tokens, is_uncertain=True))
            if self.outside is not None:
                self.outside.lose()
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
