"""Picking branch outputs out of a parallel result: the declaration and the handler."""

from collections.abc import Mapping, Sequence
from typing import Any

from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.outcome import conclude
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.cost_ceiling import Ceiling
from flujo.domain.pipeline import BaseStep
from flujo.domain.results import StepResult
from flujo.exceptions import ConfigurationError
from flujo.utils.narrowing import is_mapping


class GatherStep(BaseStep[Mapping[str, Any], dict[str, Any]]):
    """Gives a dict of the keys it waits for; a missing key fails the step.

    Attributes:
        wait_for: The keys, in the order of the output.
    """

    def __init__(self, name: str, *, wait_for: Sequence[str]) -> None:
        super().__init__(name)
        if isinstance(wait_for, str) or not wait_for:
            raise ConfigurationError(f"step {name!r}: wait_for is {wait_for!r}; give a list of at least one key")
        self.wait_for = tuple(wait_for)
        self.output_type = dict[str, Any]

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return nothing: nobody is asked."""
        return Ceiling.free("asks nobody")

    @property
    def touches_context(self) -> bool:
        """Gathering works on the input alone."""
        return False


@ExecutorCore.handles(GatherStep)
async def _handle_gather_step(core: ExecutorCore, step: GatherStep, frame: ExecutionFrame[Any]) -> StepResult:
    data = frame.data
    if not is_mapping(data):
        raise TypeError(f"step {step.name!r} gathers keys of a dict, but its input is a {type(data).__name__}")
    missing = [key for key in step.wait_for if key not in data]
    if missing:
        there = ", ".join(map(repr, data)) or "no keys"
        feedback = f"the input lacks {', '.join(map(repr, missing))}; it has {there}"
        return conclude(frame, status="failed", feedback=feedback)
    return conclude(frame, {key: data[key] for key in step.wait_for})
