"""Runs a workflow to its end, whichever way it ends, and shows how it goes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flujo.application.runner import Flujo
from flujo.cli.interruption import run_interruptibly
from flujo.cli.json_output import chunk_text
from flujo.cli.monitor import RunMonitor
from flujo.cli.progress import shown_progress
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
    """

    result: PipelineResult[Any]
    elapsed_s: float
    breach: str | None = None
    is_streamed: bool = False


def run_to_end(
    runner: Flujo[Any, Any],
    data: Any,
    *,
    run_id: str | None,
    is_quiet: bool,
    write_chunk: Callable[[str], None] | None,
) -> EndedRun:
    """Run a workflow.

    Args:
        runner: What to run.
        data: Its input.
        run_id: The identity of the run; a fresh one if it is `None`.
        is_quiet: Whether to show no progress.
        write_chunk: Takes the chunks of a streaming last step, as text; `None` if nobody wants them.

    Raises:
        KeyboardInterrupt: It was interrupted.
        FlujoError: The workflow is wrong.
    """
    monitor = RunMonitor()
    watched = runner.with_settings(hooks=[monitor])
    writes = _ChunkWriter(write_chunk)
    work = writes.run(watched, data, run_id)
    breach = None
    is_plain = write_chunk is not None or logging.getLogger("flujo").isEnabledFor(logging.DEBUG)
    with shown_progress(monitor, len(runner.pipeline.steps), is_quiet=is_quiet, is_plain=is_plain):
        try:
            result = run_interruptibly(work, monitor.position)
        except UsageLimitExceededError as exceeded:
            breach, result = str(exceeded), exceeded.result
    return EndedRun(result, monitor.elapsed_s, breach, writes.has_written)


class _ChunkWriter:
    """Runs a workflow and writes its chunks as they come, if anybody wants them."""

    def __init__(self, write: Callable[[str], None] | None) -> None:
        self._write = write
        self.has_written = False

    async def run(self, runner: Flujo[Any, Any], data: Any, run_id: str | None) -> PipelineResult[Any]:
        if self._write is None:
            return await runner.run_async(data, run_id=run_id)
        result: PipelineResult[Any] | None = None
        async for item in runner.run_async(data, run_id=run_id):
            if isinstance(item, PipelineResult):
                result = item  # pyright: ignore[reportUnknownVariableType]  # a streaming step cannot give one before the run does, which comes last
            else:
                self._write(chunk_text(item))
                self.has_written = True
        assert result is not None, "a run that does not raise gives its result"
        return result
