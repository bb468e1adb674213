"""Measurements are shown as a table, or as JSON."""

import io
import json

from rich.console import Console

from flujo.bench.measuring import Measurement, PipelineMeasurement
from flujo.bench.report import Report, pipeline_line, scenario_table

_MEASURED = Measurement(name="map", unit="item, 10 at a time", size=10_000, flujo_us=6.841, plain_us=0.5)


def test_the_table_fits_a_terminal() -> None:
    """Each measurement is one row, with units, in 80 columns."""
    console = Console(file=io.StringIO(), width=80)

    console.print(scenario_table([_MEASURED]))

    assert isinstance(console.file, io.StringIO)
    rows = [line for line in console.file.getvalue().splitlines() if "map" in line]
    assert [cell.strip() for cell in rows[0].split("│")[1:-1]] == [
        "map",
        "item, 10 at a time",
        "10,000",
        "6.84 µs",
        "0.50 µs",
        "13.7",
    ]


def test_machines_get_everything() -> None:
    """The JSON holds each number under its name, the ratio included."""
    pipeline = PipelineMeasurement(name="digest", steps=12, cpu_us=25.0)
    report = Report(python="3.11.7", scenarios=[_MEASURED], pipeline=pipeline)

    written = json.loads(report.model_dump_json())

    assert written == {
        "python": "3.11.7",
        "scenarios": [
            {
                "name": "map",
                "unit": "item, 10 at a time",
                "size": 10_000,
                "flujo_us": 6.841,
                "plain_us": 0.5,
                "ratio": 6.841 / 0.5,
            }
        ],
        "pipeline": {"name": "digest", "steps": 12, "cpu_us": 25.0},
    }


def test_a_pipeline_is_one_line() -> None:
    """What a user's pipeline takes is said in one line."""
    line = pipeline_line(PipelineMeasurement(name="digest", steps=1200, cpu_us=1234.56))

    assert line == "digest: 1,234.6 µs of CPU time per step; steps in a run: 1,200"
