"""Counts what a run spends, at every level that has a limit, and tells when a limit is passed.

Governors form a tree: the run, below it every step or branch with limits of its own, and every parallel step.
A charge is handed up from the innermost governor to the run before any level counts it;
then all levels count it in one synchronous stretch, so that it is on all of them or on none.
"""

import asyncio
from collections.abc import Callable
from decimal import Decimal

from flujo.application.core.admissions import Admissions, HeldReservation
from flujo.domain.budgets import AmountLimits, Amounts
from flujo.domain.metering import Bound, BoundedCall
from flujo.domain.models import UsageLimits
from flujo.domain.money import ZERO, add_usd, format_usd, subtract_usd
from flujo.domain.observers import UsageLevel

THE_RUN = "the run"
"""The label of the outermost level."""


class UsageGovernor:
    """What one level of the tree may spend and has spent.

    Args:
        limits: What may be spent here; `None` for no limit.
        label: How errors speak of this level, such as `the run` or `step 'draft'`.
        parent: The level above; `None` for the run.
        on_breach: Called with a message whenever a charge leaves this level above its limit.
        cost: US dollars spent here before, for a run that goes on.
        tokens: Tokens spent here before, for a run that goes on.
        admissions: Where calls wait; those of the level above, or of its own for the run.

    Attributes:
        total_cost: US dollars spent here, exact.
        total_tokens: Tokens spent here.
        reserved_cost: US dollars that calls in flight may cost.
        reserved_tokens: Tokens that calls in flight may use.
        uncertain_cost: The part of `total_cost` that was charged for calls of which nobody knows what they cost.
    """

    def __init__(
        self,
        limits: UsageLimits | None,
        *,
        label: str,
        on_breach: Callable[[str], None],
        parent: "UsageGovernor | None" = None,
        cost: Decimal = ZERO,
        tokens: int = 0,
        admissions: Admissions | None = None,
    ) -> None:
        self._limits = limits
        self.label = label
        self._on_breach = on_breach
        self._parent = parent
        self._levels: tuple[UsageGovernor, ...] = (self, *(() if parent is None else parent._levels))
        self._admissions: Admissions = admissions or (Admissions() if parent is None else parent._admissions)
        self.total_cost = cost
        self.total_tokens = tokens
        self.reserved_cost = ZERO
        self.reserved_tokens = 0
        self.uncertain_cost = ZERO

    async def add_usage(self, cost: Decimal, tokens: int) -> None:
        """Charge this level and all levels above it.

        Args:
            cost: US dollars, exact.
            tokens: Tokens, input and output together.
        """
        if self._parent is not None:
            await self._parent.add_usage(cost, tokens)
        self.count(cost, tokens)

    def recall(self, cost: Decimal, tokens: int) -> None:
        """Charge this level and all levels above it with what was spent before the run went on."""
        if self._parent is not None:
            self._parent.recall(cost, tokens)
        self.count(cost, tokens)

    def child(self, limits: UsageLimits, *, label: str, cost: Decimal, tokens: int) -> "UsageGovernor":
        """Return the governor of a step below this level; `cost` and `tokens` are what it spent before."""
        return UsageGovernor(limits, label=label, on_breach=self._on_breach, parent=self, cost=cost, tokens=tokens)

    def for_branches(self) -> "_ParallelUsageGovernor":
        """Return the governor that the branches of a parallel step share."""
        return _ParallelUsageGovernor(None, label=self.label, on_breach=self._on_breach, parent=self)

    def breach(self) -> str | None:
        """Return which limit of this level is passed, with the limit and what was spent, or `None`."""
        if self._limits is None:
            return None
        dollars, tokens = self._limits.total_cost_usd_limit, self._limits.total_tokens_limit
        if dollars is not None and self.total_cost > dollars:
            return f"{self.label} passed its limit of {format_usd(dollars)}: {format_usd(self.total_cost)} spent"
        if tokens is not None and self.total_tokens > tokens:
            return f"{self.label} passed its limit of {tokens} tokens: {self.total_tokens} spent"
        return None

    async def reserve(self, call: BoundedCall) -> HeldReservation:
        """Set aside what a call may use on this level and all above it, once it fits on all of them.

        Raises:
            RefusedCallError: What is spent leaves too little for it.
        """
        return await self._admissions.admit(call, self._levels)

    def fits(self, bound: Bound) -> bool:
        """Tell whether so much fits into what is not spent on this level and all above it."""
        return all(bound.fits(*level.left(counts_reserved=False)) for level in self._levels if level.has_hard_limit)

    @property
    def has_hard_limit(self) -> bool:
        """Whether limits of this level hold at every moment, and not only after each step."""
        limits = self._limits
        if limits is None or limits.mode != "hard":
            return False
        return limits.total_cost_usd_limit is not None or limits.total_tokens_limit is not None

    @property
    def has_limit(self) -> bool:
        """Whether a limit, of this level or of one above, holds at every moment."""
        return any(level.has_hard_limit for level in self._levels)

    @property
    def has_usd_limit(self) -> bool:
        """Whether a limit in dollars, of this level or of one above, holds at every moment."""
        return any(
            level._limits is not None and level.has_hard_limit and level._limits.total_cost_usd_limit is not None
            for level in self._levels
        )

    @property
    def min_output_tokens(self) -> int:
        """The fewest output tokens that an answer is worth asking for: the most that a level wants."""
        return max((level._limits.min_output_tokens for level in self._levels if level._limits is not None), default=1)

    def left(self, *, counts_reserved: bool) -> tuple[Decimal | None, int | None]:
        """Return the dollars and tokens that may be spent here yet; `None` is no limit."""
        limits = self._limits
        if limits is None:
            return None, None
        usd, tokens = limits.total_cost_usd_limit, limits.total_tokens_limit
        if usd is not None:
            usd = subtract_usd(usd, self.total_cost)
            usd = subtract_usd(usd, self.reserved_cost) if counts_reserved else usd
        if tokens is not None:
            tokens -= self.total_tokens + (self.reserved_tokens if counts_reserved else 0)
        return usd, tokens

    def level(self) -> UsageLevel:
        """Return how this level stands now, for those who watch the run."""
        limits = self._limits
        limit = AmountLimits(limits.total_cost_usd_limit, limits.total_tokens_limit) if limits else AmountLimits()
        return UsageLevel(
            label=self.label,
            spent=Amounts(self.total_cost, self.total_tokens),
            reserved=Amounts(self.reserved_cost, self.reserved_tokens),
            uncertain_usd=self.uncertain_cost,
            limit=limit,
        )

    def hold(self, bound: Bound) -> None:
        """Set an amount aside."""
        self.reserved_cost = add_usd(self.reserved_cost, bound.cost)
        self.reserved_tokens += bound.tokens

    def let_go(self, bound: Bound) -> None:
        """Set an amount aside no longer."""
        self.reserved_cost = subtract_usd(self.reserved_cost, bound.cost)
        self.reserved_tokens -= bound.tokens

    def count(self, cost: Decimal, tokens: int, *, is_uncertain: bool = False) -> None:
        """Count what was spent on this level alone, and tell of a breach."""
        if is_uncertain:
            self.uncertain_cost = add_usd(self.uncertain_cost, cost)
        self.total_cost = add_usd(self.total_cost, cost)
        self.total_tokens += tokens
        if self._limits is not None and (breach := self.breach()) is not None:
            self._on_breach(breach)


class _ParallelUsageGovernor(UsageGovernor):
    """The governor that the branches of one parallel step share.

    The lock is held while the levels above count the charge.
    That cannot deadlock, because locks are only ever taken from the inside to the outside.
    """

    def __init__(
        self,
        limits: UsageLimits | None,
        *,
        label: str,
        on_breach: Callable[[str], None],
        parent: UsageGovernor | None = None,
    ) -> None:
        super().__init__(limits, label=label, on_breach=on_breach, parent=parent)
        self._lock = asyncio.Lock()

    async def add_usage(self, cost: Decimal, tokens: int) -> None:
        """Charge this level and all levels above it, one branch at a time."""
        async with self._lock:
            await super().add_usage(cost, tokens)
