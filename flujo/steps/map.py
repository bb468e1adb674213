"""A pipeline once for each item: the declaration and the handler."""

from collections.abc import Iterable
from types import GenericAlias
from typing import Any, TypeVar

from flujo.application.core.branches import Branch, BranchPolicy, BranchRun, MergeFunction
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.models import BranchFailureStrategy, MergeStrategy, UsageLimits
from flujo.domain.pipeline import BaseStep, Pipeline, ValidationReport
from flujo.domain.results import StepResult
from flujo.steps.checks import check_call, check_count, check_fields, check_step
from flujo.utils.narrowing import is_items

InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT")


class MapStep(BaseStep[InT, list[OutT]]):
    """Runs a pipeline once for each item of a context field or of its own input; its output is a list in order.

    Attributes:
        pipeline: What runs for each item.
        iterable_input: The context field with the items; `None` for the step's own input.
        policy: How the items run and what comes back.
    """

    def __init__(
        self,
        name: str,
        pipeline_to_run: BaseStep[Any, OutT],
        *,
        iterable_input: str | None = None,
        max_concurrency: int | None = 10,
        merge_strategy: MergeStrategy | MergeFunction = MergeStrategy.NO_MERGE,
        on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE,
        usage_limits: UsageLimits | None = None,
    ) -> None:
        super().__init__(name, usage_limits=usage_limits)
        check_step(name, "pipeline_to_run", pipeline_to_run)
        check_count(name, "max_concurrency", max_concurrency)
        check_call(name, "merge_strategy", merge_strategy, "context", "branches")
        self.pipeline = Pipeline.from_step(pipeline_to_run)
        self.iterable_input = iterable_input
        self.policy = BranchPolicy(merge=merge_strategy, on_failure=on_branch_failure, max_concurrency=max_concurrency)
        item, output = self.pipeline.input_type, self.pipeline.output_type
        if iterable_input is None and item is not Any:
            self.input_type = GenericAlias(Iterable, (item,))
        self.output_type = GenericAlias(list, (output,))

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return the pipeline."""
        return (("item", self.pipeline),)

    def check(self, report: ValidationReport, context_model: type | None) -> None:
        """Add a context field that does not exist."""
        if self.iterable_input is not None:
            check_fields(self.name, [self.iterable_input], report, context_model)


@ExecutorCore.handles(MapStep)
async def _handle_map_step(core: ExecutorCore, step: MapStep[Any, Any], frame: ExecutionFrame[Any]) -> StepResult:
    items = _items(step, frame)
    branches = [Branch(str(i), f"item:{i}", step.pipeline, item) for i, item in enumerate(items)]
    run = BranchRun(core, frame, branches, step.policy)
    await run.run()
    ran = [run.results[branch.name] for branch in branches if branch.name in run.results]
    return run.conclude([result.output if result.success else result for result in ran])


def _items(step: MapStep[Any, Any], frame: ExecutionFrame[Any]) -> list[Any]:
    source, items = "its input", frame.data
    if step.iterable_input is not None:
        source, items = f"the context field {step.iterable_input!r}", getattr(frame.context, step.iterable_input)
    if not is_items(items):
        raise TypeError(f"step {step.name!r} maps over items, but {source} is a {type(items).__name__}; give a list")
    return list(items)
