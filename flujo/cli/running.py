"""Runs a workflow to its end, whichever way it ends, and shows how it goes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flujo.application.pipeline_run import PipelineRun
from flujo.application.runner import Flujo
from flujo.cli.interruption import run_interruptibly
from flujo.cli.json_output import chunk_text
from flujo.cli.monitor import RunMonitor
from flujo.cli.progress import shown_progress
from flujo.cli.stores import closed_at_end
from flujo.cli.terminal import say
from flujo.domain.observers import PreRunPayload
from flujo.domain.results import PipelineResult
from flujo.exceptions import UsageLimitExceededError


@dataclass(slots=True, frozen=True)
class EndedRun:
    """A run that ended.

    Attributes:
        result: What it did.
        elapsed_s: How many seconds it took.
        breach: Which limit stopped it, or `None`.
        is_streamed: Whether chunks of its output were written.
        resume_command: How to go on with it; `None` if it is not stored.
    """

    result: PipelineResult[Any]
    elapsed_s: float
    breach: str | None = None
    is_streamed: bool = False
    resume_command: str | None = None


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
    breach = None
    is_plain = write_chunk is not None or logging.getLogger("flujo").isEnabledFor(logging.DEBUG)
    with shown_progress(monitor, len(runner.pipeline.steps), is_quiet=is_quiet, is_plain=is_plain):
        try:
            result = run_interruptibly(work, monitor.position)
        except UsageLimitExceededError as exceeded:
            breach, result = str(exceeded), exceeded.result
    return EndedRun(result, monitor.elapsed_s, breach, writes.has_written)


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
    return replace(ended, resume_command=resume_command)


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
