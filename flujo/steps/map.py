"""A pipeline once for each item: the declaration and the handler."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from types import GenericAlias
from typing import Any, TypeVar

from pydantic import BaseModel

from flujo.application.core.branches import Branch, BranchRun, MergeFunction
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.cost_ceiling import Ceiling
from flujo.domain.models import BranchFailureStrategy, MergeStrategy, UsageLimits
from flujo.domain.pipeline import BaseStep, Pipeline, ValidationReport
from flujo.domain.results import StepResult
from flujo.steps.checks import check_count, check_fields, check_step
from flujo.steps.parallel import make_policy, merged_fields
from flujo.utils.copying import copy_value
from flujo.utils.narrowing import is_items

InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT")


class MapStep(BaseStep[InT, list[OutT]]):
    """Runs a pipeline once for each item of a context field or of its own input; its output is a list in order.

    Attributes:
        pipeline: What runs for each item.
        iterable_input: The context field with the items; `None` for the step's own input.
        max_items: The most items; `None` for any number.
        policy: How the items run and what comes back.
    """

    def __init__(
        self,
        name: str,
        pipeline_to_run: BaseStep[Any, OutT],
        *,
        iterable_input: str | None = None,
        max_items: int | None = None,
        max_concurrency: int | None = 10,
        merge_strategy: MergeStrategy | MergeFunction = MergeStrategy.NO_MERGE,
        on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE,
        usage_limits: UsageLimits | None = None,
    ) -> None:
        super().__init__(name, usage_limits=usage_limits)
        check_step(name, "pipeline_to_run", pipeline_to_run)
        self.pipeline = Pipeline.from_step(pipeline_to_run)
        check_count(name, "max_items", max_items)
        self.iterable_input = iterable_input
        self.max_items = max_items
        self.policy = make_policy(name, merge_strategy, on_branch_failure, max_concurrency)
        item, output = self.pipeline.input_type, self.pipeline.output_type
        if iterable_input is None and item is not Any:
            self.input_type = GenericAlias(Iterable, (item,))
        self.output_type = GenericAlias(list, (output,))

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return the pipeline."""
        return (("item", self.pipeline),)

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return that of all items."""
        if self.max_items is None and any(each.usd != 0 for each in inner):
            return Ceiling.none("nobody knows how many items it gets; give it max_items", is_reserved=True)
        if self.max_items is None:
            return Ceiling.free("any number of items")
        return Ceiling.sum_of(inner, f"max_items={self.max_items}", times=self.max_items)

    @property
    def touches_context(self) -> bool:
        """A merge function of the user's does, and items of a context field are parts of the context."""
        return self.iterable_input is not None or not isinstance(self.policy.merge, MergeStrategy)

    def check(self, report: ValidationReport, context_model: type | None) -> None:
        """Add a context field that does not exist."""
        source = () if self.iterable_input is None else (self.iterable_input,)
        check_fields(self.name, [*source, *merged_fields(self.policy)], report, context_model)


@dataclass(slots=True, frozen=True)
class _Items:
    """What a map that waits for a person maps over; an iterator gives its items only once."""

    items: list[Any]


@ExecutorCore.handles(MapStep)
async def _handle_map_step(core: ExecutorCore, step: MapStep[Any, Any], frame: ExecutionFrame[Any]) -> StepResult:
    journal, items_path = frame.scope.journal, (*frame.path, "items")
    left = journal.take(items_path, _Items)
    items = copy_value(left.items) if left else _items(step, frame)
    branches = [Branch(str(i), f"item:{i}", step.pipeline, item) for i, item in enumerate(items)]
    run = BranchRun(core, frame, branches, step.policy)
    await run.run()
    ran = [run.results[branch.name] for branch in branches if branch.name in run.results]
    result = run.conclude([result.output if result.success else result for result in ran])
    if result.status == "paused":
        journal.save(items_path, _Items(items))
    return result


def _items(step: MapStep[Any, Any], frame: ExecutionFrame[Any]) -> list[Any]:
    source, items = "its input", frame.data
    if step.iterable_input is not None:
        source, items = f"the context field {step.iterable_input!r}", getattr(frame.context, step.iterable_input)
    if not is_items(items) or isinstance(items, BaseModel):  # a model gives its fields, which nobody maps over
        raise TypeError(f"step {step.name!r} maps over items, but {source} is a {type(items).__name__}; give a list")
    most = step.max_items
    listed = list(items if most is None else islice(items, most + 1))
    if most is not None and len(listed) > most:
        if isinstance(items, Iterator) and items is frame.data:
            frame.data = chain(listed, items)  # for a fallback
        raise ValueError(f"step {step.name!r} maps over at most max_items={most} items, but {source} has more")
    if items is frame.data and isinstance(items, Iterator):
        frame.data = listed  # a fallback gets the same items, which an iterator gives only once
    return listed
