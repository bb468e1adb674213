"""What `flujo validate --cost` shows: what a run can cost at the most, by step."""

from collections.abc import Iterator
from decimal import Decimal

from rich.table import Table
from rich.text import Text

from flujo.cli.formats import label_of
from flujo.cli.terminal import one_line
from flujo.domain.cost_ceiling import CostCeiling, StepCeiling
from flujo.domain.models import StepPath
from flujo.domain.money import format_usd

_GAP = 2


def ceiling_table(ceiling: CostCeiling) -> Table:
    """Return the steps as a tree, with what one execution of each can cost."""
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    table.add_column("Step", overflow="fold")
    table.add_column("At most", justify="right", no_wrap=True)
    table.add_column("Because", overflow="fold")
    around: list[StepPath] = []
    for step in ceiling.by_step:
        while around and step.path[: len(around[-1])] != around[-1]:
            around.pop()
        place = step.path[len(around[-1]) :] if around else step.path
        table.add_row(Text("  " * len(around)) + _title(step, place), _amount(step), Text(step.basis))
        around.append(step.path)
    return table


def _title(step: StepCeiling, place: StepPath) -> Text:
    name = Text(one_line(step.step_name))
    labels = " ".join(label for part in place if (label := label_of(part)))
    return name + Text(f" ({one_line(labels)})", style="dim") if labels else name


def _amount(step: StepCeiling) -> Text:
    return Text("unbounded", style="yellow") if step.usd is None else Text(format_usd(step.usd))


def ceiling_lines(ceiling: CostCeiling) -> Iterator[str]:
    """Yield what a run can cost in all, or what makes it unbounded."""
    if ceiling.usd is not None:
        yield f"a run costs at most {format_usd(ceiling.usd)}"
        return
    for reason in ceiling.unbounded:
        yield f"unbounded: {one_line(reason)}"


def ceiling_document(ceiling: CostCeiling) -> dict[str, object]:
    """Return the ceiling as JSON; amounts are exact, as text."""
    return {
        "usd": _exact(ceiling.usd),
        "by_step": [
            {
                "path": list(step.path),
                "step_name": step.step_name,
                "basis": step.basis,
                "usd": _exact(step.usd),
                "unbounded": step.unbounded,
            }
            for step in ceiling.by_step
        ],
        "unbounded": list(ceiling.unbounded),
    }


def _exact(usd: Decimal | None) -> str | None:
    return None if usd is None else f"{usd:f}"
