"""What a run can cost at the most, known before it starts.

Each kind of step says what one execution of it can cost, given what the steps within it can (`BaseStep.own_ceiling`).
`ceiling_of` asks all steps, the innermost first, and adds what every step may have: a fallback, and limits of its own.

A hard limit in dollars bounds a step only if everything within it is reserved before it is spent, because what an
answer just reports is counted when it is spent already. So a ceiling knows besides its amount whether that is so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Protocol

from flujo.domain.models import StepPath, UsageLimits
from flujo.domain.money import ZERO, add_usd, format_usd, multiply_usd

_UNKNOWN = "unknown"


@dataclass(slots=True, frozen=True, kw_only=True)
class Ceiling:
    """What one execution of a step can cost at the most.

    Attributes:
        usd: US dollars, exact; `None` if there is no bound.
        basis: What the amount comes from, such as `max_loops=5`; empty for a step that is no more than the
            step within it, and is not shown.
        unbounded: What makes the step itself unbounded, and what to do; `None` if nothing does, whatever is within it.
        is_reserved: Whether the step reserves all that it spends itself, so that a hard limit around it holds.
    """

    usd: Decimal | None
    basis: str = ""
    unbounded: str | None = None
    is_reserved: bool = True

    @classmethod
    def free(cls, basis: str) -> "Ceiling":
        """Return the ceiling of a step that costs nothing."""
        return cls(usd=ZERO, basis=basis)

    @classmethod
    def none(cls, unbounded: str, *, is_reserved: bool) -> "Ceiling":
        """Return that there is none.

        Args:
            unbounded: Why, and what to do.
            is_reserved: Whether a hard limit around the step holds for it all the same.
        """
        return cls(usd=None, basis=_UNKNOWN, unbounded=unbounded, is_reserved=is_reserved)

    @classmethod
    def sum_of(cls, inner: Iterable["Ceiling"], basis: str, *, times: int = 1) -> "Ceiling":
        """Return the ceiling of a step that runs all steps within it, so many times."""
        return cls(usd=_sum([each.usd for each in inner], times), basis=basis)

    @classmethod
    def dearest_of(cls, inner: Iterable["Ceiling"], basis: str) -> "Ceiling":
        """Return the ceiling of a step that runs one of the steps within it."""
        known = [each.usd for each in inner]
        amounts = [usd for usd in known if usd is not None]
        return cls(usd=max(amounts, default=ZERO) if len(amounts) == len(known) else None, basis=basis)


@dataclass(slots=True, frozen=True)
class StepCeiling:
    """What one execution of one step of a workflow can cost at the most.

    Attributes:
        path: Where the step is, such as `("1", "branch:legal", "0")`; every iteration or item of a step is one.
        step_name: What it is called.
        basis: What the amount comes from, such as `2 attempts of $0.02`.
        usd: US dollars, exact, with all attempts, the fallback and what is within the step; `None` for no bound.
        unbounded: What makes the step itself unbounded, and what to do; `None` if nothing does.
    """

    path: StepPath
    step_name: str
    basis: str
    usd: Decimal | None
    unbounded: str | None


@dataclass(slots=True, frozen=True)
class CostCeiling:
    """What a run of a workflow can cost at the most.

    Attributes:
        usd: US dollars, exact; `None` if anything is unbounded.
        by_step: What each step can cost, outer steps first.
        unbounded: What makes it unbounded, by step, and what to do; empty if there is an amount.

    Example:
        ```python
        from flujo import Step, step

        @step(max_cost_usd=0.02, max_retries=1)
        async def translate(text: str) -> str:
            return text.upper()

        every = Step.map_over("every", translate, max_items=100)
        assert every.cost_ceiling().usd == 4
        ```
    """

    usd: Decimal | None
    by_step: tuple[StepCeiling, ...] = field(repr=False)
    unbounded: tuple[str, ...]

    def __str__(self) -> str:
        """Return the amount, or what makes it unbounded."""
        return f"no ceiling: {'; '.join(self.unbounded)}" if self.usd is None else f"at most {format_usd(self.usd)}"


class Bounded(Protocol):
    """A step, as far as its ceiling is concerned."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def usage_limits(self) -> UsageLimits | None:
        """What each execution of it may use."""
        ...

    @property
    def fallback_step(self) -> "Bounded | None":
        """What runs when it failed."""
        ...

    def children(self) -> "Iterable[tuple[str, Bounded]]":
        """Return the steps within it, each with its part of the path."""
        ...

    def describe(self) -> str:
        """Return how errors speak of it."""
        ...

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return what one execution can cost, without its fallback and limits; `inner` is in the order of children."""
        ...


@dataclass(slots=True)
class _Node:
    """A step of the workflow, and what it can cost once the steps within it are known.

    Attributes:
        own: What the step says of itself.
        usd: What it can cost with its fallback and limits.
        basis: What that comes from.
        is_reserved: Whether it and all within it reserve what they spend.
        is_limited: Whether a hard limit of its own would bound it, if all within it were reserved.
        defies_limits: Whether it, or a step within it, is unbounded whatever hard limits are around it.
    """

    step: Bounded
    path: StepPath
    inner: "list[_Node]" = field(default_factory=list["_Node"])
    fallback: "_Node | None" = None
    own: Ceiling = field(default_factory=lambda: Ceiling(usd=ZERO))
    usd: Decimal | None = None
    basis: str = ""
    is_reserved: bool = True
    is_limited: bool = False
    defies_limits: bool = False

    @property
    def parts(self) -> "list[_Node]":
        return self.inner if self.fallback is None else [*self.inner, self.fallback]

    def conclude(self) -> None:
        """Take what the steps within came to, and what this one says, together."""
        self.own = self.step.own_ceiling([replace(each.own, usd=each.usd) for each in self.inner])
        self.usd, self.basis = self.own.usd, self.own.basis
        self.is_reserved = self.own.is_reserved and all(part.is_reserved for part in self.parts)
        self.defies_limits = self._defies_limits() or any(part.defies_limits for part in self.parts)
        if self.fallback is not None:
            self.usd = _sum([self.usd, self.fallback.usd], 1)
            self._say("then its fallback")
        self.limit(self.step.usage_limits)

    def reason(self, *, is_limited: bool) -> str | None:
        """Return what makes the step itself unbounded, if anything does, or under limits if they do not bound it."""
        return None if is_limited and not self._defies_limits() else self.own.unbounded

    def _defies_limits(self) -> bool:
        return self.own.unbounded is not None and not self.own.is_reserved

    def limit(self, limits: UsageLimits | None) -> None:
        """Let limits bound what the step can cost, if they hold."""
        usd = None if limits is None or limits.mode != "hard" else limits.total_cost_usd_limit
        if usd is None:
            return
        self.is_limited = True
        if self.is_reserved and (self.usd is None or usd < self.usd):
            self.usd = usd
            self._say(f"limited to {format_usd(usd)}")

    def _say(self, more: str) -> None:
        self.basis = f"{self.basis}, {more}" if self.basis not in ("", _UNKNOWN) else more


def ceiling_of(step: Bounded, limits: UsageLimits | None) -> CostCeiling:
    """Return what a run of a step can cost at the most.

    Args:
        step: The step or pipeline.
        limits: The limits of the run.
    """
    nodes = _nodes(step)
    for node in reversed(nodes):  # the steps within a step come after it
        node.conclude()
    root = nodes[0]
    root.limit(limits)
    lines = [
        StepCeiling(
            node.path, node.step.name, node.basis, node.usd, None if node.usd is not None else node.own.unbounded
        )
        for node in nodes
        if node.basis  # or else it is no more than the step within it
    ]
    return CostCeiling(root.usd, tuple(lines), tuple(_reasons(root)))


def _nodes(step: Bounded) -> list[_Node]:
    """Return a step and all steps within it, outer steps first; without recursion, however deep they are nested."""
    root = _Node(step, ())
    nodes, waiting = list[_Node](), [root]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        node.inner = [_Node(child, (*node.path, part)) for part, child in node.step.children()]
        if node.step.fallback_step is not None:
            node.fallback = _Node(node.step.fallback_step, (*node.path, "fallback"))
        waiting.extend(reversed(node.parts))
    return nodes


def _reasons(root: _Node) -> list[str]:
    """Return what makes a workflow unbounded; where there is a hard limit, what keeps it from bounding the rest."""
    reasons, waiting = list[str](), [(root, False)]
    while waiting:
        node, is_limited = waiting.pop()
        if node.usd is not None or (is_limited and not node.defies_limits):
            continue
        is_limited = is_limited or (node.is_limited and node.defies_limits)
        if (reason := node.reason(is_limited=is_limited)) is not None:
            where = f" at {'/'.join(node.path)}" if node.path else ""
            reasons.append(f"{node.step.describe()}{where}: {reason}")
        waiting.extend((part, is_limited) for part in reversed(node.parts))
    return reasons


def _sum(amounts: Sequence[Decimal | None], times: int) -> Decimal | None:
    total = ZERO
    for usd in amounts:
        if usd is None:
            return None
        total = add_usd(total, usd)
    return multiply_usd(total, Decimal(times))
