"""Counts what a run spends, at every level that has a limit, and tells when a limit is passed.

Governors form a tree: the run, below it every step or branch with limits of its own, and every parallel step.
A charge is handed up from the innermost governor to the run before any level counts it;
then all levels count it in one synchronous stretch, so that it is on all of them or on none.
"""

import asyncio
from collections.abc import Callable
from decimal import Decimal

from flujo.domain.models import UsageLimits
from flujo.domain.money import ZERO, add_usd, format_usd


class UsageGovernor:
    """What one level of the tree may spend and has spent.

    Args:
        limits: What may be spent here; `None` for no limit.
        label: How errors speak of this level, such as `the run` or `step 'draft'`.
        parent: The level above; `None` for the run.
        on_breach: Called with a message whenever a charge leaves this level above its limit.
        cost: US dollars spent here before, for a run that goes on.
        tokens: Tokens spent here before, for a run that goes on.
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
    ) -> None:
        self._limits = limits
        self._label = label
        self._on_breach = on_breach
        self._parent = parent
        self.total_cost = cost
        self.total_tokens = tokens

    async def add_usage(self, cost: Decimal, tokens: int) -> None:
        """Charge this level and all levels above it.

        Args:
            cost: US dollars, exact.
            tokens: Tokens, input and output together.
        """
        if self._parent is not None:
            await self._parent.add_usage(cost, tokens)
        self._count(cost, tokens)

    def recall(self, cost: Decimal, tokens: int) -> None:
        """Charge this level and all levels above it with what was spent before the run went on."""
        if self._parent is not None:
            self._parent.recall(cost, tokens)
        self._count(cost, tokens)

    def child(self, limits: UsageLimits, *, label: str, cost: Decimal, tokens: int) -> "UsageGovernor":
        """Return the governor of a step below this level; `cost` and `tokens` are what it spent before."""
        return UsageGovernor(limits, label=label, on_breach=self._on_breach, parent=self, cost=cost, tokens=tokens)

    def for_branches(self) -> "_ParallelUsageGovernor":
        """Return the governor that the branches of a parallel step share."""
        return _ParallelUsageGovernor(None, label=self._label, on_breach=self._on_breach, parent=self)

    def breach(self) -> str | None:
        """Return which limit of this level is passed, with the limit and what was spent, or `None`."""
        if self._limits is None:
            return None
        dollars, tokens = self._limits.total_cost_usd_limit, self._limits.total_tokens_limit
        if dollars is not None and self.total_cost > dollars:
            return f"{self._label} passed its limit of {format_usd(dollars)}: {format_usd(self.total_cost)} spent"
        if tokens is not None and self.total_tokens > tokens:
            return f"{self._label} passed its limit of {tokens} tokens: {self.total_tokens} spent"
        return None

    def _count(self, cost: Decimal, tokens: int) -> None:
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
