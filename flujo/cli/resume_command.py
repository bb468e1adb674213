"""`flujo resume`: goes on with a stored run, after asking a person what it waits for."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flujo.application.runner import Flujo
from flujo.cli.asking import NobodyAnsweredError, ask, choose, describe_question
from flujo.cli.exit_codes import ExitCode, WrongUsageError
from flujo.cli.loading import load_file
from flujo.cli.origin import Origin
from flujo.cli.parameters import FreeText
from flujo.cli.reporting import report
from flujo.cli.running import run_stored
from flujo.cli.settings import apply_price_settings, read_run_settings
from flujo.cli.stores import closed_at_end, existing_database, resume_command, stored_record
from flujo.cli.terminal import ResultStream, say_error
from flujo.cli.typed_values import value_of
from flujo.domain.models import StepPath
from flujo.domain.results import Waiting
from flujo.exceptions import AnswerRejectedError, PipelineChangedError
from flujo.state.records import read_path, written_path
from flujo.state.sqlite import SQLiteBackend


def resume(
    run: str,
    file: str | None = None,
    /,
    *,
    answer: FreeText | None = None,
    path: FreeText | None = None,
    allow_changes: bool = False,
    limit_usd: Annotated[FreeText, Parameter(metavar="USD")] | None = None,
    limit_tokens: Annotated[FreeText, Parameter(metavar="N")] | None = None,
    state_db: Annotated[FreeText, Parameter(metavar="PATH")] | None = None,
    json: bool = False,
    stream: bool = False,
) -> ExitCode:
    """Go on with a stored run: one that was interrupted or killed, failed, met a limit, or waits for a person.

    Steps that finished are not run again. If the run waits, the person at the terminal is asked, unless there is an
    `--answer`. The file that the run was started from is found by itself, and the limits that were flags then hold
    again unless others are given.

    Exit codes: **0** success, **1** the run failed, **2** wrong usage, answer or file, **3** a limit stopped it,
    **4** it waits for a person, **130** interrupted.

    Args:
        run: The run, or the first characters of its identity.
        file: The workflow, as FILE or FILE:NAME, if it is not where it was when the run started.
        answer: What the waiting step is answered: text, or JSON if it takes anything else.
        path: The waiting step that is answered, if there are several, such as 1/branch:legal/0.
        allow_changes: Go on although steps that finished are different now.
        limit_usd: The most US dollars that the run may use, what it has used already included.
        limit_tokens: The most tokens that the run may use, what it has used already included.
        state_db: The database that keeps the run.
        json: Print the whole result as one JSON document; show no progress and no table.
        stream: Print the chunks of a streaming last step as they come.
    """
    if json and stream:
        raise WrongUsageError("--json and --stream are both given; give one of them")
    apply_price_settings(Path.cwd())
    results = ResultStream(sys.stdout)
    with redirect_stdout(sys.stderr):  # stdout is for results, so what the user's code prints goes where progress is
        found = _find(run, file, state_db)
        flags = {"limit_usd": limit_usd, "limit_tokens": limit_tokens}
        limits = read_run_settings({**found.flags, **{key: flag for key, flag in flags.items() if flag is not None}})
        runner = found.runner.with_settings(usage_limits=limits.usage_limits())
        try:
            answers = _answers(runner, found.run_id, answer, path, allow_changes=allow_changes)
            ended = run_stored(
                runner,
                found.run_id,
                lambda watched: watched.continue_async(found.run_id, answers=answers, allow_changes=allow_changes),
                resume_command=resume_command(found.run_id, file=file, state_db=state_db),
                is_quiet=json,
                write_chunk=results.write if stream else None,
            )
        except NobodyAnsweredError as error:
            say_error(str(error))
            return ExitCode.WAITING
        except PipelineChangedError as error:
            raise WrongUsageError(f"{error} (here: --allow-changes)") from error
    return report(ended, runner.pipeline, results, is_json=json)


@dataclass(slots=True, frozen=True)
class _Found:
    """A stored run, and the workflow it is of.

    Attributes:
        run_id: The identity of the run.
        runner: The workflow, with the store that the run is in.
        flags: The limits that the run was started with.
    """

    run_id: str
    runner: Flujo[Any, Any]
    flags: dict[str, str]


def _find(run: str, file: str | None, state_db: str | None) -> _Found:
    """Find a run in its store, and its workflow in its file."""
    loaded = None if file is None else load_file(file)
    store = None if loaded is None or state_db is not None else loaded.runner.state_backend
    store = store or SQLiteBackend(existing_database(state_db))
    with closed_at_end(store):
        record = stored_record(store, run)
    origin = Origin.read(record)
    if loaded is None:
        if origin is None:
            raise WrongUsageError(
                f"run {record.run_id!r} was not started by flujo run, so its file is not known; name the workflow, as "
                f"in {resume_command(record.run_id, file='FILE:NAME', state_db=state_db)}"
            )
        loaded = load_file(origin.target(record.run_id))
    name = None if origin is None else origin.context_model
    runner = loaded.runner.with_settings(
        context_model=None if name is None else loaded.context_model(name),
        state_backend=store,
        is_store_optional=origin is not None and origin.is_store_optional,
    )
    return _Found(record.run_id, runner, {} if origin is None else origin.limit_flags)


def _answers(
    runner: Flujo[Any, Any], run_id: str, answer: str | None, path: str | None, *, allow_changes: bool
) -> dict[StepPath, Any]:
    """Return the answer to the step that waits; nothing if none does.

    Raises:
        FlujoError: There is no answer, it does not fit, or nobody waits for it.
        NobodyAnsweredError: The person at the terminal did not answer.
    """
    waiting = asyncio.run(runner.waiting_in(run_id, allow_changes=allow_changes))
    if not waiting and path is None:
        if answer is not None:
            raise AnswerRejectedError(f"run {run_id!r} does not wait for an answer; without --answer it goes on")
        return {}
    asked = _chosen(waiting, path, is_asking=answer is None)
    if asked is None:
        return {read_path(path or ""): answer}  # refused with the reason: it was answered, or never asked
    if answer is not None:
        return {asked.path: answer if asked.input_schema is None else _read(answer, asked)}
    if not sys.stdin.isatty():
        raise NobodyAnsweredError(f"{describe_question(asked)}; answer it with --answer")
    return {asked.path: ask(asked)}


def _read(answer: str, asked: Waiting) -> Any:
    return value_of(answer, asked.input_schema, "the answer", f"step {asked.step_name!r}")


def _chosen(waiting: Sequence[Waiting], path: str | None, *, is_asking: bool) -> Waiting | None:
    """Return the waiting step that is meant; `None` if nobody waits at the path."""
    if path is not None:
        return next((each for each in waiting if path in ("/".join(each.path), written_path(each.path))), None)
    if len(waiting) == 1:
        return waiting[0]
    if is_asking and sys.stdin.isatty():
        return choose(waiting)
    questions = "; ".join(map(describe_question, waiting))
    raise WrongUsageError(f"{len(waiting)} steps wait, so say with --path which one is answered: {questions}")
