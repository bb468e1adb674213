"""Random workflows as plain values, which both flujo and the reference model can read.

A program is a small tree. `building.py` makes a flujo pipeline of it, `model.py` says by plain recursion what that
pipeline has to come to, and neither knows the other. All they share is this page: what a scripted agent answers.

Every answer depends on all that the agent was given, down to the order of the keys of a dict (`weigh`),
so that an output that went to the wrong place or came back in another order changes everything after it.
"""

import dataclasses
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

from hypothesis.vendor.pretty import RepresentationPrinter

Style = Literal["coroutine", "object", "function", "stream", "both"]
"""How the agent is written: as an async function, an object that runs, a plain function, a stream, or both of them."""

Shape = Literal["number", "list", "text", "update", "misfit", "stranger", "check", "route"]
"""What the agent answers; an update goes into the context, a misfit and a stranger are updates it has to refuse."""

Effect = Literal[
    "set a", "set b", "append note", "replace notes", "put x", "put y", "drop x", "jot x", "jot y"
]  # fmt: skip
"""What the agent does to the context it is handed, in every attempt: `put` is in the tally, `jot` in the scratchpad."""

Ending = Literal["raises", "is refused", "is accepted"]
"""How an attempt ends."""

Merge = Literal[
    "no_merge", "overwrite", "keep_first", "merge_scratchpad", "context_update", "error_on_conflict", "custom"
]  # fmt: skip
"""How branch contexts come back: the values of `MergeStrategy`, or a function of the user's own."""


class _Brief:
    """A `repr` without the fields that have their defaults: what Hypothesis prints is read by people."""

    def __repr__(self) -> str:
        told = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]  # the subclasses are dataclasses
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(told)})"

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:  # noqa: FBT001 - Hypothesis calls it
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class Agent(_Brief):
    """A step with an agent that fails so many times and then answers.

    Attributes:
        failures: Attempts that raise before there is an answer.
        is_fatal: What is raised is not to be retried.
        refusals: Answers after that which a validator refuses; more of both than `retries` fail the step.
        asks: Instead of its answer, the agent raises a question for a person.
        cost: What each answer costs.
        tokens: What each answer takes.
        failure_cost: What each failure costs.
        waits: How often the agent waits for its turn within one call.
        modulus: How many numbers an agent chooses from; a critic accepts one draft in so many.
        picks: What a router chooses from.
    """

    name: str
    retries: int = 0
    failures: int = 0
    is_fatal: bool = False
    refusals: int = 0
    asks: bool = False
    cost: Decimal | float = Decimal(0)
    tokens: int = 0
    failure_cost: Decimal = Decimal(0)
    style: Style = "coroutine"
    shape: Shape = "number"
    effects: tuple[Effect, ...] = ()
    waits: int = 0
    modulus: int = 97
    picks: tuple[tuple[str, ...], ...] = ()

    @property
    def endings(self) -> tuple[Ending, ...]:
        """How the attempts of one execution end, in order."""
        retries = 0 if self.is_fatal and self.failures else min(self.retries, self.failures + self.refusals)
        return tuple(self._ending(attempt) for attempt in range(retries + 1))

    def _ending(self, attempt: int) -> Ending:
        if attempt < self.failures:
            return "raises"
        return "is refused" if attempt < self.failures + self.refusals else "is accepted"

    @property
    def sees_context(self) -> bool:
        """Whether the context may make a difference."""
        return bool(self.effects or self.refusals) or self.shape in ("update", "misfit", "stranger")

    def charge(self, *, fails: bool) -> Fraction:
        """Return what one attempt costs, exactly; a float is the decimal it prints as."""
        return Fraction(str(self.failure_cost if fails else self.cost))

    @property
    def streams(self) -> bool:
        """Whether nothing but a stream can be asked of the agent."""
        return self.style == "stream"


@dataclass(frozen=True, repr=False)
class Human(_Brief):
    """A step that waits for a person, with a message or else with its input as the question."""

    name: str
    message: str | None = None


@dataclass(frozen=True, repr=False)
class Seq(_Brief):
    """Steps in order."""

    name: str
    steps: tuple["Node", ...]


@dataclass(frozen=True, repr=False)
class Fanout(_Brief):
    """How branches run and what comes back, for whatever has branches.

    Attributes:
        merge: How their contexts come back.
        ignores_failures: Whether one success is enough.
        bound: How many run at once.
        include: The context fields that go to branches and may come back.
        mapping: By branch, the fields it may bring back.
    """

    merge: Merge = "no_merge"
    ignores_failures: bool = False
    bound: int | None = None
    include: tuple[str, ...] | None = None
    mapping: tuple[tuple[str, tuple[str, ...]], ...] | None = None


@dataclass(frozen=True, repr=False)
class Parallel(_Brief):
    """Branches at once."""

    name: str
    branches: tuple[tuple[str, "Node"], ...]
    fanout: Fanout = Fanout()


@dataclass(frozen=True, repr=False)
class Router(_Brief):
    """Branches that an agent picks, at once."""

    name: str
    agent: Agent
    branches: tuple[tuple[str, "Node"], ...]
    fanout: Fanout = Fanout()


@dataclass(frozen=True, repr=False)
class Map(_Brief):
    """The body once for each item of the context field `items`, or of the input."""

    name: str
    body: "Node"
    takes_input: bool = False
    fanout: Fanout = Fanout()


@dataclass(frozen=True, repr=False)
class Loop(_Brief):
    """The body until the weight of its output is a multiple of `modulus`; `remaps` sets all mappers."""

    name: str
    body: "Node"
    modulus: int
    max_loops: int
    remaps: bool = False


@dataclass(frozen=True, repr=False)
class Conditional(_Brief):
    """One of the branches by the weight of the input modulo `modulus`; `remaps` sets both mappers."""

    name: str
    branches: tuple["Node", ...]
    modulus: int
    default: "Node | None" = None
    remaps: bool = False


@dataclass(frozen=True, repr=False)
class Refine(_Brief):
    """A generator and a critic in turn; `remaps` sets the feedback mapper."""

    name: str
    generator: "Node"
    critic: "Node"
    rounds: int
    remaps: bool = False


@dataclass(frozen=True, repr=False)
class Sub(_Brief):
    """A pipeline as one step."""

    name: str
    body: "Node"
    inherits: bool = True


@dataclass(frozen=True, repr=False)
class Cached(_Brief):
    """A step whose results are remembered."""

    inner: "Node"

    @property
    def name(self) -> str:
        """The inner step's name."""
        return self.inner.name


@dataclass(frozen=True, repr=False)
class Rescue(_Brief):
    """A step and its fallback."""

    primary: "Node"
    fallback: "Node"

    @property
    def name(self) -> str:
        """The primary's name."""
        return self.primary.name


Node = Agent | Human | Seq | Parallel | Router | Map | Loop | Conditional | Refine | Sub | Cached | Rescue


@dataclass(frozen=True, repr=False)
class Program(_Brief):
    """A workflow, its input, and the items that its context starts with."""

    root: Node
    data: int = 0
    items: tuple[int, ...] = ()


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes that are right below a node, in order of declaration."""
    match node:
        case Agent() | Human():
            return ()
        case Seq():
            return node.steps
        case Parallel():
            return tuple(branch for _, branch in node.branches)
        case Router():
            return (node.agent, *(branch for _, branch in node.branches))
        case Map() | Loop() | Sub():
            return (node.body,)
        case Conditional():
            return node.branches if node.default is None else (*node.branches, node.default)
        case Refine():
            return (node.generator, node.critic)
        case Cached():
            return (node.inner,)
        case Rescue():
            return (node.primary, node.fallback)


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes below it."""
    yield node
    for child in children(node):
        yield from walk(child)


def walled(node: Node) -> set[str]:
    """Return the names of the steps that have a wall between them and the run's own context."""
    if isinstance(node, Sub) and not node.inherits:
        return {inner.name for inner in walk(node.body)}
    return {name for child in children(node) for name in walled(child)}


def weigh(value: object) -> int:
    """Return a small number that depends on all of a plain value, the order of dict keys included."""
    return zlib.crc32(repr(value).encode()) % 1009


def answer(agent: Agent, seen: object) -> Any:
    """Return what an agent answers to what it sees, as a plain value."""
    weight = weigh((agent.name, seen))
    match agent.shape:
        case "number":
            return weight % agent.modulus
        case "list":
            return [weight % 7 + i for i in range(weight % 4)]
        case "text":
            return f"{agent.name} says {weight}"
        case "update":
            return {"a": weight % 5, "notes": [weight % 5]}
        case "misfit":
            return {"b": weight % 5, "a": "no number"}
        case "stranger":
            return {"b": weight % 5, "aa": 1}
        case "check":
            return {"is_complete": weight % agent.modulus == 0, "feedback": f"{weight}"}
        case "route":
            picked = agent.picks[weight % len(agent.picks)]
            return picked[0] if len(picked) == 1 else list(picked)


def question(agent: Agent, seen: object) -> str:
    """Return what an agent asks a person."""
    return f"{agent.name} asks {weigh(seen)}"


def reply(message: str) -> int:
    """Return what a person answers."""
    return weigh(("person", message)) % 97
