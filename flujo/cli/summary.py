"""The table that a run ends with: each step, what ran directly within it, and what all of it took and cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from flujo.cli.formats import count, duration, money
from flujo.domain.pipeline import BaseStep, Pipeline
from flujo.domain.results import PipelineResult, StepResult, total_usage
from flujo.steps.conditional import ConditionalStep
from flujo.steps.loop import LoopStep
from flujo.steps.map import MapStep
from flujo.steps.parallel import ParallelStep
from flujo.steps.refine import RefineStep
from flujo.steps.router import RouterStep

STATUS_STYLES = {
    "completed": "green",
    "failed": "red",
    "stopped": "yellow",
    "aborted": "yellow",
    "paused": "cyan",
    "cancelled": "yellow",
}
_MOST_GROUPS = 12
_COLUMNS = ("status", "attempts", "time", "cost", "tokens")
_LEAST_IMPORTANT = ("attempts", "tokens", "time", "cost")
_FEWEST_LABEL_CHARACTERS = 16
_ENOUGH_LABEL_CHARACTERS = 32
_MOST_LABEL_CHARACTERS = 60
_GAP = 2


@dataclass(slots=True, frozen=True)
class _Group:
    """Results of one step that stand in one row, such as the 24 items of a map."""

    label: str
    results: Sequence[StepResult]


@dataclass(slots=True)
class StepRows:
    """The rows of a table of steps while it is filled."""

    labels: list[Text] = field(default_factory=list[Text])
    cells: dict[str, list[Text]] = field(default_factory=lambda: {name: list[Text]() for name in _COLUMNS})

    def add(self, label: str, style: str, results: Sequence[StepResult]) -> None:
        """Add a row for results that stand together."""
        cost, tokens = total_usage(results)
        took_s = max(each.latency_s for each in results)
        self.add_cells(
            Text(label, style=style),
            status=_status([each.status for each in results]),
            attempts=Text(f"{sum(each.attempts for each in results):,}"),
            time=Text(duration(took_s)),
            cost=Text(money(cost)),
            tokens=Text(f"{tokens:,}"),
        )

    def add_cells(self, label: Text, **cells: Text) -> None:
        """Add a row; columns that are not given are empty."""
        self.labels.append(label)
        for name, column in self.cells.items():
            column.append(cells.get(name, Text()))

    def width_of(self, name: str) -> int:
        """Return how many characters a column takes."""
        return _GAP + max(cell_len(name), *(cell.cell_len for cell in self.cells[name]))

    def table(self, width: int) -> Table:
        """Return the table, with as many of its columns as leave room for the names of the steps."""
        self._align_points()
        shown = list(self.cells)
        longest = max(label.cell_len for label in self.labels)
        for name in _LEAST_IMPORTANT:
            room = width - sum(map(self.width_of, shown)) - _GAP
            wanted = min(longest, _ENOUGH_LABEL_CHARACTERS if name == "attempts" else _FEWEST_LABEL_CHARACTERS)
            if room < wanted:
                shown.remove(name)
        room = width - sum(map(self.width_of, shown)) - _GAP
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        table.add_column("Step", overflow="ellipsis", no_wrap=True, max_width=min(max(room, 1), _MOST_LABEL_CHARACTERS))
        for name in shown:
            title = name.capitalize()
            if name == "cost":
                title = title.rjust(self.width_of(name) - _GAP)
            is_left = name in ("status", "cost")  # costs are padded
            table.add_column(title, justify="left" if is_left else "right", no_wrap=True)
        for row, label in enumerate(self.labels):
            table.add_row(label, *(self.cells[name][row] for name in shown))
        return table

    def _align_points(self) -> None:
        """Pad costs so that their decimal points stand below each other."""
        costs = self.cells["cost"]
        decimals = [len(cell.plain.partition(".")[2]) + ("." in cell.plain) for cell in costs]
        most = max(decimals, default=0)
        for cell, number in zip(costs, decimals, strict=True):
            cell.pad_right(most - number)
        widest = max((cell.cell_len for cell in costs), default=0)
        for cell in costs:
            cell.pad_left(widest - cell.cell_len)


def summary_table(result: PipelineResult[Any], pipeline: Pipeline[Any, Any], *, elapsed_s: float, width: int) -> Table:
    """Return the table of a run.

    Args:
        result: What the run did.
        pipeline: What was run.
        elapsed_s: How many seconds the run took.
        width: How many characters there is room for; the less important columns are left out if it is narrow.
    """
    rows = StepRows()
    for step, each in zip(pipeline.steps, result.step_history, strict=False):
        rows.add(each.name, "", [each])
        groups = _groups(step, each)
        for group in groups[:_MOST_GROUPS]:
            rows.add(f"  {group.label}", "dim", group.results)
        if rest := [ran for group in groups[_MOST_GROUPS:] for ran in group.results]:
            rows.add(f"  and {len(rest):,} more", "dim", rest)
    for step in pipeline.steps[len(result.step_history) :]:
        rows.add_cells(Text(step.name, style="dim"), status=Text("not started", style="dim"))
    rows.add_cells(
        Text("total", style="bold"),
        status=_status([result.status]),
        time=Text(duration(elapsed_s), style="bold"),
        cost=Text(money(result.total_cost), style="bold"),
        tokens=Text(f"{result.total_tokens:,}", style="bold"),
    )
    return rows.table(width)


def _status(statuses: Sequence[str]) -> Text:
    """Return a status, or how many results have which."""
    counted = Counter(statuses)
    if len(counted) == 1:
        return Text(statuses[0], style=STATUS_STYLES.get(statuses[0], ""))
    parts = [
        Text(f"{number:,} {status}", style=STATUS_STYLES.get(status, "")) for status, number in counted.most_common()
    ]
    return Text(", ").join(parts)


def _groups(step: BaseStep[Any, Any], result: StepResult) -> list[_Group]:
    """Return what ran directly within a step, with what belongs together in one row."""
    labels = _labels(step, result)
    grouped: dict[str, list[StepResult]] = {}
    for label, each in zip(labels, result.step_history, strict=True):
        grouped.setdefault(label, []).append(each)
    return [_Group(_title(label, len(results)), results) for label, results in grouped.items()]


def _labels(step: BaseStep[Any, Any], result: StepResult) -> list[str]:
    """Return what each result within a step was, for lack of anything better by its name."""
    history, told = result.step_history, result.metadata_
    names = [each.name for each in history]
    labels: list[str] = []
    match step:
        case _ if "fallback_triggered" in told:
            labels = ["first try", "fallback"]
        case MapStep():
            labels = ["item"] * len(history)
        case LoopStep():
            labels = ["iteration"] * len(history)
        case RefineStep():
            labels = ["generator", "critic"] * len(history)
        case ConditionalStep():
            labels = [f"branch {told.get('executed_branch_key')}"]
        case RouterStep():
            labels = ["router", *(f"branch {name}" for name in told.get("executed_branches", ()))]
        case ParallelStep() if len(history) == len(step.branches):
            labels = [f"branch {name}" for name in step.branches]
        case _:
            pass
    return [label or name for label, name in zip_longest(labels[: len(names)], names)]


def _title(label: str, number: int) -> str:
    """Return `24 items` for the items of a map, `branch legal` for a branch, `critic (3)` for what ran repeatedly."""
    if label in ("item", "iteration"):
        return count(number, label)
    return label if number == 1 else f"{label} ({number:,})"
