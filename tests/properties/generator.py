"""Draws random programs.

Programs are drawn from the outside in, with a budget of depth and steps, so that they stay small: a few dozen calls.
Failures are rare, because a run that fails at its first step says little about all that would have come after it.
Simple choices come first, because Hypothesis shrinks towards them.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, get_args

from hypothesis import strategies as st

from tests.properties.programs import (
    Agent,
    Cached,
    Conditional,
    Effect,
    Fanout,
    Human,
    Loop,
    Map,
    Merge,
    Node,
    Parallel,
    Program,
    Refine,
    Rescue,
    Router,
    Seq,
    Sub,
)

COSTS: tuple[Decimal | float, ...] = (
    *(Decimal(0), Decimal("0.01"), 0.1, 0.07, Decimal("1e-9"), Decimal("0.333333333333333333333333333333")),
    *(1e-05, 3, Decimal("12.50")),
)
"""Prices that binary floats, rounded decimals and forgotten zeros get wrong."""

_MOST_STEPS = 20  # from then on only agents are drawn

_FIELDS = ("a", "b", "notes", "tally", "scratchpad", "items")


@dataclass(frozen=True)
class Kinds:
    """What may occur in programs.

    Attributes:
        caches: Cached steps; never within a map, where items that are equal race for the same key, or behind a wall,
            where the key holds an `initial_prompt` that the model does not predict.
        humans: Steps that wait for people.
        failures: Agents that fail.
        most_waits: How often an agent waits for its turn within one call.
    """

    caches: bool = True
    humans: bool = False
    failures: bool = True
    most_waits: int = 2


class _Author:
    """Draws one program; every step gets a name of its own."""

    def __init__(self, draw: Any, kinds: Kinds) -> None:
        self._draw = draw
        self._kinds = kinds
        self._named = 0
        self._uncacheable = 0

    def node(self, depth: int) -> Node:
        """Draw a step, or several in order, at most so deep."""
        if depth == 0 or self._named > _MOST_STEPS:
            return self._leaf()
        write = self._one_of(
            self._leaf,
            self.seq,
            self.seq,
            self._parallel,
            self._parallel,
            self._loop,
            self._conditional,
            self._map,
            self._sub,
            self._router,
            self._refine,
            self._rescue,
            *([self._cached] if self._kinds.caches and not self._uncacheable else []),
        )
        written: Node = write() if write == self._leaf else write(depth - 1)
        return written

    def seq(self, depth: int, least: int = 1) -> Seq:
        """Draw steps in order."""
        count = self._number(least, 4)
        return Seq(self._name("seq"), tuple(self.node(depth) for _ in range(count)))

    def _human(self) -> Agent | Human | Seq:
        """Draw a question: of an agent, with a message, or with its input, which then is the number of an agent."""
        if self._flag():
            return Human(self._name("human"), f"what now, {self._named}?")
        number = self._agent(self._name("agent"), retries=1)
        if self._flag():
            return replace(number, refusals=0, asks=True, style=self._one_of("coroutine", "object", "function"))
        return Seq(self._name("seq"), (number, Human(self._name("human"))))

    def _leaf(self) -> Agent | Human | Seq:
        if self._kinds.humans and self._number(0, 2) == 1:
            return self._human()
        agent = self._agent(self._name("agent"), retries=self._number(0, 2))
        style = self._one_of("coroutine", "object", "function", "stream", "both")
        if style in ("stream", "both"):
            return replace(agent, style=style, shape="text")
        shape = self._one_of("number", "text", "list", "update", "misfit", "stranger")
        if shape in ("misfit", "stranger") and not self._fails(3):
            shape = "number"
        return replace(agent, style=style, shape=shape, waits=0 if style == "function" else agent.waits)

    def _agent(self, name: str, retries: int) -> Agent:
        fails = self._fails(3)
        return Agent(
            name,
            retries=retries,
            failures=self._number(1, retries + self._fails(2)) if fails and retries else int(fails and self._fails(2)),
            is_fatal=fails and self._fails(5),
            refusals=self._number(1, max(retries, 1)) if self._fails(4) else 0,
            cost=self._one_of(*COSTS),
            tokens=self._number(0, 9),
            failure_cost=Decimal(str(self._one_of(*COSTS))) if fails else Decimal(0),
            effects=tuple(self._one_of(*get_args(Effect)) for _ in range(self._number(0, 3))),
            waits=self._number(0, self._kinds.most_waits),
        )

    def _parallel(self, depth: int) -> Parallel:
        branches = self._branches(depth)
        return Parallel(self._name("parallel"), branches, self._fanout(tuple(name for name, _ in branches)))

    def _router(self, depth: int) -> Router:
        branches = self._branches(depth)
        names = tuple(name for name, _ in branches)
        name = self._name("router")
        picks = ((names[0],), names, (), tuple(reversed(names)), *([("nobody",)] if self._fails(3) else []))
        chosen = tuple(self._one_of(*picks) for _ in range(self._number(1, 2)))
        agent = replace(self._agent(f"{name} router", retries=1), refusals=0, shape="route", picks=chosen)
        return Router(name, agent, branches, self._fanout(names))

    def _branches(self, depth: int) -> tuple[tuple[str, Node], ...]:
        names = ("z", "y", "x")[: self._number(1, 3)]
        return tuple((name, self.node(depth)) for name in names)

    def _fanout(self, names: tuple[str, ...], *, plain: bool = False) -> Fanout:
        include = mapping = None
        if not plain and self._number(0, 3) == 3:
            include = self._fields()
        if not plain and self._number(0, 3) == 3:
            mapping = tuple((name, self._fields()) for name in names if self._flag())
        return Fanout(
            merge=self._one_of(*get_args(Merge)),
            ignores_failures=self._flag(),
            bound=self._one_of(None, 1, 2),
            include=include,
            mapping=mapping,
        )

    def _map(self, depth: int) -> Map | Seq:
        self._uncacheable += 1
        body = self.node(depth)
        self._uncacheable -= 1
        mapped = Map(self._name("map"), body, takes_input=self._flag(), fanout=self._fanout((), plain=True))
        if not mapped.takes_input or self._fails(5):
            return mapped
        lister = replace(self._agent(self._name("agent"), retries=1), shape="list")
        return Seq(self._name("seq"), (lister, mapped))

    def _loop(self, depth: int) -> Loop:
        body = self.node(depth)
        modulus, most = self._number(1, 2), self._number(1, 4)
        return Loop(self._name("loop"), body, modulus, most, remaps=self._flag())

    def _conditional(self, depth: int) -> Conditional:
        branches = tuple(self.node(depth) for _ in range(self._number(1, 2)))
        default = None if self._fails(3) else self.node(0)
        modulus = self._number(1, 3)
        return Conditional(self._name("choice"), branches, modulus, default, remaps=self._flag())

    def _refine(self, depth: int) -> Refine:
        generator = self.node(depth)
        critic = replace(self._agent(self._name("critic"), retries=1), shape="check", modulus=self._number(1, 2))
        return Refine(self._name("refine"), generator, critic, self._number(1, 3), remaps=self._flag())

    def _sub(self, depth: int) -> Sub:
        inherits = self._flag()
        self._uncacheable += not inherits
        body = self.node(depth)
        self._uncacheable -= not inherits
        return Sub(self._name("sub"), body, inherits=inherits)

    def _cached(self, depth: int) -> Loop:
        few = replace(self._agent(self._name("agent"), retries=1), modulus=self._number(1, 2))
        body = Seq(self._name("seq"), (few, Cached(self.node(depth))))
        return Loop(self._name("loop"), body, modulus=self._number(1, 3), max_loops=5)

    def _rescue(self, depth: int) -> Rescue:
        primary = self.node(depth)
        while isinstance(primary, Rescue):  # one step has one fallback
            primary = primary.primary
        if isinstance(primary, Agent) and primary.shape in ("update", "misfit", "stranger"):
            primary = replace(primary, shape="number")  # or else its fallback would have to give an update as well
        return Rescue(primary, self.node(depth))

    def _fields(self) -> tuple[str, ...]:
        return tuple(self._draw(st.lists(st.sampled_from(_FIELDS), max_size=3, unique=True)))

    def _name(self, kind: str) -> str:
        self._named += 1
        return f"{kind}{self._named}"

    def _number(self, least: int, most: int) -> int:
        number: int = self._draw(st.integers(least, most))
        return number

    def _flag(self) -> bool:
        return self._number(0, 1) == 1

    def _fails(self, rarely: int) -> bool:
        """Tell whether something is to fail, less than one time in `rarely`, if there are failures at all."""
        return (
            self._kinds.failures and self._number(0, rarely) == 1
        )  # not at an end of the range, where Hypothesis likes to be

    def _one_of(self, *choices: Any) -> Any:
        return choices[self._number(0, len(choices) - 1)]


@st.composite
def programs(draw: st.DrawFn, kinds: Kinds = Kinds(), *, depth: int = 4) -> Program:
    """Draw a program."""
    author = _Author(draw, kinds)
    root = author.seq(depth - 1) if draw(st.booleans()) else author.node(depth)
    items = draw(st.lists(st.integers(0, 9), max_size=3))
    return Program(root, draw(st.integers(0, 99)), tuple(items))


schedules = st.lists(st.integers(0, 5), min_size=1, max_size=8)
"""Draws schedules: the empty choice, always the first in the queue, is the simplest."""
