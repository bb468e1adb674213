"""The reference model: what a program has to come to, by plain recursion and without flujo.

There are no tasks, no frames and no governors here: branches run one after another, each on a deep copy of a dict,
and money is a sum of fractions over the calls. What remains is the meaning of each kind of step.
"""

import copy
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.properties.merging import FIELDS, Context, MergeConflictError, fresh_context, merge, narrowed
from tests.properties.programs import (
    Agent,
    Cached,
    Conditional,
    Effect,
    Fanout,
    Human,
    Loop,
    Map,
    Node,
    Parallel,
    Program,
    Refine,
    Rescue,
    Router,
    Seq,
    Sub,
    answer,
    children,
    question,
    reply,
    weigh,
)


@dataclass(slots=True)
class Trace:
    """What one step came to, with its children.

    Attributes:
        notes: What the kind of step has to say besides, such as `exit_reason`.
        feedback: What a real step says about its failure; the model does not predict the wording.
    """

    name: str
    status: str
    output: Any = None
    attempts: int = 1
    cost: Fraction = Fraction(0)
    tokens: int = 0
    children: list["Trace"] = field(default_factory=list["Trace"])
    notes: dict[str, Any] = field(default_factory=dict[str, Any])
    feedback: str | None = None

    @property
    def completed(self) -> bool:
        """Whether the step completed."""
        return self.status == "completed"

    def lines(self, indent: str = "") -> Iterator[str]:
        """Yield what the model predicts of this step and of the steps within it, a line each."""
        yield (
            f"{indent}{self.name} {self.status}: {self.output!r}, attempts {self.attempts}, "
            f"cost {self.cost}, tokens {self.tokens}, {sorted(self.notes.items())}"
        )
        for child in self.children:
            yield from child.lines(indent + "  ")

    def plain(self) -> Any:
        """Return the output, or what stands for a failed branch in the output of its parent."""
        return self.output if self.completed else {"branch": self.name, "status": self.status}


@dataclass(slots=True, frozen=True)
class Call:
    """One call of an agent: who was asked, the weight of what it saw, and what was charged."""

    agent: str
    weight: int
    cost: Fraction
    tokens: int


@dataclass(slots=True)
class Report:
    """What a whole run came to."""

    status: str
    output: Any
    history: list[Trace]
    context: Context
    cost: Fraction
    tokens: int
    calls: Counter[Call]

    def lines(self) -> list[str]:
        """Return the report as text: two are the same if a user could not tell the runs apart."""
        return [
            f"{self.status}: {self.output!r}, cost {self.cost}, tokens {self.tokens}",
            *(line for trace in self.history for line in trace.lines("  ")),
            *(f"context {name}: {self.context[name]!r}" for name in FIELDS),
            *sorted(f"{times} x {call}" for call, times in self.calls.items()),
        ]


def every(traces: Iterable[Trace]) -> Iterator[Trace]:
    """Yield traces and all traces below them."""
    for trace in traces:
        yield trace
        yield from every(trace.children)


class Model:
    """Runs programs; what cached steps remember outlives a run.

    Attributes:
        calls: The calls of the newest run.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._cache: dict[tuple[int, str], tuple[Any, dict[str, Any], Context]] = {}

    def run(self, program: Program) -> Report:
        """Return what a run of a program comes to."""
        self.calls = []
        context = fresh_context(program.items)
        root, data = program.root, program.data
        if isinstance(root, Seq):
            history, status, output = self._in_order(root.steps, data, context)
        else:
            whole = self._step(root, data, context)
            history, status, output = [whole], whole.status, whole.output
        cost, tokens = _sum(history)
        return Report(
            status,
            output if status == "completed" else None,
            history,
            context,
            cost,
            tokens,
            Counter(self.calls),
        )

    def _step(self, node: Node, data: Any, context: Context) -> Trace:
        match node:
            case Agent():
                return self._agent(node, data, context)
            case Human():
                message = str(data) if node.message is None else node.message
                return Trace(node.name, "completed", reply(message))
            case Seq():
                return self._seq(node, data, context)
            case Parallel():
                return self._parallel(node, data, context)
            case Router():
                return self._router(node, data, context)
            case Map():
                return self._map(node, data, context)
            case Loop():
                return self._loop(node, data, context)
            case Conditional():
                return self._conditional(node, data, context)
            case Refine():
                return self._refine(node, data, context)
            case Sub():
                return self._sub(node, data, context)
            case Cached():
                return self._cached(node, data, context)
            case Rescue():
                return self._rescue(node, data, context)

    def _agent(self, node: Agent, data: Any, context: Context) -> Trace:
        cost, tokens = Fraction(0), 0
        for ending in node.endings:
            fails = ending == "raises"
            charge = node.charge(fails=fails)
            taken = node.tokens * 2 if fails and node.streams else node.tokens
            self.calls.append(Call(node.name, weigh(data), charge, taken))
            cost, tokens = cost + charge, tokens + taken
            affect(context, node.effects, weigh(data) % 5)
        result = Trace(node.name, "failed", None, len(node.endings), cost, tokens)
        if node.endings[-1] == "raises":
            return result
        result.output = reply(question(node, data)) if node.asks else answer(node, data)
        if node.endings[-1] == "is refused" or node.shape in ("misfit", "stranger"):
            return result
        if node.shape == "update":
            context.update(copy.deepcopy(result.output))
        result.status = "completed"
        return result

    def _in_order(self, steps: Iterable[Node], data: Any, context: Context) -> tuple[list[Trace], str, Any]:
        history: list[Trace] = []
        for step in steps:
            ran = self._step(step, data, context)
            history.append(ran)
            if not ran.completed:
                return history, ran.status, None
            data = ran.output
        return history, "completed", data

    def _seq(self, node: Seq, data: Any, context: Context) -> Trace:
        if len(node.steps) == 1:
            return self._step(node.steps[0], data, context)
        history, status, output = self._in_order(node.steps, data, context)
        return _parent(node.name, history, status, output)

    def _branches(
        self, name: str, jobs: Sequence[tuple[str, Node, Any]], fanout: Fanout, context: Context, before: list[Trace]
    ) -> tuple[Trace, dict[str, Trace]]:
        """Return the trace without its output if that is worth anything, and the branches by name."""
        results: dict[str, Trace] = {}
        contexts: dict[str, Context] = {}
        for branch, body, data in jobs:
            own = narrowed(context, fanout.include)
            results[branch] = self._step(body, data, own)
            if results[branch].completed:
                contexts[branch] = own
        history = [*before, *results.values()]
        failed = [ran for ran in results.values() if not ran.completed]
        if failed and (not fanout.ignores_failures or len(failed) == len(jobs)):
            return _parent(name, history, "failed"), results
        try:
            merge(context, contexts, fanout)
        except MergeConflictError:
            return _parent(name, history, "failed"), {}
        return _parent(name, history, "completed"), results

    def _parallel(self, node: Parallel, data: Any, context: Context) -> Trace:
        jobs = [(branch, body, data) for branch, body in node.branches]
        result, branches = self._branches(node.name, jobs, node.fanout, context, [])
        result.output = {branch: ran.plain() for branch, ran in branches.items()} or None
        return result

    def _router(self, node: Router, data: Any, context: Context) -> Trace:
        choice = self._agent(node.agent, data, context)
        if not choice.completed:
            return _parent(node.name, [choice], "failed")
        known = dict(node.branches)
        picked = [choice.output] if isinstance(choice.output, str) else choice.output
        if any(name not in known for name in picked):
            return _parent(node.name, [choice], "failed")
        jobs = [(branch, body, data) for branch, body in node.branches if branch in picked]
        result, branches = self._branches(node.name, jobs, node.fanout, context, [choice])
        result.output = {branch: ran.plain() for branch, ran in branches.items()}
        if jobs and not branches:
            result.output = None
        return result

    def _map(self, node: Map, data: Any, context: Context) -> Trace:
        items = data if node.takes_input else context["items"]
        if not isinstance(items, list):
            return Trace(node.name, "failed")
        jobs: list[tuple[str, Node, Any]] = [(str(i), node.body, item) for i, item in enumerate(items)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # a list of anything
        result, branches = self._branches(node.name, jobs, node.fanout, context, [])
        result.output = [ran.plain() for ran in branches.values()]
        if jobs and not branches:
            result.output = None
        return result

    def _loop(self, node: Loop, data: Any, context: Context) -> Trace:
        history: list[Trace] = []
        for iteration in range(1, node.max_loops + 1):
            ran = self._step(node.body, data, context)
            history.append(ran)
            if not ran.completed:
                return _parent(node.name, history, "failed", ran.output, attempts=iteration)
            if weigh(ran.output) % node.modulus == 0:
                output = [ran.output] if node.remaps else ran.output
                return _parent(
                    node.name, history, "completed", output, attempts=iteration, notes={"exit_reason": "condition"}
                )
            data = weigh((ran.output, iteration)) if node.remaps else ran.output
        return _parent(
            node.name,
            history,
            "failed",
            history[-1].output,
            attempts=node.max_loops,
            notes={"exit_reason": "max_loops"},
        )

    def _conditional(self, node: Conditional, data: Any, context: Context) -> Trace:
        key = weigh(data) % node.modulus
        branch = node.branches[key] if key < len(node.branches) else node.default
        if branch is None:
            return Trace(node.name, "failed")
        ran = self._step(branch, weigh(data) if node.remaps else data, context)
        output = [key, ran.output] if node.remaps and ran.completed else ran.output
        return _parent(node.name, [ran], ran.status, output, notes={"executed_branch_key": key})

    def _refine(self, node: Refine, data: Any, context: Context) -> Trace:
        history: list[Trace] = []
        request: Any = {"original_input": data, "feedback": None}
        draft = None
        for turn in range(1, node.rounds + 1):
            draft = self._step(node.generator, request, context)
            history.append(draft)
            if not draft.completed:
                return _parent(node.name, history, "failed", attempts=turn)
            check = self._step(node.critic, draft.output, context)
            history.append(check)
            if not check.completed:
                return _parent(node.name, history, "failed", attempts=turn)
            if check.output["is_complete"]:
                notes = {"exit_reason": "condition"}
                return _parent(node.name, history, "completed", draft.output, attempts=turn, notes=notes)
            feedback = check.output["feedback"]
            request = weigh((data, feedback)) if node.remaps else {"original_input": data, "feedback": feedback}
        assert draft is not None
        notes = {"exit_reason": "max_loops"}
        return _parent(node.name, history, "failed", draft.output, attempts=node.rounds, notes=notes)

    def _sub(self, node: Sub, data: Any, context: Context) -> Trace:
        inner = copy.deepcopy(context) if node.inherits else fresh_context()
        if isinstance(node.body, Seq):
            history, status, output = self._in_order(node.body.steps, data, inner)
        else:
            whole = self._step(node.body, data, inner)
            history, status, output = [whole], whole.status, whole.output
        if node.inherits:
            context.update(inner)
        inner_output = output if status == "completed" else None
        return _parent(node.name, history, status, {"run": status, "output": inner_output})

    def _entire(self, node: Node, data: Any, context: Context) -> Trace:
        """Run what has something around it, so that a pipeline of one step is more than that step."""
        ran = self._step(node, data, context)
        if isinstance(node, Seq) and len(node.steps) == 1:
            return _parent(node.name, [ran], ran.status, ran.output)
        return ran

    def _cached(self, node: Cached, data: Any, context: Context) -> Trace:
        seen = context if _sees_context(node.inner) else {}
        key = (id(node), json.dumps([data, seen], sort_keys=True))
        if key in self._cache:
            output, notes, changes = copy.deepcopy(self._cache[key])
            context.update(changes)
            return Trace(node.name, "completed", output, attempts=0, notes={**notes, "cache_hit": True})
        before = copy.deepcopy(context)
        ran = self._entire(node.inner, data, context)
        if ran.completed:
            changes = {name: value for name, value in context.items() if value != before[name]}
            self._cache[key] = copy.deepcopy((ran.output, ran.notes, changes))
        ran.notes["cache_hit"] = False
        return ran

    def _rescue(self, node: Rescue, data: Any, context: Context) -> Trace:
        primary = self._entire(node.primary, data, context)
        if primary.completed:
            return primary
        if isinstance(node.primary, Seq):
            primary.output = None  # steps in order that do not all complete give nothing, be it one with a fallback
        rescue = self._step(node.fallback, data, context)
        return _parent(
            node.primary.name,
            [primary, rescue],
            rescue.status,
            rescue.output,
            attempts=primary.attempts + rescue.attempts,
            notes={**primary.notes, **rescue.notes, "fallback_triggered": True},
        )


def affect(context: Context, effects: Iterable[Effect], value: int) -> None:
    """Do to a context what an agent does to it."""
    for effect in effects:
        verb, name = effect.split()
        match verb:
            case "set":
                context[name] = value
            case "append":
                context["notes"].append(value)
            case "replace":
                context["notes"] = [value]
            case "put":
                context["tally"][name] = value
            case "drop":
                context["tally"].pop(name, None)
            case _:
                context["scratchpad"][name] = value


def _sees_context(node: Node) -> bool:
    """Tell whether a result may depend on the context: agents that never touch it do not, nor what is made of them."""
    if isinstance(node, Agent):
        return node.sees_context
    return not isinstance(node, Seq | Rescue) or any(map(_sees_context, children(node)))


def _sum(traces: Iterable[Trace]) -> tuple[Fraction, int]:
    traces = list(traces)
    return sum((trace.cost for trace in traces), Fraction(0)), sum(trace.tokens for trace in traces)


def _parent(
    name: str,
    history: list[Trace],
    status: str,
    output: Any = None,
    *,
    attempts: int = 1,
    notes: dict[str, Any] | None = None,
) -> Trace:
    cost, tokens = _sum(history)
    return Trace(name, status, output, attempts, cost, tokens, history, notes or {})
