"""Lets one of many identical calls be made while the others wait for what it gives.

Whoever comes first for a key of a cache leads; the others wait. If the leader brings a result, all of them have it.
If it does not, because it failed, was cancelled or had to stop, the one that waits longest leads next.
The waiting ones may be in other event loops and threads: each is woken in its own loop, and none blocks it.

Whoever leads may come to wait for another flight, whose leader may wait for this one; the one that would close
such a circle goes alone.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from functools import partial


class Turn(Enum):
    """What somebody who waited has to do, if there is no result to have."""

    LEAD = "make the call; others wait for it"
    GO_ALONE = "make the call; nobody waits for it, and there is nobody to wait for"


Outcome = str | Turn
"""The result that the leader brought, or what to do without one."""


@dataclass(slots=True, eq=False)
class _Flight:
    """One key of one cache while somebody leads.

    Attributes:
        key: Of the flight among all flights.
        cache: Kept, so that its identity is not taken by another one.
        waiting: Who waits, the longest first.
        waits_for: The flights that its leader, or something that the leader started, waits for.
    """

    key: tuple[int, str]
    cache: object
    waiting: "deque[_Waiter]" = field(default_factory=lambda: deque[_Waiter]())  # noqa: PLW0108 - it is declared below
    waits_for: "list[_Flight]" = field(default_factory=lambda: list[_Flight]())  # noqa: PLW0108 - it is being declared


@dataclass(slots=True, eq=False)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Outcome]"


_LEADING: ContextVar[tuple[_Flight, ...]] = ContextVar("flujo_cache_leading", default=())


class SingleFlight:
    """The flights of all caches of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[tuple[int, str], _Flight] = {}

    def board(self, cache: object, key: str) -> "Ticket":
        """Join the flight for a key of a cache, or begin it; leave it with `Ticket.leave` whatever happens."""
        led = _LEADING.get()
        with self._lock:
            flight = self._flights.get((id(cache), key))
            if flight is None:
                flight = self._flights[id(cache), key] = _Flight((id(cache), key), cache)
                return Ticket(self, flight, Turn.LEAD)
            if _leads_to(flight, led):
                return Ticket(self, None, Turn.GO_ALONE)
            loop = asyncio.get_running_loop()
            waiter = _Waiter(loop, loop.create_future())
            flight.waiting.append(waiter)
            for each in led:
                each.waits_for.append(flight)
            return Ticket(self, flight, None, waiter, led)

    def stop_waiting(self, flight: _Flight, waiter: _Waiter, led: tuple[_Flight, ...]) -> None:
        """Take somebody off the list of those who wait."""
        with self._lock:
            if waiter in flight.waiting:
                flight.waiting.remove(waiter)
            for each in led:
                each.waits_for.remove(flight)

    def end(self, flight: _Flight, outcome: Outcome) -> None:
        """End a flight, and tell all who wait."""
        with self._lock:
            self._flights.pop(flight.key, None)
            waiting = list(flight.waiting)
            flight.waiting.clear()
        for waiter in waiting:
            _tell(waiter, partial(_answer, waiter, outcome))

    def hand_over(self, flight: _Flight) -> None:
        """Let the one that waits longest lead; end the flight if nobody waits."""
        while True:
            with self._lock:
                if not flight.waiting:
                    self._flights.pop(flight.key, None)
                    return
                waiter = flight.waiting.popleft()
            if _tell(waiter, partial(self._let_lead, flight, waiter)):
                return

    def _let_lead(self, flight: _Flight, waiter: _Waiter) -> None:
        if not _answer(waiter, Turn.LEAD):
            self.hand_over(flight)


def _leads_to(flight: _Flight, led: tuple[_Flight, ...]) -> bool:
    """Tell whether a flight is one of these, or waits for one of them, itself or through others."""
    waiting, seen = [flight], set[int]()
    while waiting:
        current = waiting.pop()
        if current in led:
            return True
        if id(current) not in seen:
            seen.add(id(current))
            waiting.extend(current.waits_for)
    return False


def _tell(waiter: _Waiter, callback: Callable[[], object]) -> bool:
    """Call back in the loop of somebody who waits; return whether there is such a loop still."""
    try:
        waiter.loop.call_soon_threadsafe(callback)
    except RuntimeError:  # it is closed, and nobody waits there any more
        return False
    return True


def _answer(waiter: _Waiter, outcome: Outcome) -> bool:
    """Give somebody an outcome; return whether it was still waited for."""
    if waiter.future.done():
        return False
    waiter.future.set_result(outcome)
    return True


@dataclass(slots=True, eq=False)
class Ticket:
    """The part of one caller in a flight.

    Attributes:
        turn: What to do: lead, go alone, or `None` to wait for what `outcome` gives.
    """

    _flights: SingleFlight
    _flight: _Flight | None
    turn: Turn | None
    _waiter: _Waiter | None = None
    _led: tuple[_Flight, ...] = ()

    async def outcome(self) -> Outcome:
        """Wait until the leader has a result, or this caller is to do without; `turn` becomes what it is to do."""
        assert self._waiter is not None, "only who waits has an outcome"
        outcome = await self._waiter.future
        if isinstance(outcome, Turn):
            self.turn = outcome
        return outcome

    @contextmanager
    def leading(self) -> Generator[None]:
        """Let what is started within know that it is started by the leader."""
        if self.turn is not Turn.LEAD or self._flight is None:
            yield
            return
        token = _LEADING.set((*_LEADING.get(), self._flight))
        try:
            yield
        finally:
            _LEADING.reset(token)

    def land(self, outcome: Outcome) -> None:
        """End the flight, as its leader: all who wait have the result, or each goes alone."""
        if self.turn is Turn.LEAD and self._flight is not None:
            self._flights.end(self._flight, outcome)
            self._flight = None

    def leave(self) -> None:
        """Leave the flight; a leader that has not landed hands it over."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        if self._waiter is not None:
            self._flights.stop_waiting(flight, self._waiter, self._led)
            future = self._waiter.future
            if self.turn is None and future.done() and not future.cancelled() and future.result() is Turn.LEAD:
                self.turn = Turn.LEAD  # it was told to, and is cancelled before it heard of it
            future.cancel()
        if self.turn is Turn.LEAD:
            self._flights.hand_over(flight)


FLIGHTS = SingleFlight()
"""Those of this process."""
