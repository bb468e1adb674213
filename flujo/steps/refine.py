"""A generator and a critic, taking turns until the critic is content: the declaration and the handler."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.outcome import call_user, conclude, end_with, halted
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.cost_ceiling import Ceiling
from flujo.domain.models import RefinementCheck, UsageLimits
from flujo.domain.pipeline import BaseStep, Pipeline, ValidationReport, check_flow
from flujo.domain.results import StepResult
from flujo.steps.checks import check_call, check_count, check_step
from flujo.utils.copying import copy_value

InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT", covariant=True)

FeedbackMapper = Callable[[Any, RefinementCheck], Any]


class RefineStep(BaseStep[InT, OutT]):
    """Lets a generator make drafts until a critic accepts one; its output is the accepted draft.

    Attributes:
        generator: Makes a draft of `{"original_input": ..., "feedback": ...}`.
        critic: Gives a `RefinementCheck` for a draft.
        max_refinements: The most drafts.
        feedback_mapper: `(original_input, check) -> input` of the generator's next draft.
    """

    def __init__(
        self,
        name: str,
        generator_pipeline: BaseStep[Any, OutT],
        critic_pipeline: BaseStep[Any, RefinementCheck],
        *,
        max_refinements: int = 5,
        feedback_mapper: FeedbackMapper | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> None:
        super().__init__(name, usage_limits=usage_limits)
        check_step(name, "generator_pipeline", generator_pipeline)
        check_step(name, "critic_pipeline", critic_pipeline)
        check_count(name, "max_refinements", max_refinements)
        check_call(name, "feedback_mapper", feedback_mapper, "original_input", "check")
        self.generator = Pipeline.from_step(generator_pipeline)
        self.critic = Pipeline.from_step(critic_pipeline)
        self.max_refinements = max_refinements
        self.feedback_mapper = feedback_mapper
        self.output_type = self.generator.output_type

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return generator and critic."""
        return (("generator", self.generator), ("critic", self.critic))

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return that of all drafts and their criticism."""
        most = self.max_refinements
        return Ceiling.sum_of(inner, f"max_refinements={most}", times=most)

    @property
    def touches_context(self) -> bool:
        """Refining itself does not; generator and critic may."""
        return False

    def check(self, report: ValidationReport, context_model: type | None) -> None:
        """Add a critic that cannot read the drafts, or that gives no `RefinementCheck`."""
        generator = f"the generator of {self.name!r} ({self.generator.steps[-1].describe()})"
        critic = f"its critic ({self.critic.steps[0].describe()})"
        check_flow(
            report,
            (generator, self.generator.output_type),
            (critic, self.critic.input_type),
            self.name,
        )
        check_flow(
            report,
            (critic, self.critic.output_type),
            (self.describe(), RefinementCheck),
            self.name,
        )


@dataclass(slots=True, frozen=True)
class _RefineCheckpoint:
    """Where a refinement stood: the drafts checked, the input of generator or critic, and their results."""

    checked: int
    data: Any
    is_draft: bool
    history: tuple[StepResult, ...]


@ExecutorCore.handles(RefineStep)
async def _handle_refine_step(core: ExecutorCore, step: RefineStep[Any, Any], frame: ExecutionFrame[Any]) -> StepResult:
    """Run generator and critic in turn; `data` is a request for the generator, or a draft for the critic."""
    data: Any = {"original_input": frame.data, "feedback": None}
    checked, is_draft, history = 0, False, list[StepResult]()
    if (left := frame.checkpoint(_RefineCheckpoint)) is not None:
        checked, data, is_draft, history = left.checked, copy_value(left.data), left.is_draft, list(left.history)
    frame.history = history
    while checked < step.max_refinements:
        frame.attempts = checked + 1
        turn, at = (step.critic, "critic") if is_draft else (step.generator, "generator")
        result = await core.execute(frame.child(turn, data, at=f"{at}:{checked + 1}"))
        history.append(result)
        if result.status != "completed":
            if result.status == "paused":
                frame.save(_RefineCheckpoint(checked, data, is_draft, tuple(history[:-1])))
            return end_with(frame, result)
        if is_draft:
            checked += 1
            check = _verdict(result)
            if check.is_complete:
                return conclude(frame, data, metadata={"exit_reason": "condition"})
            data = _next_request(step, frame.data, check)
        else:
            data = result.output
        if frame.scope.control.halt is not None:
            return halted(frame)
        is_draft = not is_draft
    draft, verdict = history[-2], _verdict(history[-1])
    return conclude(
        frame,
        draft.output,
        status="failed",
        feedback=f"no draft was accepted after max_refinements={step.max_refinements}: {verdict.feedback}",
        metadata={"exit_reason": "max_loops"},
    )


def _verdict(result: StepResult) -> RefinementCheck:
    if not isinstance(result.output, RefinementCheck):
        raise TypeError(
            f"the critic {result.name!r} gave {type(result.output).__name__}; a critic gives a RefinementCheck"
        )
    return result.output


def _next_request(step: RefineStep[Any, Any], original: Any, check: RefinementCheck) -> Any:
    if step.feedback_mapper is not None:
        return call_user("feedback_mapper", step.feedback_mapper, original, check)
    return {"original_input": original, "feedback": check.feedback}
