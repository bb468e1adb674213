"""What `flujo lens` shows people."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flujo.cli.formats import count, duration, label_of
from flujo.cli.lens_documents import PERCENTS, Event, differences, events, owner_of
from flujo.cli.lens_stats import Measured, MeasuredPipeline
from flujo.cli.origin import Origin
from flujo.cli.stored_steps import StoredStep, plain, sum_of
from flujo.cli.stores import shown_path
from flujo.cli.summary import STATUS_STYLES, StepRows
from flujo.cli.terminal import one_line
from flujo.domain.metering import MeteredCall
from flujo.domain.money import add_usd, format_usd
from flujo.state.records import RunRecord

_MOST_CHILDREN = 20
_ID_CHARACTERS = 12
_FRESH_ID_CHARACTERS = 32
_FEWEST_COLUMNS = 3
_FIRST_NUMBER = 4
_FEWEST_CHARACTERS = 8
_NARROW = 72
_GAP = 2
_LONG_AGO_S = 14 * 86400
_STYLES = {
    **STATUS_STYLES,
    "waiting": "cyan",
    "answered": "cyan",
    "unfinished": "yellow",
    "running": "blue",
    "damaged": "bold red",
    "uncertain": "yellow",
}


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


def _table(names: Sequence[str], rows: Sequence[Sequence[Text]], *, cut: int, width: int) -> Table:
    """Return a table in which all columns but the one that is cut, where there is no room, are numbers."""
    widths = [max(len(name), *(row[number].cell_len for row in rows)) for number, name in enumerate(names)]
    room = width - sum(widths) + widths[cut] - _GAP * len(names)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for number, name in enumerate(names):
        justify: Literal["left", "right"] = "left" if number == cut else "right"
        most = max(1, room) if number == cut else None
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", max_width=most)
    for row in rows:
        table.add_row(*row)
    return table


def runs_lines(records: Sequence[RunRecord], *, now: datetime, console: Console) -> Iterator[str]:
    """Yield the lines of a table of runs, of which there may be many thousands.

    On a terminal identities are cut to what is enough to name a run; on a narrow one, the least important columns are
    left out, and what is still too long is cut.
    """
    rows = [("Run", "Pipeline", "Status", "Changed", "Cost", "Tokens")]
    for record in records:
        is_fresh_id = len(record.run_id) == _FRESH_ID_CHARACTERS and record.run_id.isalnum()
        rows.append(
            (
                one_line(record.run_id[:_ID_CHARACTERS] if console.is_terminal and is_fresh_id else record.run_id),
                one_line(record.pipeline_name),
                record.status if record.is_intact() else "damaged",
                ago(record.updated_at, now),
                format_usd(record.total_cost),
                f"{record.total_tokens:,}",
            )
        )
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    while len(widths) > _FEWEST_COLUMNS and sum(widths) + 2 * (len(widths) - 1) > console.width:
        widths.pop()
    for cut in (1, 0):
        excess = sum(widths) + 2 * (len(widths) - 1) - console.width
        widths[cut] = max(min(widths[cut], _FEWEST_CHARACTERS), widths[cut] - max(0, excess))
    statuses = {status: _drawn(_styled(status), console) for status in {row[2] for row in rows}}
    for row in rows:
        cells = [
            f"{_cut(cell, width):>{width}}" if number >= _FIRST_NUMBER else set_cell_size(_cut(cell, width), width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        cells[2] = statuses[row[2]] + " " * (widths[2] - len(row[2]))
        yield "  ".join(cells).rstrip()


def _cut(text: str, width: int) -> str:
    """Return text that is no wider than this."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _drawn(text: Text, console: Console) -> str:
    """Return text with its style as a terminal takes it."""
    with console.capture() as captured:
        console.print(text, end="")
    return captured.get()


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
    return Text("\n").join([Text.assemble((f"{name:<10}", "dim"), value) for name, value in lines])


def steps_table(record: RunRecord, steps: Sequence[StoredStep], *, width: int, shows_all: bool = False) -> Table:
    """Return the steps of a run as a tree, with what each took and cost, down to single calls of models.

    What has nothing below it adds up to what is above it, and to the total, to the last digit.

    Args:
        record: The run.
        steps: Its steps.
        width: How many characters there is room for.
        shows_all: Whether to show every step and call, however many there are.
    """
    rows = StepRows()
    _add_steps(rows, steps, 0, None if shows_all else _MOST_CHILDREN)
    difference = differences(record, steps)
    _add_amount(rows, Text("steps that are not kept", style="dim"), difference["cost_not_kept"])
    not_charged, tokens_not_charged = difference["cost_not_charged"]
    rows.add_cells(
        Text("total", style="bold"),
        status=_styled(record.status),
        cost=Text(format_usd(add_usd(record.total_cost, not_charged)), style="bold"),
        tokens=Text(f"{record.total_tokens + tokens_not_charged:,}", style="bold"),
    )
    _add_amount(rows, Text("  of it not charged yet", style="dim"), difference["cost_not_charged"])
    return rows.table(width)


def _add_amount(rows: StepRows, label: Text, amount: tuple[Decimal, int]) -> None:
    """Add a row for an amount that is of no step or call alone, unless it is nothing."""
    cost, tokens = amount
    if cost or tokens:
        rows.add_cells(label, cost=Text(format_usd(cost)), tokens=Text(f"{tokens:,}"))


def _add_steps(rows: StepRows, steps: Sequence[StoredStep], depth: int, most: int | None) -> None:
    for each in steps[:most]:
        step, label = _innermost(each)
        rows.add_cells(
            Text("  " * depth) + _title(step, label),
            status=_styled(step.status),
            attempts=Text(f"{step.attempts:,}" if step.attempts else ""),
            time=Text("" if step.latency_s is None else duration(step.latency_s)),
            cost=Text(format_usd(step.cost)),
            tokens=Text(f"{step.tokens:,}"),
        )
        _add_steps(rows, step.steps, depth + 1, most)
        _add_calls(rows, step.calls, depth + 1, most)
        _add_amount(rows, Text(f"{'  ' * (depth + 1)}not metered", style="dim"), step.rest())
    _add_folded(rows, steps, depth, most, "more")


def _add_calls(rows: StepRows, calls: Sequence[MeteredCall], depth: int, most: int | None) -> None:
    for call in calls[:most]:
        rows.add_cells(
            Text("  " * depth + one_line(call.label or "call"), style="dim cyan"),
            status=_styled("uncertain") if call.is_uncertain else Text(),
            cost=Text(format_usd(call.cost)),
            tokens=Text(f"{call.tokens:,}"),
        )
    _add_folded(rows, calls, depth, most, "more calls")


def _add_folded(
    rows: StepRows, parts: Sequence[StoredStep] | Sequence[MeteredCall], depth: int, most: int | None, noun: str
) -> None:
    """Add a row for what there is beyond those that are shown, with what it cost."""
    folded: Sequence[StoredStep] | Sequence[MeteredCall] = () if most is None else parts[most:]
    if folded:
        cost, tokens = sum_of(folded)
        rows.add_cells(
            Text(f"{'  ' * depth}and {len(folded):,} {noun}", style="dim"),
            cost=Text(format_usd(cost)),
            tokens=Text(f"{tokens:,}"),
        )


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
    rows = [
        [Text(f"+{duration(max(0.0, event.at - began))}"), *_event_cells(event, record)]
        for event in events(record, steps, most_children=_MOST_CHILDREN)
    ]
    shown = 4 if width >= _NARROW else 2
    return _table(["At", "Event", "Took", "Cost"][:shown], [row[:shown] for row in rows], cut=1, width=width)


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
            yield _measured_table(f"Steps of {each.runs.name}", "Count", list(each.steps.values()), width)


def _measured_table(title: str, noun: str, measures: Sequence[Measured], width: int) -> Table:
    rows: list[list[Text]] = []
    for each in measures:
        cells = [each.name, f"{each.count:,}", f"{each.statuses['completed']:,}", format_usd(each.cost)]
        percentiles = [each.percentile_s(percent) for percent in PERCENTS]
        cells += [f"{each.tokens:,}", *("" if took_s is None else duration(took_s) for took_s in percentiles)]
        rows.append([Text(cell) for cell in cells])
    names = [title, noun, "Completed", "Cost", "Tokens", *(f"p{percent}" for percent in PERCENTS)]
    shown = len(names) if width >= _NARROW else 4
    return _table(names[:shown], [row[:shown] for row in rows], cut=0, width=width)
