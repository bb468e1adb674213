"""The world that scripted agents live in: who goes next, and a count of the calls from outside flujo.

An agent that waits stands at the turnstile. Whenever nothing else in the event loop moves, the turnstile lets one
of them through, and a drawn list of numbers says which. So a schedule is a value: the same list gives the same
interleaving, another list another one, and time has no part in it.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from tests.properties.model import Call
from tests.properties.programs import Agent, Ending, weigh

_QUIET_ROUNDS = 12
"""Rounds of the event loop without news after which nothing moves any more: more than any wake-up takes."""

Picks = Sequence[int]
"""A schedule: the place in the queue of the one to go next, again and again from the beginning."""


class Turnstile:
    """Lets waiting agents through, one at a time and in the order of a schedule."""

    def __init__(self, picks: Picks) -> None:
        self._picks = picks
        self._passed = 0
        self._queue: list[asyncio.Future[None]] = []
        self._news = False
        self._is_turning = False

    async def wait(self) -> None:
        """Wait for one's turn."""
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._news = True
        if not self._is_turning:
            self._is_turning = True
            self._turn(0)
        try:
            await turn
        finally:
            if turn in self._queue:
                self._queue.remove(turn)

    def _turn(self, quiet_rounds: int) -> None:
        quiet_rounds = 0 if self._news else quiet_rounds + 1
        self._news = False
        self._queue = [turn for turn in self._queue if not turn.done()]
        if not self._queue:
            self._is_turning = False
            return
        if quiet_rounds > _QUIET_ROUNDS:
            place = self._picks[self._passed % len(self._picks)] % len(self._queue)
            self._passed += 1
            self._queue.pop(place).set_result(None)
            quiet_rounds = 0
        asyncio.get_running_loop().call_soon(self._turn, quiet_rounds)


@dataclass(slots=True)
class Event:
    """Something that happened to a call, in the order in which it happened.

    Attributes:
        path: Where the step stands in the run; empty unless a hook has noted it.
    """

    kind: Literal["begin", "charge", "cut"]
    agent: str
    path: tuple[str, ...]
    cost: Fraction = Fraction(0)
    tokens: int = 0


@dataclass(slots=True)
class World:
    """What happens around one run.

    Attributes:
        turnstile: Decides who goes next.
        calls: The calls that were charged.
        events: Everything that happened.
    """

    turnstile: Turnstile
    calls: Counter[Call] = field(default_factory=Counter[Call])
    events: list[Event] = field(default_factory=list[Event])
    _made: Counter[tuple[str, asyncio.Task[Any] | None]] = field(
        default_factory=Counter[tuple[str, asyncio.Task[Any] | None]]
    )

    def begin(self, agent: Agent) -> bool:
        """Note that a call begins, and return whether it is to raise."""
        self.events.append(Event("begin", agent.name, PATH.get()))
        self._made[agent.name, asyncio.current_task()] += 1
        return self.ending(agent) == "raises"

    def ending(self, agent: Agent) -> Ending | None:
        """Return how the newest attempt at an agent is to end in the current task, or `None` if there was none.

        Attempts are counted by task: one execution of a step stays within one task, and where two of them share it,
        one comes after the other.
        """
        made = self._made[agent.name, asyncio.current_task()]
        return agent.endings[(made - 1) % len(agent.endings)] if made else None

    def is_retry(self, agent: Agent) -> bool:
        """Tell whether the next attempt at an agent in the current task is not the first of its execution."""
        return self._made[agent.name, asyncio.current_task()] % len(agent.endings) != 0

    def charge(self, agent: Agent, seen: Any, cost: Fraction, tokens: int) -> None:
        """Note that a call ends and what it costs."""
        self.events.append(Event("charge", agent.name, PATH.get(), cost, tokens))
        self.calls[Call(agent.name, weigh(seen), cost, tokens)] += 1

    def cut(self, agent: Agent, tokens: int) -> None:
        """Note that a call was cancelled while it waited, and the tokens that it had taken by then."""
        self.events.append(Event("cut", agent.name, PATH.get(), tokens=tokens))

    @property
    def spent(self) -> tuple[Fraction, int]:
        """Dollars and tokens of all calls, counted outside flujo."""
        cost = sum((event.cost for event in self.events), Fraction(0))
        return cost, sum(event.tokens for event in self.events)

    @property
    def begun(self) -> Counter[str]:
        """How often each agent was called."""
        return Counter(event.agent for event in self.events if event.kind == "begin")


WORLD: ContextVar[World] = ContextVar("WORLD")
"""The world of the current run; its tasks inherit it, so that several runs may share one pipeline."""

PATH: ContextVar[tuple[str, ...]] = ContextVar("PATH", default=())
"""The path of the step that runs in the current task, where a hook notes it."""
