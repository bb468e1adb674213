"""The events of a run that hooks may listen to."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from flujo.domain.budgets import AmountLimits, Amounts
from flujo.domain.models import StepPath, brief
from flujo.domain.results import PipelineResult, StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLevel:
    """How one level of limits stands in the midst of a run.

    Attributes:
        label: How it is spoken of, such as `the run`.
        spent: What was used, the uncertain included.
        reserved: What calls in flight may use at the most.
        uncertain_usd: The dollars of `spent` that were charged for calls of which nobody knows what they cost.
        limit: What may be used.
    """

    label: str
    spent: Amounts
    reserved: Amounts
    uncertain_usd: Decimal
    limit: AmountLimits


ReadUsage = Callable[[], Sequence[UsageLevel]]
"""Returns how the levels of a run stand at this moment, the run itself first; may be called from any thread."""


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
    """A run starts.

    Example:
        ```python
        from flujo import Flujo, PostStepPayload, PreRunPayload, Step

        class Watch:
            async def __call__(self, event: PreRunPayload | PostStepPayload) -> None:
                if isinstance(event, PreRunPayload):
                    self.usage = event.usage
                for level in self.usage():
                    print(f"{level.label}: {level.spent} of {level.limit} spent, {level.reserved} reserved")

        Flujo(Step.from_callable(str.upper, name="shout"), hooks=[Watch()]).run("hello")
        ```
    """

    initial_input: Any
    usage: ReadUsage = tuple
    """Returns what is spent and reserved; to be kept, and called whenever it is of interest while the run lasts."""


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
