"""The step that pays for whatever runs within it, wherever that asks a model."""

import asyncio
import logging
from contextvars import ContextVar
from decimal import Decimal
from typing import Any, Protocol

from flujo.domain.metering import Meter, MeteredCall
from flujo.exceptions import UnboundedCallError
from flujo.utils.warn_once import warn_once

_log = logging.getLogger("flujo.agents")


class PayingStep(Protocol):
    """An agent step under way, which pays for all that runs within it and can be metered."""

    @property
    def meter(self) -> Meter:
        """What reserves and charges for it."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it runs in; its meter is for that alone."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it has ended, so that it pays for nothing more."""
        ...

    async def charge(self, cost: Decimal, tokens: int, seconds: float) -> None:
        """Charge what a run within it has paid that nothing had reserved.

        Args:
            cost: US dollars, exact.
            tokens: Input and output together.
            seconds: How long it took.
        """
        ...

    def recall(self, key: str) -> tuple[Any, MeteredCall] | None:
        """Return what a call of a run within it gave, and was charged, before the run of the step was killed."""
        ...

    def covers(self, location: object, budget: str) -> bool:
        """Tell whether what it pays is counted in a budget that is kept in such a place."""
        ...


PAYING_STEP: ContextVar[PayingStep | None] = ContextVar("PAYING_STEP", default=None)
"""The innermost agent step that is under way here, be it in its agent, a processor, a plugin or a validator."""


def paying_step() -> PayingStep | None:
    """Return the step that pays for what is called now, if there is one that can.

    Raises:
        UnboundedCallError: A limit has to hold for it, which cannot.
    """
    step = PAYING_STEP.get()
    if step is None or (step.loop is _running_loop() and not step.is_over):
        return step
    where = "after the step has ended" if step.is_over else "in an event loop of its own"
    if step.meter.has_limit:
        raise UnboundedCallError(
            f"a step asks a model {where}, where no limit can hold; make the function that does async, and await it"
        )
    warn_once(_log, f"what it costs if a step asks a model {where} is not counted")
    return None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
