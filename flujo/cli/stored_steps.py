"""Reads what is stored of a run as a tree of steps, without the types of the user's values.

The journal holds the frontier of a run: a step that finished has one entry, with everything that ran within it;
a step that did not finish has none of its own unless it paid, asked or noted something, but those within it may.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from flujo.domain.metering import MeteredCall
from flujo.domain.models import StepPath
from flujo.domain.money import ZERO, add_usd, subtract_usd
from flujo.domain.results import CALLS
from flujo.exceptions import StateCorruptedError
from flujo.state.records import JournalEntry, StoredRun, read_path, running_order
from flujo.utils.declared_types import name_of
from flujo.utils.narrowing import is_dict, is_list


@dataclass(slots=True)
class StoredStep:
    """What is stored of a step.

    Attributes:
        path: Its address; empty within a step that finished, where only the order is known.
        name: Its name; empty if nothing says it.
        status: How it ended; `waiting` for a person, `answered` by one, or `unfinished`.
        attempts: How often its agent was called.
        latency_s: Seconds from start to end; `None` if it did not end.
        cost: US dollars, exact, of all steps within it.
        tokens: Tokens of all steps within it.
        at: When that was stored, in seconds since 1970; `None` if it never had an entry of its own.
        feedback: Why it failed.
        question: What it asks a person.
        answer: What a person answered, as it is stored.
        output: What it gave, as it is stored.
        calls: What its agent was charged call by call, where that was metered.
        steps: The steps within it.
    """

    path: StepPath = ()
    name: str = ""
    status: str = "unfinished"
    attempts: int = 0
    latency_s: float | None = None
    cost: Decimal = ZERO
    tokens: int = 0
    at: float | None = None
    feedback: str | None = None
    question: str | None = None
    answer: Any = None
    output: Any = None
    calls: list[MeteredCall] = field(default_factory=list[MeteredCall])
    steps: "list[StoredStep]" = field(default_factory=list["StoredStep"])

    def walk(self, most_children: int | None = None) -> "Iterable[StoredStep]":
        """Yield the step and all steps within it, or no more of each one's children than this."""
        yield self
        for step in self.steps[:most_children]:
            yield from step.walk(most_children)

    def rest(self) -> tuple[Decimal, int]:
        """Return the dollars and tokens of the step that are neither of a step within it nor of one of its calls."""
        parts: list[StoredStep | MeteredCall] = [*self.steps, *self.calls]
        cost, tokens = sum_of(parts)
        return (subtract_usd(self.cost, cost), self.tokens - tokens) if parts else (ZERO, 0)

    def as_dict(self) -> dict[str, Any]:
        """Return the step as JSON has it."""
        return {
            "path": list(self.path),
            "name": self.name,
            "status": self.status,
            "attempts": self.attempts,
            "latency_s": self.latency_s,
            "cost": str(self.cost),
            "tokens": self.tokens,
            "at": self.at,
            "feedback": self.feedback,
            "question": self.question,
            "answer": self.answer,
            "output": self.output,
            "calls": [{**asdict(call), "cost": str(call.cost)} for call in self.calls],
            "steps": [step.as_dict() for step in self.steps],
        }


def sum_of(parts: Iterable[StoredStep | MeteredCall]) -> tuple[Decimal, int]:
    """Return the exact dollars and the tokens of steps and calls together."""
    cost, tokens = ZERO, 0
    for part in parts:
        cost, tokens = add_usd(cost, part.cost), tokens + part.tokens
    return cost, tokens


def stored_steps(stored: StoredRun) -> list[StoredStep]:
    """Return the top-level steps of a run.

    Raises:
        StateCorruptedError: An entry cannot be read.
    """
    root = StoredStep()
    nodes: dict[StepPath, StoredStep] = {(): root}
    run_id = stored.record.run_id
    if not stored.record.is_intact():
        raise StateCorruptedError(
            f"the record of run {run_id!r} is damaged in the store; flujo doctor says more", run_id=run_id
        )
    finished = {read_path(entry.path) for entry in stored.entries if entry.kind == "done"}
    for entry in stored.entries:
        if not entry.is_intact(run_id) or entry.kind not in _KINDS:
            raise _damaged(entry, run_id)
    for entry in sorted(stored.entries, key=_order):
        path = read_path(entry.path)
        if any(path[:length] in finished for length in range(len(path))):
            continue  # an answer within a step that finished since
        try:
            _fill(_node(nodes, path), entry)
        except (ValueError, KeyError, TypeError, ArithmeticError) as error:
            raise _damaged(entry, run_id) from error
    _add_up(root)
    return root.steps


def _damaged(entry: JournalEntry, run_id: str) -> StateCorruptedError:
    return StateCorruptedError(
        f"the entry of step {entry.path} of run {run_id!r} is damaged in the store; flujo doctor says more",
        run_id=run_id,
    )


_KINDS = ("note", "held", "call", "spent", "asked", "answer", "done")
"""The kinds of entries of one step: what comes later says more of how it stands."""


def _order(entry: JournalEntry) -> tuple[list[tuple[str, int]], int]:
    """Return a key that sorts steps as they run, and the entries of one step as they are read."""
    return running_order(read_path(entry.path)), _KINDS.index(entry.kind)


def _node(nodes: dict[StepPath, StoredStep], path: StepPath) -> StoredStep:
    """Return the step at a path, and make it and those around it if need be."""
    if (node := nodes.get(path)) is None:
        node = nodes[path] = StoredStep(path)
        _node(nodes, path[:-1]).steps.append(node)
    return node


def _fill(node: StoredStep, entry: JournalEntry) -> None:
    data = json.loads(entry.payload)
    node.at = entry.at if node.at is None else max(node.at, entry.at)
    match entry.kind:
        case "done":
            _take_result(node, data["result"])
        case "held" | "call":
            fields = data["v"]
            node.cost = add_usd(node.cost, Decimal(fields["cost"]["v"]))
            node.tokens += fields["tokens"]
            if entry.kind == "held":
                node.calls += _calls_in(fields["calls"])
            elif fields["tokens"] or Decimal(fields["cost"]["v"]):  # or else it is what a tool gave
                node.calls.append(_call(fields))
        case "spent":
            _take_fields(node, data)
            fields = data["v"]
            node.name, node.status, node.latency_s = fields["name"], fields["status"], fields["latency_s"]
            node.feedback = plain(fields["feedback"])
        case "asked":
            _take_fields(node, data)
            node.question, node.status = data["v"]["message"], "waiting"
        case "answer":
            node.answer = data["v"]["interaction"]["v"]["human_response"]
            node.status = "answered"
        case "note":
            _take_first_try(node, data["v"])


def _take_result(node: StoredStep, result: Any) -> None:
    node.name, node.status = result["name"], result["status"]
    node.attempts, node.latency_s = result["attempts"], result["latency_s"]
    node.cost, node.tokens = Decimal(result.get("cost", ZERO)), result.get("tokens", 0)
    node.feedback = plain(result.get("feedback"))
    node.output = result["output"]
    node.calls = _calls_said(result.get("metadata"))
    for each in result.get("steps", ()):
        child = StoredStep(at=each.get("at"))
        _take_result(child, each)
        node.steps.append(child)


def _take_fields(node: StoredStep, data: Any) -> None:
    """Take what a step has spent that did not finish."""
    fields = data["v"]
    node.attempts += fields["attempts"]
    node.cost = add_usd(node.cost, Decimal(fields["cost"]["v"]))
    node.tokens += fields["tokens"]
    node.calls += _calls_in(fields["calls"])


def _take_first_try(node: StoredStep, fields: Any) -> None:
    """Take what the first try of a step came to whose fallback did not end; other notes say nothing to people."""
    if not is_dict(fields) or "primary" not in fields:
        return
    said = fields["primary"]["v"]
    node.steps.append(
        StoredStep(
            name=said["name"],
            status=said["status"],
            attempts=said["attempts"],
            latency_s=said.get("latency_s"),
            cost=Decimal(said["cost"]["v"]) if "cost" in said else ZERO,
            tokens=said.get("token_counts", 0),
            feedback=plain(said.get("feedback")),
            output=said["output"],
            calls=_calls_said(said.get("metadata_")),
        )
    )


_CALL = name_of(MeteredCall)


def _calls_said(metadata: Any) -> list[MeteredCall]:
    """Return the calls that are told of in a step's metadata, where anything else may be told."""
    return _calls_in(metadata.get(CALLS)) if is_dict(metadata) else []


def _calls_in(values: Any) -> list[MeteredCall]:
    """Return the calls in a list or a tuple."""
    listed = values["v"] if is_dict(values) and "v" in values else values
    return [_call(each["v"]) for each in listed if is_dict(each) and each.get("t") == _CALL] if is_list(listed) else []


def _call(fields: Any) -> MeteredCall:
    return MeteredCall(
        plain(fields["label"]), Decimal(fields["cost"]["v"]), fields["tokens"], is_uncertain=fields["is_uncertain"]
    )


def _add_up(node: StoredStep) -> None:
    """Let steps that did not finish have what those within them have."""
    if node.latency_s is not None:
        return
    for step in node.steps:
        _add_up(step)
        node.cost, node.tokens = add_usd(node.cost, step.cost), node.tokens + step.tokens
    if node.status == "unfinished" and any(step.status == "waiting" for step in node.steps):
        node.status = "waiting"


def waiting_steps(steps: Sequence[StoredStep]) -> list[StoredStep]:
    """Return the steps that wait for a person, at every depth."""
    return [each for step in steps for each in step.walk() if each.question is not None and each.status == "waiting"]


def failed_steps(steps: Sequence[StoredStep]) -> list[StoredStep]:
    """Return the steps that did not finish for a reason of their own, at every depth."""
    within = [each for step in steps for each in step.walk()]
    return [each for each in within if each.path and each.feedback is not None and each.status != "completed"]


def plain(value: Any) -> Any:
    """Return a stored value as JSON without the marks that tell its type."""
    if is_list(value):
        return [plain(each) for each in value]
    if not is_dict(value):
        return value
    if "$" in value and "v" in value:
        return "".join(value["v"]) if value["$"] == "str" else plain(value["v"])
    return {key: plain(each) for key, each in value.items()}
