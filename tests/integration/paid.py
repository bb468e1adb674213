"""Agents that cost something, for tests of limits."""

import asyncio
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flujo import PipelineResult, Step, StepResult, UsageLimitExceededError


@dataclass(frozen=True)
class Paid:
    """An answer that reports what it cost."""

    output: Any
    cost_usd: Decimal | float
    token_counts: int = 0


def paid_step(name: str, cost_usd: Decimal | float = 0, tokens: int = 0, **config: Any) -> Step[Any, Any]:
    """Return a step that gives its input back for a price."""

    async def answer(data: Any) -> Any:
        return Paid(data, cost_usd, tokens)

    return Step(name, answer, **config)


def waiting_step(name: str, started: asyncio.Event) -> Step[Any, Any]:
    """Return a step that says that it has started and then never answers."""

    async def wait(data: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    return Step(name, wait)


def leaves(results: list[StepResult]) -> Iterator[StepResult]:
    """Yield the results of the agent calls below some results."""
    for result in results:
        if result.step_history:
            yield from leaves(result.step_history)
        else:
            yield result


def steps_named(results: list[StepResult], name: str) -> list[StepResult]:
    """Return the results of the steps of one name, at any depth."""
    found: list[StepResult] = []
    for result in results:
        found += [result] if result.name == name else []
        found += steps_named(result.step_history, name)
    return found


async def ended(running: Awaitable[PipelineResult[Any]]) -> PipelineResult[Any]:
    """Return how a run ended, be it at a limit."""
    try:
        return await running
    except UsageLimitExceededError as stopped:
        return stopped.result
