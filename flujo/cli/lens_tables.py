"""What `flujo lens` shows people."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flujo.cli.formats import count, duration, label_of
from flujo.cli.lens_documents import PERCENTS, Event, events, owner_of
from flujo.cli.lens_stats import Measured, MeasuredPipeline
from flujo.cli.origin import Origin
from flujo.cli.stored_steps import StoredStep, plain
from flujo.cli.stores import shown_path
from flujo.cli.summary import STATUS_STYLES, StepRows
from flujo.cli.terminal import one_line
from flujo.domain.money import format_usd
from flujo.state.records import RunRecord

_MOST_CHILDREN = 20
_ID_CHARACTERS = 12
_LONG_AGO_S = 14 * 86400
_STYLES = {**STATUS_STYLES, "waiting": "cyan", "answered": "cyan", "unfinished": "yellow", "running": "blue"}


def _styled(status: str) -> Text:
    return Text(status, style=_STYLES.get(status, ""))


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago something was, or its date if that is long."""
    seconds = max(0.0, (now - moment).total_seconds())
    if seconds >= _LONG_AGO_S:
        return moment.astimezone().strftime("%Y-%m-%d")
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name} ago"
    return f"{seconds:.0f} s ago"


def _table(width: int, *columns: tuple[str, bool]) -> Table:
    """Return an empty table; columns are names, and whether they are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", width=None)
    for name, is_number in columns:
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis")
    return table


def runs_table(records: Sequence[RunRecord], *, now: datetime, console: Console) -> Table:
    """Return runs as a table; on a terminal identities are cut to what is enough to name a run."""
    is_narrow = console.width < 60
    table = _table(console.width, ("Run", False), ("Pipeline", False), ("Status", False), ("Changed", False))
    if not is_narrow:
        table.add_column("Cost", justify="right", no_wrap=True)
        table.add_column("Tokens", justify="right", no_wrap=True)
    for record in records:
        is_fresh_id = len(record.run_id) == 32 and record.run_id.isalnum()
        identity = record.run_id[:_ID_CHARACTERS] if console.is_terminal and is_fresh_id else record.run_id
        status = _styled(record.status) if record.is_intact() else Text("damaged", style="bold red")
        cells = [Text(identity), Text(record.pipeline_name), status, Text(ago(record.updated_at, now))]
        if not is_narrow:
            cells += [Text(format_usd(record.total_cost)), Text(f"{record.total_tokens:,}")]
        table.add_row(*cells)
    return table


def run_header(record: RunRecord, *, now: datetime) -> Text:
    """Return what is known of a run as a whole."""
    took_s = (record.updated_at - record.created_at).total_seconds()
    origin = Origin.read(record)
    lines = [
        ("run", Text(record.run_id)),
        ("pipeline", Text(record.pipeline_name)),
        ("status", _styled(record.status)),
        ("began", Text(f"{record.created_at.astimezone():%Y-%m-%d %H:%M:%S}, {ago(record.created_at, now)}")),
        ("took", Text(duration(took_s))),
    ]
    if origin is not None:
        lines.insert(2, ("file", Text(str(shown_path(origin.file)) + (f":{origin.name}" if origin.name else ""))))
    if (owner := owner_of(record)) is not None:
        lines.append(("owner", Text(owner)))
    return Text("\n").join([Text(f"{name:<10}", style="dim") + value for name, value in lines])


def steps_table(record: RunRecord, steps: Sequence[StoredStep], *, width: int) -> Table:
    """Return the steps of a run as a tree, with what each took and cost."""
    rows = StepRows()
    _add_steps(rows, steps, 0)
    rows.add_cells(
        Text("total", style="bold"),
        status=_styled(record.status),
        cost=Text(format_usd(record.total_cost), style="bold"),
        tokens=Text(f"{record.total_tokens:,}", style="bold"),
    )
    return rows.table(width)


def _add_steps(rows: StepRows, steps: Sequence[StoredStep], depth: int) -> None:
    for each in steps[:_MOST_CHILDREN]:
        step, label = _innermost(each)
        rows.add_cells(
            Text("  " * depth) + _title(step, label),
            status=_styled(step.status),
            attempts=Text(f"{step.attempts:,}" if step.attempts else ""),
            time=Text("" if step.latency_s is None else duration(step.latency_s)),
            cost=Text(format_usd(step.cost)),
            tokens=Text(f"{step.tokens:,}"),
        )
        _add_steps(rows, step.steps, depth + 1)
    if len(steps) > _MOST_CHILDREN:
        rows.add_cells(Text(f"{'  ' * depth}and {len(steps) - _MOST_CHILDREN:,} more", style="dim"))


def _innermost(step: StoredStep) -> tuple[StoredStep, str]:
    """Return a step, or the only one within a pipeline that is no more than that, and what its place is called."""
    label = label_of(step.path[-1]) if step.path else ""
    while step.at is None and len(step.steps) == 1 and step.steps[0].path[-1:] == ("0",):
        (step,) = step.steps
    return step, label


def _title(step: StoredStep, label: str) -> Text:
    """Return a step's name, or what its path says of it."""
    if not step.path:
        return Text(step.name)
    if not step.name:
        return Text(label or f"step at {'/'.join(step.path)}", style="dim")
    return Text(step.name) + Text(f" ({label})" if label else "", style="dim")


def trace_table(record: RunRecord, steps: Sequence[StoredStep], *, width: int) -> Table:
    """Return a run as a timeline."""
    began = record.created_at.timestamp()
    table = _table(width, ("At", True), ("Event", False), ("Took", True), ("Cost", True))
    for event in events(record, steps):
        table.add_row(f"+{duration(max(0.0, event.at - began))}", *_event_cells(event, record))
    return table


def _event_cells(event: Event, record: RunRecord) -> Iterator[Text]:
    step = event.step
    if step is None:
        yield Text("the run began") if event.what == "began" else Text("the run ended: ") + _styled(record.status)
        yield Text("")
        yield Text(format_usd(record.total_cost) if event.what == "ended" else "")
        return
    name = Text(step.name or f"step at {'/'.join(step.path)}", style="cyan")
    if event.what == "asked":
        yield name + Text(f" asks: {one_line(step.question or '')}", style="")
    elif event.what == "answered":
        yield name + Text(f" was answered: {one_line(str(plain(step.answer)))}")
    elif event.what == "spent":
        yield name + Text(" did not finish")
    else:
        inside = sum(1 for _ in step.walk()) - 1
        yield name + Text(" ") + _styled(step.status) + Text(f", {count(inside, 'step')} within" if inside else "")
    yield Text("" if step.latency_s is None else duration(step.latency_s))
    yield Text(format_usd(step.cost))


def stats_tables(pipelines: Sequence[MeasuredPipeline], *, width: int) -> Iterator[Table]:
    """Yield a table of the pipelines and one of the steps of each."""
    yield _measured_table("Pipeline", "Runs", [each.runs for each in pipelines], width)
    for each in pipelines:
        if each.steps:
            yield Table(box=None)
            yield _measured_table(f"Steps of {each.runs.name}", "Count", list(each.steps.values()), width)


def _measured_table(title: str, noun: str, rows: Sequence[Measured], width: int) -> Table:
    is_narrow = width < 72
    table = _table(width, (title, False), (noun, True), ("Completed", True), ("Cost", True))
    if not is_narrow:
        table.add_column("Tokens", justify="right", no_wrap=True)
        for percent in PERCENTS:
            table.add_column(f"p{percent}", justify="right", no_wrap=True)
    for row in rows:
        cells = [row.name, f"{row.count:,}", f"{row.statuses['completed']:,}", format_usd(row.cost)]
        if not is_narrow:
            cells.append(f"{row.tokens:,}")
            for percent in PERCENTS:
                took_s = row.percentile_s(percent)
                cells.append("" if took_s is None else duration(took_s))
        table.add_row(*map(Text, cells))
    return table
