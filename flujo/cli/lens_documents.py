"""What `flujo lens` prints with `--json`: money as exact text, moments with their zone."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from flujo.cli.lens_stats import Measured, MeasuredPipeline
from flujo.cli.origin import Origin
from flujo.cli.stored_steps import StoredStep, plain, sum_of, waiting_steps
from flujo.domain.money import ZERO, subtract_usd
from flujo.state.ownership import Owner
from flujo.state.records import RunRecord
from flujo.utils.narrowing import is_dict

PERCENTS = (50, 90, 99)
"""Which percentiles of durations are shown."""


@dataclass(slots=True, frozen=True)
class Event:
    """Something that happened in a run.

    Attributes:
        at: When, in seconds since 1970.
        what: What it was.
        step: The step it happened to; `None` for the run itself.
    """

    at: float
    what: Literal["began", "ended", "asked", "answered", "spent"]
    step: StoredStep | None = None


def events(record: RunRecord, steps: Sequence[StoredStep], *, most_children: int | None = None) -> list[Event]:
    """Return what is stored of what happened in a run, in order, with no more children of each step than this."""
    happened = [Event(record.created_at.timestamp(), "began")]
    for top in steps:
        happened += [Event(step.at, _what(step), step) for step in top.walk(most_children) if step.at is not None]
    if record.status != "running":
        happened.append(Event(record.updated_at.timestamp(), "ended"))
    return sorted(happened, key=lambda event: event.at)


def _what(step: StoredStep) -> Literal["ended", "asked", "answered", "spent"]:
    if step.latency_s is not None:
        return "ended"
    if step.status == "answered":
        return "answered"
    return "asked" if step.question is not None else "spent"


def owner_of(record: RunRecord) -> str | None:
    """Return who runs a run, as people read it; `None` if nobody does."""
    if record.owner is None:
        return None
    owner = Owner.parse(record.owner)
    return f"{owner.describe()}, which is dead" if owner.is_dead() else owner.describe()


def runs_document(records: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """Return a list of runs."""
    return [_run(record) for record in records]


def run_document(record: RunRecord, steps: Sequence[StoredStep]) -> dict[str, Any]:
    """Return a run with its steps."""
    return {
        **_run(record),
        **{name: str(cost) for name, (cost, _) in differences(record, steps).items()},
        "input": _input(record),
        "steps": [step.as_dict() for step in steps],
        "waiting": [{"path": list(step.path), "message": step.question} for step in waiting_steps(steps)],
    }


def differences(record: RunRecord, steps: Sequence[StoredStep]) -> dict[str, tuple[Decimal, int]]:
    """Return in what the steps of a run differ from its total, in dollars and tokens.

    `cost_not_kept` is of steps that are not stored, and makes the steps add up to the total with them.
    `cost_not_charged` may have been paid for calls in flight when the process ended, which are shown in their steps;
    the total has it once the run goes on.
    """
    cost, tokens = sum_of(steps)
    missing, missing_tokens = subtract_usd(record.total_cost, cost), record.total_tokens - tokens
    return {
        "cost_not_kept": (missing if missing > 0 else ZERO, max(missing_tokens, 0)),
        "cost_not_charged": (subtract_usd(ZERO, missing) if missing < 0 else ZERO, max(-missing_tokens, 0)),
    }


def trace_document(record: RunRecord, steps: Sequence[StoredStep]) -> dict[str, Any]:
    """Return a run as a timeline."""
    return {**_run(record), "events": list(_events(record, steps))}


def stats_document(pipelines: Iterable[MeasuredPipeline]) -> list[dict[str, Any]]:
    """Return what runs took and cost, by pipeline."""
    return [{**_measured(each.runs), "steps": [_measured(step) for step in each.steps.values()]} for each in pipelines]


def _run(record: RunRecord) -> dict[str, Any]:
    origin = Origin.read(record)
    return {
        "run_id": record.run_id,
        "pipeline_name": record.pipeline_name,
        "pipeline_version": record.pipeline_version,
        "status": record.status,
        "is_intact": record.is_intact(),
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "owner": owner_of(record),
        "total_cost": str(record.total_cost),
        "total_tokens": record.total_tokens,
        "file": None if origin is None else str(origin.file),
    }


def _input(record: RunRecord) -> Any:
    try:
        start: object = json.loads(record.start)
    except ValueError:
        return None
    return plain(start.get("input")) if is_dict(start) else None


def _events(record: RunRecord, steps: Sequence[StoredStep]) -> Iterator[dict[str, Any]]:
    for event in events(record, steps):
        document: dict[str, Any] = {"at": datetime.fromtimestamp(event.at, UTC), "event": event.what}
        if event.step is None:
            document |= {"status": record.status} if event.what == "ended" else {}
        else:
            document |= {key: value for key, value in event.step.as_dict().items() if key != "at"}
        yield document


def _measured(each: Measured) -> dict[str, Any]:
    return {
        "name": each.name,
        "count": each.count,
        "statuses": dict(each.statuses),
        "attempts": each.attempts,
        "cost": str(each.cost),
        "tokens": each.tokens,
        **{f"p{percent}_s": each.percentile_s(percent) for percent in PERCENTS},
    }
