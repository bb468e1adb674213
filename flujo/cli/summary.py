"""The table that a run ends with: each step, what ran directly within it, and what all of it took and cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

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

_STYLES = {
    "completed": "green",
    "failed": "red",
    "stopped": "yellow",
    "aborted": "yellow",
    "paused": "cyan",
    "cancelled": "yellow",
}
_MOST_GROUPS = 12


@dataclass(slots=True, frozen=True)
class _Group:
    """Results of one step that stand in one row, such as the 24 items of a map."""

    label: str
    results: Sequence[StepResult]


def summary_table(result: PipelineResult[Any], pipeline: Pipeline[Any, Any], *, elapsed_s: float) -> Table:
    """Return the table of a run.

    Args:
        result: What the run did.
        pipeline: What was run.
        elapsed_s: How many seconds the run took.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Step", overflow="ellipsis", no_wrap=True, max_width=40)
    table.add_column("Status", no_wrap=True)
    for name in ("Attempts", "Time", "Cost", "Tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for step, each in zip(pipeline.steps, result.step_history, strict=False):
        _add_row(table, Text(each.name), [each])
        groups = _groups(step, each)
        for group in groups[:_MOST_GROUPS]:
            _add_row(table, Text(f"  {group.label}", style="dim"), group.results)
        if rest := [ran for group in groups[_MOST_GROUPS:] for ran in group.results]:
            _add_row(table, Text(f"  and {len(rest):,} more", style="dim"), rest)
    for step in pipeline.steps[len(result.step_history) :]:
        table.add_row(Text(step.name, style="dim"), Text("not started", style="dim"))
    table.add_section()
    total = (duration(elapsed_s), money(result.total_cost), f"{result.total_tokens:,}")
    table.add_row(Text("total"), _status([result.status]), "", *total, style="bold")
    return table


def _add_row(table: Table, label: Text, results: Sequence[StepResult]) -> None:
    cost, tokens = total_usage(results)
    table.add_row(
        label,
        _status([each.status for each in results]),
        f"{sum(each.attempts for each in results):,}",
        duration(_longest_s(results)),
        money(cost),
        f"{tokens:,}",
    )


def _longest_s(results: Sequence[StepResult]) -> float:
    return max(each.latency_s for each in results)


def _status(statuses: Sequence[str]) -> Text:
    """Return a status, or how many results have which."""
    counted = Counter(statuses)
    if len(counted) == 1:
        return Text(statuses[0], style=_STYLES.get(statuses[0], ""))
    parts = [Text(f"{number:,} {status}", style=_STYLES.get(status, "")) for status, number in counted.most_common()]
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
