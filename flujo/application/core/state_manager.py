"""The journal of a run: where its unfinished steps stand.

A composite that has to return before it is done, because a step within it waits for a person,
leaves a checkpoint under its path: which child it is at, and with what.
A resumed run starts at the top again, and every composite goes on from its checkpoint;
so a pause costs nothing until it happens, and no finished step is looked at twice.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from flujo.domain.metering import MeteredCall
from flujo.domain.models import StepPath
from flujo.domain.money import ZERO

CheckpointT = TypeVar("CheckpointT")


@dataclass(slots=True, frozen=True)
class Question:
    """Checkpoint of a step that waits: what it asked, and what it had spent and changed until then."""

    message: str
    attempts: int = 1
    cost: Decimal = ZERO
    tokens: int = 0
    changed: Any = None
    """What it had changed in the context, for a run that is started again from the beginning."""
    calls: tuple[MeteredCall, ...] = ()
    """What was metered of the cost."""


@dataclass(slots=True)
class StateManager:
    """The checkpoints of one run, and the answers it goes on with.

    Attributes:
        left: Checkpoints that this run left, by path.
        found: Checkpoints that it resumes from, by path; each is taken once.
        answers: What people answered to the steps that waited, by path; each is taken once.
    """

    found: dict[StepPath, Any] = field(default_factory=dict[StepPath, Any])
    answers: dict[StepPath, Any] = field(default_factory=dict[StepPath, Any])
    left: dict[StepPath, Any] = field(default_factory=dict[StepPath, Any])

    def save(self, path: StepPath, checkpoint: object) -> None:
        """Keep where the step at `path` stands."""
        self.left[path] = checkpoint

    def take(self, path: StepPath, kind: type[CheckpointT]) -> CheckpointT | None:
        """Return where the step at `path` stood, or `None` if it starts afresh."""
        if not self.found or not isinstance(found := self.found.get(path), kind):
            return None
        del self.found[path]
        return found
