"""Agents, contexts and sums that the tests of the kinds of step share."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, Field

from flujo import PipelineContext, PipelineResult, Step, StepResult

CENT = Decimal("0.01")


class Notes(PipelineContext):
    """A context with a number, a list and a dict besides what every context has."""

    count: int = 0
    tags: list[str] = Field(default_factory=list[str])
    table: dict[str, Any] = Field(default_factory=dict[str, Any])


@dataclass
class Paid:
    """An answer that reports what it cost."""

    output: Any
    cost_usd: Decimal = CENT
    token_counts: int = 10


class Gate:
    """An agent that answers only when `together` of its calls are in work at once.

    Attributes:
        most: The most calls that were ever in work at once.
    """

    def __init__(self, together: int) -> None:
        self._barrier = asyncio.Barrier(together)
        self._inside = 0
        self.most = 0

    async def run(self, data: Any) -> Any:
        """Give the input back."""
        self._inside += 1
        self.most = max(self.most, self._inside)
        await self._barrier.wait()
        self._inside -= 1
        return data


class PaidError(Exception):
    """A failure that has cost something all the same."""

    cost_usd = CENT
    token_counts = 10


def paid(name: str, function: Callable[[Any], Any] = lambda data: data) -> Step[Any, Any]:
    """Return a step whose one attempt costs a cent and ten tokens."""

    async def answer(data: Any) -> Any:
        return Paid(function(data))

    return Step(name, answer, max_retries=0)


def plain(name: str, function: Callable[[Any], Any] = lambda data: data) -> Step[Any, Any]:
    """Return a step that calls a function, and costs nothing."""
    return Step(name, function, max_retries=0)


def failing(name: str, why: str = "no luck", *, max_retries: int = 0) -> Step[Any, Any]:
    """Return a step whose attempts all fail, and cost a cent and ten tokens each."""

    async def fail(data: Any) -> Any:
        raise PaidError(why)

    return Step(name, fail, max_retries=max_retries)


def setting(name: str, **fields: Any) -> Step[Any, Any]:
    """Return a step that sets fields of the context and passes its input on."""

    async def write(data: Any, *, context: BaseModel) -> Any:
        for field, value in fields.items():
            setattr(context, field, value)
        return data

    return Step(name, write)


def leaves(results: Iterable[StepResult]) -> Iterator[StepResult]:
    """Yield the results of steps that have no steps within them."""
    for result in results:
        if result.step_history:
            yield from leaves(result.step_history)
        else:
            yield result


def assert_adds_up(result: PipelineResult[Any]) -> None:
    """Assert that at every depth a result costs what its children cost, and the run what its leaves cost."""
    assert result.total_cost == sum((leaf.cost for leaf in leaves(result.step_history)), Decimal(0))
    assert result.total_tokens == sum(leaf.token_counts for leaf in leaves(result.step_history))
    todo = list(result.step_history)
    while todo:
        step = todo.pop()
        if step.step_history:
            assert step.cost == sum((child.cost for child in step.step_history), Decimal(0)), step.name
            assert step.token_counts == sum(child.token_counts for child in step.step_history), step.name
            todo.extend(step.step_history)
