"""The work that is measured: the same by flujo and by plain asyncio.

A scenario of size N has N steps, each of which calls one trivial async function.
Everything that a user would declare once is made by `prepare`, so that only the running is measured.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flujo.application.runner import Flujo
from flujo.domain.models import UsageLimits
from flujo.domain.pipeline import Pipeline
from flujo.domain.results import PipelineResult
from flujo.state.memory import InMemoryBackend
from flujo.steps.step import Step

MAP_CONCURRENCY = 10

COST_USD = 0.0001
"""What a call of `PaidAgent` reports to have cost."""

TOKENS = 10
"""What a call of `PaidAgent` reports to have used."""


@dataclass(slots=True)
class PaidAnswer:
    """An answer that reports what it cost."""

    output: int
    cost_usd: float
    token_counts: int


class PaidAgent:
    """Adds one, for money."""

    async def run(self, number: int) -> PaidAnswer:
        """Return the next number and its price."""
        return PaidAnswer(number + 1, COST_USD, TOKENS)


async def increment(number: int) -> int:
    """Return the next number: as little work as an async function can do."""
    return number + 1


@dataclass(slots=True, frozen=True)
class PlainResult:
    """What plain asyncio came to: the output that flujo has too, and what it cost."""

    output: Any
    cost_usd: float = 0.0
    tokens: int = 0


@dataclass(slots=True, frozen=True)
class Work:
    """A scenario of one size, ready to run any number of times."""

    flujo: Callable[[], Awaitable[PipelineResult[Any]]]
    plain: Callable[[], Awaitable[PlainResult]]


@dataclass(slots=True, frozen=True)
class Scenario:
    """One kind of work.

    Attributes:
        name: What tables and records call it.
        unit: What counts as one step.
        prepare: Declares the work for a number of steps.
    """

    name: str
    unit: str
    prepare: Callable[[int], Work]


def _prepare_sequence(size: int) -> Work:
    runner = Flujo(Pipeline[int, int](steps=[Step(f"step {i}", increment) for i in range(size)]))
    functions = [increment] * size

    async def plain() -> PlainResult:
        number = 0
        for function in functions:
            number = await function(number)
        return PlainResult(number)

    return Work(lambda: runner.run_async(0), plain)


def _prepare_loop(size: int) -> Work:
    def is_done(number: int, context: object) -> bool:
        return number >= size

    runner = Flujo(Step.loop_until("loop", Step[int, int]("increment", increment), is_done, max_loops=size))

    async def plain() -> PlainResult:
        number = await increment(0)
        while not is_done(number, None):
            number = await increment(number)
        return PlainResult(number)

    return Work(lambda: runner.run_async(0), plain)


def _prepare_parallel(size: int) -> Work:
    agent = PaidAgent()
    names = [str(i) for i in range(size)]
    never = UsageLimits(total_cost_usd_limit=Decimal(1_000_000), total_tokens_limit=1_000_000_000)
    runner = Flujo(
        Step.parallel("parallel", {name: Step("increment", agent) for name in names}),
        usage_limits=never,
    )

    async def plain() -> PlainResult:
        answers = await asyncio.gather(*(agent.run(0) for _ in names))
        return PlainResult(
            {name: answer.output for name, answer in zip(names, answers, strict=True)},
            sum(answer.cost_usd for answer in answers),
            sum(answer.token_counts for answer in answers),
        )

    return Work(lambda: runner.run_async(0), plain)


def _prepare_map(size: int) -> Work:
    increment_step = Step[int, int]("increment", increment)
    runner = Flujo(Step.map_over("map", increment_step, max_concurrency=MAP_CONCURRENCY))
    items = list(range(size))

    async def plain() -> PlainResult:
        outputs = [0] * size
        queue = iter(enumerate(items))
        async with asyncio.TaskGroup() as workers:
            for _ in range(MAP_CONCURRENCY):
                workers.create_task(_work_off(queue, outputs))
        return PlainResult(outputs)

    return Work(lambda: runner.run_async(items), plain)


def _prepare_durable(size: int) -> Work:
    sequence = _prepare_sequence(size)
    steps = [Step[int, int](f"step {i}", increment) for i in range(size)]
    runner = Flujo(Pipeline[int, int](steps=steps), state_backend=InMemoryBackend(), delete_on_completion=True)
    return Work(lambda: runner.run_async(0), sequence.plain)


async def _work_off(queue: Iterator[tuple[int, int]], outputs: list[int]) -> None:
    for position, item in queue:
        outputs[position] = await increment(item)


SCENARIOS = (
    Scenario("sequence", "step", _prepare_sequence),
    Scenario("loop", "iteration", _prepare_loop),
    Scenario("parallel", "branch with usage", _prepare_parallel),
    Scenario("map", f"item, {MAP_CONCURRENCY} at a time", _prepare_map),
    Scenario("durable", "step, stored in memory", _prepare_durable),
)
"""The rows of the speed table that need no disk."""
