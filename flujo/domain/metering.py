"""How an agent reserves what a call may cost before it makes it.

An agent that asks for `meter` by keyword gets a `Meter`. It reserves the most that a call can use, makes the call, and
settles the reservation to what the call did use; so the limits around the step hold at every moment.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from flujo.domain.money import ZERO


@dataclass(slots=True, frozen=True)
class Bound:
    """The most that a call can use.

    Attributes:
        cost: US dollars, exact.
        tokens: Input and output together.
        seconds: How long it may take; 0 for as long as it takes.
    """

    cost: Decimal = ZERO
    tokens: int = 0
    seconds: Decimal = ZERO

    def fits(self, usd: Decimal | None, tokens: int | None) -> bool:
        """Tell whether it is no more than these amounts; `None` is no limit."""
        return (usd is None or self.cost <= usd) and (tokens is None or self.tokens <= tokens)


class BoundedCall(Protocol):
    """A call of which it is known what it can use at the most."""

    @property
    def least(self) -> Bound:
        """What it can use at the most if it is made as small as is useful."""
        ...

    def within(self, usd: Decimal | None, tokens: int | None) -> Bound | None:
        """Return what the call can use at the most if it is made to fit into these amounts.

        Args:
            usd: US dollars; `None` for no limit.
            tokens: Input and output together; `None` for no limit.

        Returns:
            The whole call if that fits; `None` if it cannot be made small enough.
        """
        ...


@dataclass(slots=True, frozen=True)
class FixedCall:
    """A call that cannot be made smaller.

    Attributes:
        least: What it can use at the most.

    Example:
        ```python
        from decimal import Decimal

        from flujo import Flujo, Step, UsageLimits
        from flujo.domain.metering import Bound, FixedCall, Meter

        async def translate(text: str, *, meter: Meter) -> str:
            reservation = await meter.reserve(FixedCall(Bound(Decimal("0.02"), 500)))
            reservation.settle(Decimal("0.0031"), 77)  # what the provider's bill says
            return text.upper()

        limits = UsageLimits(total_cost_usd_limit=0.05)
        result = Flujo(Step("translate", translate), usage_limits=limits).run("river")
        assert result.total_cost_usd == 0.0031
        ```
    """

    least: Bound

    def within(self, usd: Decimal | None, tokens: int | None) -> Bound | None:
        """Return the call, or `None` if it does not fit."""
        return self.least if self.least.fits(usd, tokens) else None


@dataclass(slots=True, frozen=True)
class MeteredCall:
    """What one call of a step was charged; `StepResult.calls` has them all, in the order in which they ended.

    Attributes:
        label: What was called, such as `openai:gpt-4o`; `None` if nobody said.
        cost: US dollars, exact.
        tokens: Input and output together.
        is_uncertain: Whether all that was reserved was charged, because nobody knows what the call used.

    Example:
        ```python
        from decimal import Decimal

        from flujo import Flujo, Step
        from flujo.domain.metering import Bound, FixedCall, Meter, MeteredCall

        async def translate(text: str, *, meter: Meter) -> str:
            reservation = await meter.reserve(FixedCall(Bound(Decimal("0.02"))), label="translator")
            reservation.settle(Decimal("0.0031"), 77)
            return text.upper()

        result = Flujo(Step("translate", translate)).run("river")
        assert result.step_history[0].calls == [MeteredCall("translator", Decimal("0.0031"), 77)]
        ```
    """

    label: str | None
    cost: Decimal
    tokens: int
    is_uncertain: bool = False


class Reservation(Protocol):
    """What is set aside for one call; it is ended once, by one of its methods, and later ones do nothing."""

    @property
    def bound(self) -> Bound:
        """What the call may use at the most; less than was asked for if money is short."""
        ...

    def settle(self, cost: Decimal, tokens: int) -> None:
        """Charge what the call did use, which is known for sure, be it more than was reserved.

        Args:
            cost: US dollars, exact.
            tokens: Input and output together.
        """
        ...

    def release(self) -> None:
        """Charge nothing: the call is known to have cost nothing."""
        ...

    def lose(self) -> None:
        """Charge all that was reserved: nobody knows what the call has cost."""
        ...


class Meter(Protocol):
    """Reserves and charges what the calls of one step use."""

    @property
    def has_limit(self) -> bool:
        """Whether a limit has to hold at every moment, so that a call without a bound cannot be made."""
        ...

    @property
    def has_usd_limit(self) -> bool:
        """Whether a limit in dollars has to hold at every moment, so that a call without a price cannot be made."""
        ...

    @property
    def min_output_tokens(self) -> int:
        """The fewest output tokens that an answer is worth asking for."""
        ...

    @property
    def keeps_calls(self) -> bool:
        """Whether what calls give is kept, so that `recall` may find it."""
        ...

    def recall(self, key: str) -> Any | None:
        """Return what a call of this key gave, if an attempt at the step made it before the run was killed.

        It is charged as it was then; it need not be made again. `None` if there was none.
        """
        ...

    async def keep(self, key: str, value: Any, cost: Decimal, tokens: int) -> None:
        """Keep what a call gave that was settled, so that it is not made again if the run is killed now.

        Args:
            key: Tells the call from other calls; the same whenever the attempt is made again.
            value: What it gave, as JSON has it.
            cost: US dollars that it was charged, exact.
            tokens: Tokens that it was charged.
        """
        ...

    def doubt(self) -> None:
        """Note that a call may have cost more than it will be settled with, and nobody knows how much.

        An attempt that is reserved as a whole is then charged as a whole.
        """
        ...

    def fits(self, call: BoundedCall) -> bool:
        """Tell whether the call as a whole fits into what is not spent, as far as that is known here."""
        ...

    async def reserve(self, call: BoundedCall, *, label: str | None = None) -> Reservation:
        """Set aside what a call can use, on all levels of limits at once; wait if only reservations stand in the way.

        Args:
            call: The call.
            label: What is called, as the result of the step shows it, such as `openai:gpt-4o`.

        Raises:
            RefusedCallError: What is spent leaves too little; nothing more starts in the run.
        """
        ...
