"""All branches at once: the declaration and the handler."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from flujo.application.core.branches import Branch, BranchPolicy, BranchRun, MergeFunction
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.models import BranchFailureStrategy, MergeStrategy, UsageLimits
from flujo.domain.pipeline import BaseStep, Pipeline, ValidationReport
from flujo.domain.results import StepResult
from flujo.exceptions import ConfigurationError
from flujo.steps.checks import check_call, check_count, check_fields

InT = TypeVar("InT", contravariant=True)


class ParallelStep(BaseStep[InT, dict[str, Any]]):
    """Runs all branches at once on copies of the context; its output is a dict by branch name.

    Attributes:
        branches: The branches by name, in order of declaration.
        policy: How they run and what comes back.
    """

    def __init__(
        self,
        name: str,
        branches: Mapping[str, BaseStep[InT, Any]],
        *,
        context_include_keys: Collection[str] | None = None,
        merge_strategy: MergeStrategy | MergeFunction = MergeStrategy.NO_MERGE,
        on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE,
        field_mapping: Mapping[str, Sequence[str]] | None = None,
        max_concurrency: int | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> None:
        super().__init__(name, usage_limits=usage_limits)
        self.branches = as_pipelines(name, branches)
        check_count(name, "max_concurrency", max_concurrency)
        check_call(name, "merge_strategy", merge_strategy, "context", "branches")
        for branch in field_mapping or {}:
            if branch not in branches:
                raise ConfigurationError(
                    f"step {name!r}: field_mapping names the branch {branch!r}; "
                    f"the branches are {', '.join(map(repr, branches))}"
                )
        self.policy = BranchPolicy(
            merge=merge_strategy,
            on_failure=on_branch_failure,
            max_concurrency=max_concurrency,
            include=context_include_keys,
            field_mapping=field_mapping,
        )
        self.input_type = common_input_type(self.branches.values())
        self.output_type = dict[str, Any]

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return the branches."""
        return tuple((f"branch:{name}", branch) for name, branch in self.branches.items())

    def check(self, report: ValidationReport, context_model: type | None) -> None:
        """Add the context fields that are named but do not exist."""
        mapped = [field for fields in (self.policy.field_mapping or {}).values() for field in fields]
        check_fields(self.name, [*(self.policy.include or ()), *mapped], report, context_model)


@ExecutorCore.handles(ParallelStep)
async def _handle_parallel_step(core: ExecutorCore, step: ParallelStep[Any], frame: ExecutionFrame[Any]) -> StepResult:
    branches = [Branch(name, f"branch:{name}", pipeline, frame.data) for name, pipeline in step.branches.items()]
    run = BranchRun(core, frame, branches, step.policy)
    await run.run()
    return run.conclude(outputs_by_name(run))


def outputs_by_name(run: BranchRun) -> dict[str, Any]:
    """Return the outputs in order of declaration; a branch that did not complete is there as its result."""
    ordered = [(branch.name, run.results.get(branch.name)) for branch in run.branches]
    return {name: result.output if result.success else result for name, result in ordered if result is not None}


def as_pipelines(name: str, branches: Mapping[str, BaseStep[Any, Any]]) -> dict[str, Pipeline[Any, Any]]:
    """Return branches as pipelines, so that a path is the same whether a branch is a step or a pipeline of one."""
    if not branches:
        raise ConfigurationError(f"step {name!r} needs at least one branch")
    for key, branch in branches.items():
        if not isinstance(branch, BaseStep):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"step {name!r}: the branch {key!r} is {branch!r}; give a step or a pipeline")
    return {key: Pipeline.from_step(branch) for key, branch in branches.items()}


def common_input_type(branches: Iterable[BaseStep[Any, Any]]) -> Any:
    """Return the input type that all branches declare, `Any` if they differ."""
    types = [branch.input_type for branch in branches]
    return types[0] if all(each == types[0] for each in types) else Any
