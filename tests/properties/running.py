"""Runs programs with flujo and tells what came of it in the words of the reference model."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from fractions import Fraction
from typing import Any, TypeVar

from flujo import Flujo, PipelineResult, StepResult, Waiting
from tests.properties.building import AnyStep, Board, plain
from tests.properties.merging import FIELDS, Context
from tests.properties.model import Report, Trace
from tests.properties.programs import Program, reply
from tests.properties.world import WORLD, Picks, Turnstile, World

T = TypeVar("T")

_NOTES = ("exit_reason", "executed_branch_key", "cache_hit", "fallback_triggered")


def in_world(work: Coroutine[Any, Any, T], picks: Picks = (0,)) -> tuple[T, World]:
    """Run a coroutine in an event loop and a world of its own, under a schedule."""
    world = World(Turnstile(picks))
    token = WORLD.set(world)
    try:
        return asyncio.run(work), world
    finally:
        WORLD.reset(token)


def runner_of(step: AnyStep, program: Program, **settings: Any) -> Flujo[Any, Any]:
    """Return the runner of a program that was built."""
    return Flujo(step, context_model=Board, initial_context_data={"items": list(program.items)}, **settings)


def run(step: AnyStep, program: Program, picks: Picks = (0,), **settings: Any) -> Report:
    """Run a program that was built, and tell what came of it."""

    async def work() -> PipelineResult[Any]:
        return await runner_of(step, program, **settings).run_async(program.data)

    result, world = in_world(work(), picks)
    return report_of(result, world)


async def answered(
    runner: Flujo[Any, Any], program: Program, order: Picks
) -> tuple[PipelineResult[Any], list[Waiting]]:
    """Run a program to its end and answer every question; return the result and the questions in order.

    Args:
        runner: Runs the program.
        program: What is run.
        order: The place of the next question to answer among those that wait, again and again from the beginning.
    """
    asked: list[Waiting] = []
    result = await runner.run_async(program.data)
    while result.status == "paused":
        report = report_of(result, WORLD.get())
        assert (report.cost, report.tokens) == WORLD.get().spent
        assert result.output is None
        question = result.waiting[order[len(asked) % len(order)] % len(result.waiting)]
        asked.append(question)
        result = await runner.resume_async(result, reply(question.message), path=question.path)
    return result, asked


def report_of(result: PipelineResult[Any], world: World) -> Report:
    """Tell what a run came to."""
    return Report(
        result.status,
        plain(result.output),
        [trace(step) for step in result.step_history],
        fields_of(result.final_pipeline_context),
        Fraction(result.total_cost),
        result.total_tokens,
        Counter(world.calls),
    )


def trace(result: StepResult) -> Trace:
    """Tell what a step came to."""
    return Trace(
        result.name,
        result.status,
        plain(result.output),
        result.attempts,
        Fraction(result.cost),
        result.token_counts,
        [trace(child) for child in result.step_history],
        {note: result.metadata_[note] for note in _NOTES if note in result.metadata_},
        result.feedback,
    )


def fields_of(context: Any) -> Context:
    """Return the fields of a context that programs read and write."""
    return {name: getattr(context, name) for name in FIELDS}
