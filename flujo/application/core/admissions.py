"""Sets aside what calls may cost before they are made, and lets them wait until that fits.

A call is admitted in one synchronous stretch: on all levels of limits at once, or not at all.
If it would fit but for what others have reserved, it waits its turn, because reservations end and mostly cost less.
If money is short, it is made smaller; if what is spent leaves too little even for that, it is refused.
So `spent + reserved <= limit` holds on every level at every moment.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from flujo.domain.metering import Bound, BoundedCall
from flujo.domain.money import format_usd
from flujo.exceptions import RefusedCallError


class Level(Protocol):
    """One level of the tree of limits, as admission sees it."""

    @property
    def label(self) -> str:
        """How errors speak of it."""
        ...

    @property
    def has_hard_limit(self) -> bool:
        """Whether its limits hold at every moment, and not only after each step."""
        ...

    def left(self, *, counts_reserved: bool) -> tuple[Decimal | None, int | None]:
        """Return the dollars and tokens that may be spent yet; `None` is no limit."""
        ...

    def hold(self, bound: Bound) -> None:
        """Set an amount aside."""
        ...

    def let_go(self, bound: Bound) -> None:
        """Set an amount aside no longer."""
        ...

    def count(self, cost: Decimal, tokens: int, *, is_uncertain: bool = False) -> None:
        """Count what was spent."""
        ...


@dataclass(slots=True)
class HeldReservation:
    """What is set aside for one call on all levels; see `Reservation`."""

    bound: Bound
    _levels: Sequence[Level]  # the innermost first
    _admissions: "Admissions"
    _is_open: bool = True

    def make_smaller(self, bound: Bound) -> None:
        """Set aside less than before."""
        if bound != self.bound:
            for level in self._levels:
                level.let_go(self.bound)
                level.hold(bound)
            self.bound = bound
            self._admissions.serve()

    def settle(self, cost: Decimal, tokens: int) -> None:
        """Charge what the call did use."""
        self._end(cost, tokens, is_uncertain=False)

    def release(self) -> None:
        """Charge nothing."""
        if self._is_open:
            self._is_open = False
            for level in self._levels:
                level.let_go(self.bound)
            self._admissions.serve()

    def lose(self) -> None:
        """Charge all that was reserved, as uncertain."""
        self._end(self.bound.cost, self.bound.tokens, is_uncertain=True)

    def _end(self, cost: Decimal, tokens: int, *, is_uncertain: bool) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for level in self._levels:
            level.let_go(self.bound)
        for level in reversed(self._levels):
            level.count(cost, tokens, is_uncertain=is_uncertain)
        self._admissions.serve()


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that waits until it fits."""

    call: BoundedCall
    levels: Sequence[Level]
    limited: Sequence[Level]
    admitted: "asyncio.Future[HeldReservation]"


@dataclass(slots=True)
class Admissions:
    """The calls of one run that wait, first come first served.

    A later call overtakes an earlier one only if no limit concerns both.
    """

    _queue: dict[_Waiting, None] = field(default_factory=dict[_Waiting, None])  # in order; leaving it takes no search

    async def admit(self, call: BoundedCall, levels: Sequence[Level]) -> HeldReservation:
        """Set aside what a call may use on all levels, once it fits.

        Args:
            call: The call.
            levels: The innermost first.

        Raises:
            RefusedCallError: What is spent on a level leaves less than the call needs at the least.
        """
        limited = [level for level in levels if level.has_hard_limit]
        if not self._queue and (held := self._try(call, levels, limited)) is not None:
            return held
        admitted: asyncio.Future[HeldReservation] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(call, levels, limited, admitted)
        self._queue[waiting] = None
        self.serve()
        try:
            return await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled() and admitted.exception() is None:
                admitted.result().release()  # it was admitted and cancelled in one turn of the loop
            raise
        finally:
            del self._queue[waiting]
            self.serve()

    def serve(self) -> None:
        """Admit those that wait as far as they fit by now, and refuse those that never will."""
        blocked = set[Level]()
        for waiting in self._queue:
            if waiting.admitted.done():
                continue
            if blocked.isdisjoint(waiting.limited):
                try:
                    held = self._try(waiting.call, waiting.levels, waiting.limited)
                except RefusedCallError as refused:
                    waiting.admitted.set_exception(refused)
                    continue
                if held is not None:
                    waiting.admitted.set_result(held)
                    continue
            blocked.update(waiting.limited)
            if waiting.levels[-1] in blocked:  # the run itself, which concerns all
                return

    def refuse_all(self, reason: str) -> None:
        """Refuse all that wait: nothing more starts in the run."""
        for waiting in self._queue:
            if not waiting.admitted.done():
                waiting.admitted.set_exception(RefusedCallError(reason))

    def _try(self, call: BoundedCall, levels: Sequence[Level], limited: Sequence[Level]) -> HeldReservation | None:
        """Return a reservation, or `None` if the call has to wait."""
        bound = call.within(*_least_left(limited, counts_reserved=False))
        if bound is None:
            raise RefusedCallError(_refusal(call.least, limited))
        if not bound.fits(*_least_left(limited, counts_reserved=True)):
            return None
        for level in levels:
            level.hold(bound)
        return HeldReservation(bound, levels, self)


def _least_left(limited: Sequence[Level], *, counts_reserved: bool) -> tuple[Decimal | None, int | None]:
    """Return what is left where the least is left."""
    usd: Decimal | None = None
    tokens: int | None = None
    for level in limited:
        level_usd, level_tokens = level.left(counts_reserved=counts_reserved)
        if level_usd is not None and (usd is None or level_usd < usd):
            usd = level_usd
        if level_tokens is not None and (tokens is None or level_tokens < tokens):
            tokens = level_tokens
    return usd, tokens


def _refusal(least: Bound, limited: Sequence[Level]) -> str:
    """Return which level has too little left for a call, and what the call needs."""
    for level in limited:
        usd, tokens = level.left(counts_reserved=False)
        if usd is not None and least.cost > usd:
            return (
                f"{level.label} has {format_usd(max(usd, Decimal(0)))} left to spend, and the next call may cost "
                f"{format_usd(least.cost)}"
            )
        if tokens is not None and least.tokens > tokens:
            return f"{level.label} has {max(tokens, 0)} tokens left, and the next call may use {least.tokens}"
    raise AssertionError("a call is refused by a level that it does not fit into")
