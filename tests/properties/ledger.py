"""Limits on random steps, and an account of them that is kept outside flujo.

A hook notes the path of the step that is about to run in the current task, so that each charge is known by the place
where it was made. The account of a limit is the sum of the charges below its path, and the first charge that takes an
account past its limit is the breach: nothing may begin after it.
"""

from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact
from fractions import Fraction

from flujo import PreStepPayload, StepPath, UsageLimits
from tests.properties.model import Trace, every
from tests.properties.programs import Node, Router, Seq, walk
from tests.properties.world import PATH, Event

_EXACT = Context(prec=300, traps=[Inexact])


def dollars(amount: Fraction) -> Decimal:
    """Return an amount as a decimal, exactly."""
    return _EXACT.divide(Decimal(amount.numerator), Decimal(amount.denominator))


@dataclass(slots=True)
class Ledger:
    """The limits of one run by the path they stand at; those of the run stand at the empty path.

    Attributes:
        limits: By path; steps are added when they start.
    """

    limits: dict[StepPath, UsageLimits] = field(default_factory=dict[StepPath, UsageLimits])

    async def note(self, payload: PreStepPayload) -> None:
        """Be the hook that notes where the current task is."""
        PATH.set(payload.path)
        if payload.step.usage_limits is not None:
            self.limits[payload.path] = payload.step.usage_limits

    def breach(self, events: list[Event]) -> int | None:
        """Return the position of the event that passed a limit, or `None`."""
        spent = {path: (Fraction(0), 0) for path in self.limits}
        for position, event in enumerate(events):
            for path, limits in self.limits.items():
                if event.path[: len(path)] == path:
                    cost, tokens = spent[path]
                    spent[path] = cost + event.cost, tokens + event.tokens
                    if _is_passed(limits, *spent[path]):
                        return position
        return None


def _is_passed(limits: UsageLimits, cost: Fraction, tokens: int) -> bool:
    most, most_tokens = limits.total_cost_usd_limit, limits.total_tokens_limit
    return (most is not None and cost > Fraction(most)) or (most_tokens is not None and tokens > most_tokens)


def dearest(root: Node, traces: list[Trace]) -> dict[str, tuple[Fraction, int]]:
    """Return by name, for the steps that may have limits, the most that one execution spent: dollars and tokens.

    The agent of a router has no limits of its own, and of a pipeline of one step there is no result to see it by.
    """
    hidden = {node.agent.name for node in walk(root) if isinstance(node, Router)}
    hidden |= {node.name for node in walk(root) if isinstance(node, Seq) and len(node.steps) == 1}
    most: dict[str, tuple[Fraction, int]] = {}
    for trace in every(traces):
        if trace.name not in hidden:
            cost, tokens = most.get(trace.name, (Fraction(0), 0))
            most[trace.name] = max(cost, trace.cost), max(tokens, trace.tokens)
    return most


def exact_limits(root: Node, traces: list[Trace]) -> dict[str, UsageLimits]:
    """Return by name, for the steps that may have limits, the limit that the dearest execution meets."""
    return {
        name: UsageLimits(total_cost_usd_limit=dollars(cost), total_tokens_limit=tokens)
        for name, (cost, tokens) in dearest(root, traces).items()
    }
