"""Adds up what stored runs took and cost, by pipeline and by step."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from flujo.cli.stored_steps import StoredStep, stored_steps
from flujo.domain.money import ZERO, add_usd
from flujo.state.records import StoredRun


@dataclass(slots=True)
class Measured:
    """What several runs, or several executions of one step, took and cost.

    Attributes:
        name: Of the pipeline, or of the step.
        statuses: How many ended in which way.
        attempts: How often agents were called.
        cost: US dollars, exact.
        tokens: Input and output together.
        durations_s: Seconds from start to end of those that completed.
    """

    name: str
    statuses: Counter[str] = field(default_factory=Counter[str])
    attempts: int = 0
    cost: Decimal = ZERO
    tokens: int = 0
    durations_s: list[float] = field(default_factory=list[float])

    def add(self, status: str, attempts: int, cost: Decimal, tokens: int, duration_s: float | None) -> None:
        """Count one more."""
        self.statuses[status] += 1
        self.attempts += attempts
        self.cost = add_usd(self.cost, cost)
        self.tokens += tokens
        if status == "completed" and duration_s is not None:
            self.durations_s.append(duration_s)

    @property
    def count(self) -> int:
        """How many there were."""
        return self.statuses.total()

    def percentile_s(self, percent: int) -> float | None:
        """Return the duration that so many percent do not exceed; `None` if none completed."""
        ordered = sorted(self.durations_s)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] if ordered else None


@dataclass(slots=True)
class MeasuredPipeline:
    """What the runs of one pipeline took and cost.

    Attributes:
        runs: All of them together.
        steps: Their steps at every depth, by name.
    """

    runs: Measured
    steps: dict[str, Measured] = field(default_factory=dict[str, Measured])


def measured(runs: Iterable[StoredRun]) -> list[MeasuredPipeline]:
    """Return what runs took and cost, by pipeline in order of its name.

    Of a run that waited for a person, the waiting counts.

    Raises:
        StateCorruptedError: What is stored of a run is damaged.
    """
    pipelines: dict[str, MeasuredPipeline] = {}
    for stored in runs:
        record = stored.record
        pipeline = pipelines.setdefault(record.pipeline_name, MeasuredPipeline(Measured(record.pipeline_name)))
        took_s = (record.updated_at - record.created_at).total_seconds()
        pipeline.runs.add(record.status, 1, record.total_cost, record.total_tokens, took_s)
        _add_steps(pipeline, stored_steps(stored))
    return [pipelines[name] for name in sorted(pipelines)]


def _add_steps(pipeline: MeasuredPipeline, steps: Sequence[StoredStep]) -> None:
    for top in steps:
        for step in top.walk():
            if step.name:  # nothing says it of a step that did not finish
                each = pipeline.steps.setdefault(step.name, Measured(step.name))
                each.add(step.status, step.attempts, step.cost, step.tokens, step.latency_s)
