"""Follows a run through its hooks: which steps run, how many have finished, what they cost so far."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from flujo.cli.formats import count
from flujo.domain.models import StepPath
from flujo.domain.money import ZERO, add_usd, format_usd
from flujo.domain.observers import (
    HookPayload,
    OnPausePayload,
    OnStepFailurePayload,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
    ReadUsage,
)
from flujo.domain.results import StepResult


@dataclass(slots=True)
class RunningStep:
    """A step that has started and not ended.

    Attributes:
        name: Its name.
        path: Its address in the run.
        part: Its part of the path within the running step around it, such as `item:7`.
        depth: How many running steps are around it.
        started_s: When it started, by the monitor's clock.
        is_composite: Whether it is made of steps.
        ended_children: How many steps directly within it have ended.
        cost: US dollars of the steps within it that have ended.
        tokens: Tokens of the steps within it that have ended.
    """

    name: str
    path: StepPath
    part: str
    depth: int
    started_s: float
    is_composite: bool
    ended_children: int = 0
    cost: Decimal = ZERO
    tokens: int = 0

    def describe(self) -> str:
        """Return the step and where it is."""
        return f"step {self.name!r} at {'/'.join(self.path)}"


@dataclass(slots=True)
class RunMonitor:
    """A hook that keeps account of a run.

    Attributes:
        on_event: Called after each event, with the step that has started, or `None` if one ended.
        clock: Tells the seconds.
        running: The steps that run, by path, the ones around a step before it.
        finished_steps: How many steps that are not made of steps have completed.
        cost: US dollars of all steps that have ended.
        tokens: Tokens of all steps that have ended.
        usage: Returns what is spent and reserved, by level of limits; no levels before the run starts.
        started_s: When the run started, by the clock.
    """

    on_event: Callable[[RunningStep | None], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    running: dict[StepPath, RunningStep] = field(default_factory=dict[StepPath, RunningStep])
    finished_steps: int = 0
    cost: Decimal = ZERO
    tokens: int = 0
    usage: ReadUsage = tuple
    started_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_s = self.clock()

    async def __call__(self, payload: HookPayload) -> None:
        """Take note of an event."""
        if isinstance(payload, PreStepPayload):
            self.on_event(self._start(payload))
        elif isinstance(payload, PostStepPayload | OnStepFailurePayload):
            self._end(payload.path, payload.step_result)
            self.on_event(None)
        elif isinstance(payload, OnPausePayload):
            self._end(payload.path, None)
            self.on_event(None)
        elif isinstance(payload, PreRunPayload):
            self.usage = payload.usage
        elif isinstance(payload, PostRunPayload) and payload.pipeline_result.status == "paused":
            self.running.clear()  # of the steps around those that wait nothing more is told

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run started."""
        return self.clock() - self.started_s

    def position(self) -> str:
        """Return where the run stands, in words."""
        innermost = [step for step in self.running.values() if not step.is_composite] or list(self.running.values())
        where = f"in {innermost[0].describe()}" if innermost else "between two steps"
        if len(innermost) > 1:
            where += f" (and in {count(len(innermost) - 1, 'other')})"
        tokens = f" and {count(self.tokens, 'token')}" if self.tokens else ""
        return (
            f"{where}, after {count(self.finished_steps, 'finished step')} with {format_usd(self.cost)}{tokens} spent"
        )

    def _start(self, payload: PreStepPayload) -> RunningStep:
        around = self._around(payload.path)
        step = RunningStep(
            payload.step.name,
            payload.path,
            payload.path[0 if around is None else len(around.path)],
            0 if around is None else around.depth + 1,
            self.clock(),
            any(True for _ in payload.step.children()),
        )
        self.running[payload.path] = step
        return step

    def _end(self, path: StepPath, result: StepResult | None) -> None:
        """Count what a step cost beyond the steps within it, which were counted when they ended."""
        step = self.running.pop(path, None)
        if step is None:
            return
        cost, tokens = (step.cost, step.tokens) if result is None else (result.cost, result.token_counts)
        self.cost = add_usd(self.cost, cost - step.cost)
        self.tokens += tokens - step.tokens
        if result is not None and result.success and not step.is_composite:
            self.finished_steps += 1
        if (around := self._around(path)) is not None:
            around.ended_children += 1
            around.cost = add_usd(around.cost, cost)
            around.tokens += tokens

    def _around(self, path: StepPath) -> RunningStep | None:
        """Return the innermost running step around a path."""
        for length in range(len(path) - 1, 0, -1):
            if (step := self.running.get(path[:length])) is not None:
                return step
        return None
