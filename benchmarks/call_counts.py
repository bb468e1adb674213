"""Counts Python function calls per step and compares them with the recorded numbers.

`python -m benchmarks.call_counts` shows both; `--record` writes what was counted into `tests/bench/call_counts.json`,
for the minor version of the Python that runs it: versions differ, because each has its own asyncio and
since 3.12 a comprehension is no call. A version that nobody recorded must not call more than the one that calls most.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import cyclopts
from pydantic import TypeAdapter

from flujo.bench.call_counts import calls_per_step
from flujo.bench.scenarios import SCENARIOS

RECORD = Path(__file__).parent.parent / "tests" / "bench" / "call_counts.json"
TOLERANCE = 0.05
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

Counts = Mapping[str, float]
"""Calls per step, by scenario."""

_RECORDS = TypeAdapter(dict[str, dict[str, float]])


def count() -> dict[str, float]:
    return {scenario.name: round(calls_per_step(scenario), 2) for scenario in SCENARIOS}


def read_records() -> dict[str, dict[str, float]]:
    """Read the recorded counts by minor version of Python."""
    return _RECORDS.validate_json(RECORD.read_bytes())


def complaints(counted: Counts, records: Mapping[str, Counts], python: str) -> list[str]:
    """Return what is wrong with the counts: a scenario that grew, or a record that is out of date.

    Args:
        counted: Now.
        records: By minor version of Python.
        python: The version that counted. One that is not recorded may call no more than the one that calls most.
    """
    return list(filter(None, (_complaint(name, calls, records, python) for name, calls in counted.items())))


def _complaint(name: str, calls: float, records: Mapping[str, Counts], python: str) -> str | None:
    compared = [records[python]] if python in records else list(records.values())
    recorded = max((counts[name] for counts in compared if name in counts), default=None)
    record = "`python -m benchmarks.call_counts --record`"
    if recorded is None:
        return f"{name}: no calls are recorded; run {record}"
    change = f"{name}: {calls:g} calls per step on Python {python}, {recorded:g} recorded"
    if calls > recorded * (1 + TOLERANCE):
        return f"{change}; make it faster again, or say in the commit why it is slower and run {record}"
    if python in records and calls < recorded * (1 - TOLERANCE):
        return f"{change}; keep what was won: run {record}"
    return None


def main(*, record: bool = False) -> None:
    counted, records = count(), read_records() if RECORD.exists() else {}
    for name, calls in counted.items():
        print(f"{name:>9}: {calls:g} calls per step, {records.get(PYTHON, {}).get(name, 'none')} recorded")
    if record:
        records[PYTHON] = counted
        RECORD.write_bytes(_RECORDS.dump_json(dict(sorted(records.items())), indent=2) + b"\n")


if __name__ == "__main__":
    cyclopts.run(main)
