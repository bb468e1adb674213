"""One branch of several, chosen by a key: the declaration and the handler."""

import reprlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.outcome import UserFunctionError, call_user, conclude, describe_error, end_with
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.cost_ceiling import Ceiling
from flujo.domain.models import UsageLimits
from flujo.domain.pipeline import BaseStep, Pipeline
from flujo.domain.results import StepResult
from flujo.steps.checks import check_call, check_step
from flujo.steps.parallel import as_pipelines, branch_places, common_input_type
from flujo.utils.copying import copy_value

InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT", covariant=True)


class ConditionalStep(BaseStep[InT, OutT]):
    """Runs the branch whose key the condition returns.

    Attributes:
        condition: `(input, context) -> key`.
        branches: The branches by key.
        places: By key, a branch's part of the path.
        default_branch: What runs for any other key; `None` fails the step.
        input_mapper: `(input, context) -> input` of the branch.
        output_mapper: `(output, key, context) -> output` of the step.
    """

    def __init__(
        self,
        name: str,
        *,
        condition_callable: Callable[[Any, Any], Hashable],
        branches: Mapping[Any, BaseStep[Any, Any]],
        default_branch_pipeline: BaseStep[Any, Any] | None = None,
        branch_input_mapper: Callable[[Any, Any], Any] | None = None,
        branch_output_mapper: Callable[[Any, Any, Any], Any] | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> None:
        super().__init__(name, usage_limits=usage_limits)
        check_call(name, "condition_callable", condition_callable, "output", "context", required=True)
        check_call(name, "branch_input_mapper", branch_input_mapper, "input", "context")
        check_call(name, "branch_output_mapper", branch_output_mapper, "output", "key", "context")
        self.condition = condition_callable
        self.branches = as_pipelines(name, branches)
        self.places = branch_places(branches)
        self.default_branch: Pipeline[Any, Any] | None = None
        if default_branch_pipeline is not None:
            check_step(name, "default_branch_pipeline", default_branch_pipeline)
            self.default_branch = Pipeline.from_step(default_branch_pipeline)
        self.input_mapper = branch_input_mapper
        self.output_mapper = branch_output_mapper
        ways = [branch for _, branch in self.children()]
        self.input_type = common_input_type(ways) if branch_input_mapper is None else Any
        outputs = [way.output_type for way in ways]
        same = branch_output_mapper is None and all(each == outputs[0] for each in outputs)
        self.output_type = outputs[0] if same else Any

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return the branches, and the default one as `default`."""
        ways = [(self.places[key], branch) for key, branch in self.branches.items()]
        return ways if self.default_branch is None else [*ways, ("default", self.default_branch)]

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return that of the dearest branch."""
        return Ceiling.dearest_of(inner, f"the dearest of {len(inner)} branches" if len(inner) > 1 else "its branch")


@dataclass(slots=True, frozen=True)
class _TakenBranch:
    """Where a conditional stood: the key it had chosen, and the input of the branch."""

    key: Any
    data: Any


@ExecutorCore.handles(ConditionalStep)
async def _handle_conditional_step(
    core: ExecutorCore, step: ConditionalStep[Any, Any], frame: ExecutionFrame[Any]
) -> StepResult:
    left = frame.checkpoint(_TakenBranch)
    taken = _TakenBranch(left.key, copy_value(left.data)) if left else _choose(step, frame)
    frame.metadata = {"executed_branch_key": taken.key}
    try:
        branch, at = step.branches.get(taken.key), step.places.get(taken.key, "default")
    except Exception as error:  # what the key's own code raises; no branch can have such a key
        known = ", ".join(map(repr, step.branches))
        key = reprlib.repr(taken.key)
        raise UserFunctionError(
            f"condition_callable: {step.describe()} has no branch for the key {key} ({describe_error(error)}); "
            f"the branches are {known}"
        ) from error
    if branch is None:
        branch = step.default_branch
    if branch is None:
        known = ", ".join(map(repr, step.branches))
        return conclude(
            frame,
            status="failed",
            feedback=f"no branch for the key {taken.key!r} and no default; the branches are {known}",
            metadata={},
        )
    streams = frame.on_chunk if step.output_mapper is None else None
    result = await core.execute(frame.child(branch, taken.data, at=at, on_chunk=streams))
    frame.history = [result]
    if result.status == "paused":
        frame.save(taken)
    if not result.success:
        return end_with(frame, result, result.output)
    output = result.output
    if step.output_mapper is not None:
        output = call_user("branch_output_mapper", step.output_mapper, output, taken.key, frame.context)
    return conclude(frame, output)


def _choose(step: ConditionalStep[Any, Any], frame: ExecutionFrame[Any]) -> _TakenBranch:
    key, data = call_user("condition_callable", step.condition, frame.data, frame.context), frame.data
    if step.input_mapper is not None:
        frame.metadata = {"executed_branch_key": key}
        data = call_user("branch_input_mapper", step.input_mapper, data, frame.context)
    return _TakenBranch(key, data)
