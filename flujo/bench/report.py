"""What was measured, as a table for people and as JSON for machines."""

import platform
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

from flujo.bench.measuring import Measurement, PipelineMeasurement


class Report(BaseModel):
    """Everything that one call of `flujo bench` measured; `model_dump_json` is what machines get."""

    model_config = ConfigDict(frozen=True)

    python: str = Field(default_factory=platform.python_version)
    """The version of Python."""
    scenarios: Sequence[Measurement] = ()
    pipeline: PipelineMeasurement | None = None


def scenario_table(measurements: Sequence[Measurement]) -> Table:
    """Return a table with one row for each measurement."""
    table = Table(title="CPU time per step", title_justify="left")
    table.add_column("scenario")
    table.add_column("one step is a")
    for heading in ("steps", "flujo", "plain asyncio", "ratio"):
        table.add_column(heading, justify="right")
    for each in measurements:
        table.add_row(
            each.name,
            each.unit,
            f"{each.size:,}",
            f"{each.flujo_us:.2f} µs",
            f"{each.plain_us:.2f} µs",
            f"{each.ratio:.1f}",
        )
    return table


def pipeline_line(measurement: PipelineMeasurement) -> str:
    """Return what was measured of a user's pipeline, in one line."""
    return (
        f"{measurement.name}: {measurement.cpu_us:,.1f} µs of CPU time per step; steps in a run: {measurement.steps:,}"
    )
