"""`flujo lens`: shows the runs that are stored, without the code they are of."""

import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from cyclopts import App, Parameter
from pydantic_core import to_json

from flujo.cli.exit_codes import WrongUsageError
from flujo.cli.lens_documents import run_document, runs_document, stats_document, trace_document
from flujo.cli.lens_stats import measured
from flujo.cli.lens_tables import run_header, runs_lines, stats_tables, steps_table, trace_table
from flujo.cli.parameters import Count, FreeText
from flujo.cli.stored_steps import failed_steps, stored_steps, waiting_steps
from flujo.cli.stores import closed_at_end, existing_database, resume_command, stored_record
from flujo.cli.terminal import ResultStream, one_line, say, table_console
from flujo.state.records import RunQuery, StoredRun, StoredStatus
from flujo.state.sqlite import SQLiteBackend

lens = App(
    name="lens", help="Show the runs that are stored.", default_parameter=Parameter(negative=(), show_default=False)
)

StateDb = Annotated[FreeText, Parameter(metavar="PATH")]
Moment = Annotated[FreeText, Parameter(metavar="TIME")]

_MOST_REASONS = 5
_AGO = re.compile(r"(\d+)\s*(s|min|h|d|w)")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


@lens.command(name="list")
def list_runs(
    *,
    status: StoredStatus | None = None,
    pipeline: FreeText | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    limit: Count = 20,
    state_db: StateDb | None = None,
    json: bool = False,
) -> None:
    """List runs, the ones that changed last first.

    Args:
        status: Only runs that stand like this.
        pipeline: Only runs of this pipeline.
        since: Only runs that changed then or later: a date, a date and time, or how long ago, such as 2h or 7d.
        until: Only runs that changed before.
        limit: The most runs; 20 by default.
        state_db: The database that keeps the runs.
        json: Print one JSON document.
    """
    query = _query(status, pipeline, since, until, limit + 1)
    store = SQLiteBackend(existing_database(state_db))
    with closed_at_end(store):
        records = asyncio.run(store.list_runs(query))
    shown, is_more = records[:limit], len(records) > limit
    if json:
        _print_document(runs_document(shown))
        return
    if not shown:
        say("no runs are stored here" if query == RunQuery(limit=limit + 1) else "no such runs are stored here")
        return
    lines = runs_lines(shown, now=datetime.now(UTC), console=table_console())
    ResultStream(sys.stdout).write("".join(f"{line}\n" for line in lines))
    if is_more:
        say(f"the newest {limit}; --limit shows more")


@lens.command
def show(run: str, /, *, all: bool = False, state_db: StateDb | None = None, json: bool = False) -> None:
    """Show a run: its steps and their calls of models as a tree, with what each took and cost, and what it waits for.

    What has nothing below it adds up to the total, to the last digit.

    Args:
        run: The run, or the first characters of its identity.
        all: Show every step and call, and not only the first 20 within each step.
        state_db: The database that keeps the run.
        json: Print one JSON document.
    """
    stored = _load(run, state_db)
    steps = stored_steps(stored)
    if json:
        _print_document(run_document(stored.record, steps))
        return
    console = table_console()
    console.print(run_header(stored.record, now=datetime.now(UTC)), soft_wrap=True)
    console.print(steps_table(stored.record, steps, width=console.width, shows_all=all))
    for step in failed_steps(steps)[:_MOST_REASONS]:
        console.print(
            f"{step.status}: step {step.name!r} at {'/'.join(step.path)}: {one_line(step.feedback or '')}",
            soft_wrap=True,
        )
    waiting = waiting_steps(steps)
    for step in waiting:
        console.print(f"waiting: step at {'/'.join(step.path)} asks: {one_line(step.question or '')}", soft_wrap=True)
    if stored.record.status not in ("completed", "running"):
        command = resume_command(stored.record.run_id, state_db=state_db)
        console.print(f"{'answer' if waiting else 'go on'}: {command}", soft_wrap=True)


@lens.command
def trace(run: str, /, *, state_db: StateDb | None = None, json: bool = False) -> None:
    """Show a run as a timeline: when it began, when each step ended, asked or was answered.

    Args:
        run: The run, or the first characters of its identity.
        state_db: The database that keeps the run.
        json: Print one JSON document.
    """
    stored = _load(run, state_db)
    steps = stored_steps(stored)
    if json:
        _print_document(trace_document(stored.record, steps))
    else:
        console = table_console()
        console.print(trace_table(stored.record, steps, width=console.width))


@lens.command
def stats(
    *,
    status: StoredStatus | None = None,
    pipeline: FreeText | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    limit: Count = 1000,
    state_db: StateDb | None = None,
    json: bool = False,
) -> None:
    """Show what runs took and cost, by pipeline and by step.

    Args:
        status: Only runs that stand like this.
        pipeline: Only runs of this pipeline.
        since: Only runs that changed then or later: a date, a date and time, or how long ago, such as 2h or 7d.
        until: Only runs that changed before.
        limit: The most runs, the newest first; 1,000 by default.
        state_db: The database that keeps the runs.
        json: Print one JSON document.
    """
    query = _query(status, pipeline, since, until, limit)
    store = SQLiteBackend(existing_database(state_db))

    async def read() -> list[StoredRun]:
        return [await store.load(record.run_id) for record in await store.list_runs(query)]

    with closed_at_end(store):
        pipelines = measured(asyncio.run(read()))
    if json:
        _print_document(stats_document(pipelines))
        return
    if not pipelines:
        say("no such runs are stored here")
        return
    console = table_console()
    for number, table in enumerate(stats_tables(pipelines, width=console.width)):
        if number:
            console.print()
        console.print(table)


def _load(run: str, state_db: str | None) -> StoredRun:
    store = SQLiteBackend(existing_database(state_db))
    with closed_at_end(store):
        return asyncio.run(store.load(stored_record(store, run).run_id))


def _query(
    status: StoredStatus | None, pipeline: str | None, since: str | None, until: str | None, limit: int
) -> RunQuery:
    return RunQuery(
        status=status,
        pipeline_name=pipeline,
        since=_moment("--since", since),
        until=_moment("--until", until),
        limit=limit,
    )


def _moment(option: str, text: str | None) -> datetime | None:
    """Return the moment that a person means; without a time zone it is in that of the machine."""
    if text is None:
        return None
    if (ago := _AGO.fullmatch(text.strip())) is not None:
        return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except ValueError:
        raise WrongUsageError(
            f"{option} is {text!r}; give a date such as 2026-01-31, a time such as 2026-01-31T12:00, or how long ago, "
            "such as 30min, 2h or 7d"
        ) from None


def _print_document(document: Any) -> None:
    ResultStream(sys.stdout).write(to_json(document, indent=2).decode() + "\n")
