"""Prints what came of a run, and says how the command ends."""

from typing import Any

from flujo.cli.exit_codes import ExitCode
from flujo.cli.json_output import output_text, result_document
from flujo.cli.running import EndedRun
from flujo.cli.summary import summary_table
from flujo.cli.terminal import ErrorConsole, ResultStream, one_line, say, say_error
from flujo.domain.pipeline import Pipeline
from flujo.domain.results import PipelineResult

_CODES = {
    "completed": ExitCode.SUCCESS,
    "stopped": ExitCode.LIMIT,
    "paused": ExitCode.WAITING,
}
_GOING_ON = {"paused": "answer", "stopped": "go on, with a larger limit"}


def report(ended: EndedRun, pipeline: Pipeline[Any, Any], results: ResultStream, *, is_json: bool) -> ExitCode:
    """Print the output or the whole result to stdout, and the table of the run and what is wrong to stderr.

    Args:
        ended: The run.
        pipeline: What was run.
        results: The stdout of the command.
        is_json: Whether to print the whole result as JSON, and nothing but errors to stderr.
    """
    result = ended.result
    results.end_line()
    if is_json:
        results.write(result_document(result))
    elif result.status == "completed" and not ended.is_streamed:
        results.write(output_text(result.output))
    results.end_line()
    if not is_json:
        console = ErrorConsole()
        console.print(summary_table(result, pipeline, elapsed_s=ended.elapsed_s, width=console.width))
    _explain(ended, is_json=is_json)
    return _CODES.get(result.status, ExitCode.FAILED)


def _explain(ended: EndedRun, *, is_json: bool) -> None:
    """Say why a run did not complete, and how it goes on."""
    result = ended.result
    if result.status == "paused" and not is_json:
        for asked in result.waiting:
            say(f"waiting: step {asked.step_name!r} at {'/'.join(asked.path)} asks: {one_line(asked.message)}")
    if result.status != "completed" and ended.resume_command is not None and not is_json:
        if ended.top_up is not None:
            say(ended.top_up)
            say(f"then go on: {ended.resume_command}")
        else:
            say(f"{_GOING_ON.get(result.status, 'go on')}: {ended.resume_command}")
    if ended.breach is not None:
        say_error(ended.breach)
    elif result.status not in ("completed", "paused"):
        say_error(_reason(result))


def _reason(result: PipelineResult[Any]) -> str:
    last = result.step_history[-1] if result.step_history else None
    if last is None or last.success:
        return f"the run was {result.status}"
    attempts = f" after {last.attempts} attempts" if last.attempts > 1 and not last.step_history else ""
    return f"step {last.name!r} {last.status}{attempts}: {last.feedback}"
