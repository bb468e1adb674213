"""The events of a run that hooks may listen to."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any

from flujo.domain.models import StepPath, brief
from flujo.domain.results import PipelineResult, StepResult


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HookPayload:
    """What every event carries.

    Example:
        ```python
        from flujo import Flujo, PostStepPayload, Step

        async def report(event: PostStepPayload) -> None:
            print(event.step_result.name, "took", event.step_result.latency_s, "seconds")

        Flujo(Step.from_callable(str.upper, name="shout"), hooks=[report]).run("hello")
        ```
    """

    context: Any = None
    """The context as the step sees it; of a branch, the branch's own copy."""
    resources: Any = None

    def __repr__(self) -> str:
        """Return one line, however large what it carries is."""
        carried = ", ".join(f"{field.name}={brief(getattr(self, field.name))}" for field in fields(self))
        return f"{type(self).__name__}({carried})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PreRunPayload(HookPayload):
    """A run starts."""

    initial_input: Any


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PostRunPayload(HookPayload):
    """A run ended, whichever way."""

    pipeline_result: PipelineResult[Any]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PreStepPayload(HookPayload):
    """A step starts, at any depth.

    How it ends is told by one of the three below, unless the run ends first, or a step within it waits for a person:
    then nothing more is told of the steps around that one before the run ends.
    """

    step: Any
    step_input: Any
    path: StepPath


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PostStepPayload(HookPayload):
    """A step completed."""

    step_result: StepResult
    path: StepPath


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OnStepFailurePayload(HookPayload):
    """A step did not complete: it failed, or a limit or an abort stopped it."""

    step_result: StepResult
    path: StepPath


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OnPausePayload(HookPayload):
    """A step waits for a person; told once for each question, of the step that asks."""

    step_name: str
    path: StepPath
    message: str


Hook = Callable[[Any], Awaitable[object]]
"""An async callable that gets one payload; annotated with payload types, it gets only those."""

PAYLOADS = (
    PreRunPayload,
    PostRunPayload,
    PreStepPayload,
    PostStepPayload,
    OnStepFailurePayload,
    OnPausePayload,
)
