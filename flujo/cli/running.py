"""Runs a workflow to its end, whichever way it ends, and shows how it goes."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from flujo.application.pipeline_run import PipelineRun
from flujo.application.runner import Flujo
from flujo.cli.interruption import run_interruptibly
from flujo.cli.json_output import chunk_text
from flujo.cli.monitor import RunMonitor
from flujo.cli.progress import shown_progress
from flujo.cli.stores import closed_at_end, top_up_command
from flujo.cli.terminal import say
from flujo.domain.budgets import window_end
from flujo.domain.observers import PreRunPayload
from flujo.domain.results import PipelineResult
from flujo.exceptions import StateError, UsageLimitExceededError
from flujo.state.backend import StateBackend
from flujo.state.budgets import BudgetStore


@dataclass(slots=True, frozen=True)
class EndedRun:
    """A run that ended.

    Attributes:
        result: What it did.
        elapsed_s: How many seconds it took.
        breach: Which limit stopped it, or `None`.
        budget: The shared budget whose limit that is; `None` if it is none, or nothing was stopped.
        is_streamed: Whether chunks of its output were written.
        resume_command: How to go on with it; `None` if it is not stored.
        top_up: How to let more of the budget be used, in one line.
    """

    result: PipelineResult[Any]
    elapsed_s: float
    breach: str | None = None
    budget: str | None = None
    is_streamed: bool = False
    resume_command: str | None = None
    top_up: str | None = None


def run_to_end(
    runner: Flujo[Any, Any],
    start: Callable[[Flujo[Any, Any]], PipelineRun[Any]],
    *,
    is_quiet: bool,
    write_chunk: Callable[[str], None] | None,
) -> EndedRun:
    """Run a workflow.

    Args:
        runner: What to run.
        start: Returns a run of a runner, which has not started yet.
        is_quiet: Whether to show no progress.
        write_chunk: Takes the chunks of a streaming last step, as text; `None` if nobody wants them.

    Raises:
        KeyboardInterrupt: It was interrupted.
        FlujoError: The workflow is wrong.
    """
    monitor = RunMonitor()
    watched = runner.with_settings(hooks=[monitor])
    writes = _ChunkWriter(write_chunk)
    work = writes.run(start(watched))
    breach = budget = None
    is_plain = write_chunk is not None or logging.getLogger("flujo").isEnabledFor(logging.DEBUG)
    with shown_progress(monitor, len(runner.pipeline.steps), is_quiet=is_quiet, is_plain=is_plain):
        try:
            result = run_interruptibly(work, monitor.position)
        except UsageLimitExceededError as exceeded:
            breach, budget, result = str(exceeded), exceeded.budget, exceeded.result
    return EndedRun(result, monitor.elapsed_s, breach, budget, writes.has_written)


def run_stored(
    runner: Flujo[Any, Any],
    run_id: str,
    start: Callable[[Flujo[Any, Any]], PipelineRun[Any]],
    *,
    resume_command: str,
    is_quiet: bool,
    write_chunk: Callable[[str], None] | None,
) -> EndedRun:
    """Run a workflow whose runs are kept in a store: say which run it is, and close the store afterwards.

    Args:
        runner: What to run; without a store it is run all the same.
        run_id: The identity of the run.
        start: Returns a run of a runner, which has not started yet.
        resume_command: How to go on with the run.
        is_quiet: Whether to show no progress.
        write_chunk: Takes the chunks of a streaming last step, as text; `None` if nobody wants them.

    Raises:
        KeyboardInterrupt: It was interrupted.
        FlujoError: The workflow is wrong, or the run cannot be stored.
    """
    store = runner.state_backend
    if store is None:
        return run_to_end(runner, start, is_quiet=is_quiet, write_chunk=write_chunk)

    async def tell_start(_: PreRunPayload) -> None:
        say(f"run {run_id}")

    with closed_at_end(store):
        try:
            announced = runner if is_quiet else runner.with_settings(hooks=[tell_start])
            ended = run_to_end(announced, start, is_quiet=is_quiet, write_chunk=write_chunk)
        except KeyboardInterrupt:
            say(f"go on: {resume_command}")
            raise
        top_up = None
        if ended.budget is not None:
            with suppress(StateError):  # the run has ended, and is stored; this is only a hint
                top_up = _how_to_top_up(ended.budget, store)
    return replace(ended, resume_command=resume_command, top_up=top_up)


def _how_to_top_up(name: str, store: StateBackend) -> str:
    """Say how more of a budget can be used: more of that of which the least part is left."""
    assert isinstance(store, BudgetStore), "it keeps the budget"
    status = asyncio.run(store.budget_status(name))
    limit, left = status.limit, status.left
    kinds = (
        ("--usd USD", limit.usd, left.usd),
        ("--tokens N", limit.tokens, left.tokens),
        ("--requests N", limit.requests, left.requests),
        ("--seconds S", limit.seconds, left.seconds),
    )
    parts = {
        option: float(rest / most) if most else 0.0
        for option, most, rest in kinds
        if most is not None and rest is not None
    }
    command = top_up_command(name, min(parts, key=lambda option: parts[option], default="--usd USD"), store)
    end = window_end(status.per, status.timezone, datetime.now(UTC))
    waiting = "" if end is None else f", or wait until {end:%Y-%m-%d %H:%M} {status.timezone}"
    return f"top up{waiting}: {command}"


class _ChunkWriter:
    """Runs a workflow and writes its chunks as they come, if anybody wants them."""

    def __init__(self, write: Callable[[str], None] | None) -> None:
        self._write = write
        self.has_written = False

    async def run(self, run: PipelineRun[Any]) -> PipelineResult[Any]:
        if self._write is None:
            return await run
        result: PipelineResult[Any] | None = None
        async for item in run:
            if isinstance(item, PipelineResult):
                result = item  # pyright: ignore[reportUnknownVariableType]  # a streaming step cannot give one before the run does, which comes last
            else:
                self._write(chunk_text(item))
                self.has_written = True
        assert result is not None, "a run that does not raise gives its result"
        return result
