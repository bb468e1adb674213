"""All branches at once: the declaration and the handler."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from flujo.application.core.branches import Branch, BranchPolicy, BranchRun, MergeFunction
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.cost_ceiling import Ceiling
from flujo.domain.models import BranchFailureStrategy, MergeStrategy, UsageLimits
from flujo.domain.pipeline import BaseStep, Pipeline, ValidationReport
from flujo.domain.results import StepResult
from flujo.exceptions import ConfigurationError
from flujo.steps.checks import check_call, check_choice, check_count, check_fields, check_names

InT = TypeVar("InT", contravariant=True)


class ParallelStep(BaseStep[InT, dict[str, Any]]):
    """Runs all branches at once on copies of the context; its output is a dict by branch name.

    Attributes:
        branches: The branches by name, in order of declaration.
        places: By branch, its part of the path.
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
        self.places = branch_places(branches)
        check_names(name, "context_include_keys", context_include_keys)
        for branch, fields in (field_mapping or {}).items():
            check_names(name, f"field_mapping[{branch!r}]", fields)
            if branch not in branches:
                raise ConfigurationError(
                    f"step {name!r}: field_mapping names the branch {branch!r}; "
                    f"the branches are {', '.join(map(repr, branches))}"
                )
        self.policy = make_policy(
            name,
            merge_strategy,
            on_branch_failure,
            max_concurrency,
            include=None if context_include_keys is None else tuple(context_include_keys),
            field_mapping={branch: tuple(fields) for branch, fields in (field_mapping or {}).items()},
        )
        self.input_type = common_input_type(self.branches.values())
        self.output_type = dict[str, Any]

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return the branches."""
        return tuple((self.places[name], branch) for name, branch in self.branches.items())

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return the sum over the branches, and the router if there is one."""
        return Ceiling.sum_of(inner, "all its branches")

    @property
    def touches_context(self) -> bool:
        """Only a merge function of the user's does; branches change copies."""
        return not isinstance(self.policy.merge, MergeStrategy)

    def check(self, report: ValidationReport, context_model: type | None) -> None:
        """Add the context fields that are named but do not exist."""
        mapped = [field for fields in (self.policy.field_mapping or {}).values() for field in fields]
        named = [*(self.policy.include or ()), *mapped, *merged_fields(self.policy)]
        check_fields(self.name, named, report, context_model)

    def branch(self, name: str, data: Any) -> Branch:
        """Return a branch that is to run on an input."""
        return Branch(name, self.places[name], self.branches[name], data)


@ExecutorCore.handles(ParallelStep)
async def _handle_parallel_step(core: ExecutorCore, step: ParallelStep[Any], frame: ExecutionFrame[Any]) -> StepResult:
    branches = [step.branch(name, frame.data) for name in step.branches]
    run = BranchRun(core, frame, branches, step.policy)
    await run.run()
    return run.conclude(outputs_by_name(run))


def outputs_by_name(run: BranchRun) -> dict[str, Any]:
    """Return the outputs in order of declaration; a branch that did not complete is there as its result."""
    ordered = [(branch.name, run.results.get(branch.name)) for branch in run.branches]
    return {name: result.output if result.success else result for name, result in ordered if result is not None}


def as_pipelines(name: str, branches: Mapping[str, BaseStep[Any, Any]]) -> dict[str, Pipeline[Any, Any]]:
    """Return branches as pipelines, so that a path is the same whether a branch is a step or a pipeline of one."""
    if not isinstance(branches, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise ConfigurationError(f"step {name!r}: branches is {branches!r}; give a dict of steps by name")
    if not branches:
        raise ConfigurationError(f"step {name!r} needs at least one branch")
    for key, branch in branches.items():
        if not isinstance(branch, BaseStep):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"step {name!r}: the branch {key!r} is {branch!r}; give a step or a pipeline")
    return {key: Pipeline.from_step(branch) for key, branch in branches.items()}


def branch_places(branches: Iterable[Any]) -> dict[Any, str]:
    """Return by branch key its part of the path; keys that read the same, such as `1` and `"1"`, are numbered."""
    places, taken = dict[Any, str](), set[str]()
    for key in branches:
        place, number = f"branch:{key}", 2
        while place in taken:
            place, number = f"branch:{key}#{number}", number + 1
        taken.add(place)
        places[key] = place
    return places


def make_policy(
    name: str,
    merge: MergeStrategy | MergeFunction,
    on_failure: BranchFailureStrategy,
    max_concurrency: int | None,
    *,
    include: Collection[str] | None = None,
    field_mapping: Mapping[str, Sequence[str]] | None = None,
) -> BranchPolicy:
    """Return how branches run and what comes back, after checking it."""
    check_count(name, "max_concurrency", max_concurrency)
    check_choice(name, "on_branch_failure", on_failure, BranchFailureStrategy)
    if not isinstance(merge, MergeStrategy):
        if not callable(merge):
            raise ConfigurationError(
                f"step {name!r}: merge_strategy is {merge!r}; give a MergeStrategy or a function (context, branches)"
            )
        check_call(name, "merge_strategy", merge, "context", "branches")
    return BranchPolicy(merge, on_failure, max_concurrency, include, field_mapping)


def merged_fields(policy: BranchPolicy) -> Sequence[str]:
    """Return the context fields that a merge cannot do without."""
    return ("scratchpad",) if policy.merge is MergeStrategy.MERGE_SCRATCHPAD else ()


def common_input_type(branches: Iterable[BaseStep[Any, Any]]) -> Any:
    """Return the input type that all branches declare, `Any` if they differ."""
    types = [branch.input_type for branch in branches]
    return types[0] if all(each == types[0] for each in types) else Any
