"""Steps that turn out to be wrong while they run, after they were paid for."""

import asyncio
from typing import Any

from flujo import PluginOutcome, Step
from tests.integration.paid import Paid


class _Circle:
    """An agent that is paid for, and the plugin that sends its every answer back to it."""

    def __init__(self, cost_usd: float, *, began: asyncio.Event | None) -> None:
        self._cost_usd, self._began = cost_usd, began

    async def run(self, data: Any) -> Any:
        """Answer, for money, once the other step has begun."""
        if self._began is not None:
            await self._began.wait()
        return Paid("round", self._cost_usd, 3)

    async def validate(self, data: dict[str, Any]) -> PluginOutcome:
        """Refuse."""
        return PluginOutcome(success=False, feedback="again", redirect_to=self)


def circle(name: str, cost_usd: float = 0.5, *, began: asyncio.Event | None = None) -> Step[Any, Any]:
    """Return a step whose plugin redirects in a circle, which shows only after its first paid attempt.

    Args:
        name: The step's name.
        cost_usd: What its attempt costs; it takes 3 tokens.
        began: What its agent waits for.
    """
    agent = _Circle(cost_usd, began=began)
    return Step(name, agent, plugins=[(agent, 0)], max_retries=3)
