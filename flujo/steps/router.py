"""Branches that an agent picks: the declaration and the handler."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flujo.application.core.branches import BranchRun, MergeFunction
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.outcome import conclude, end_with, halted
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.models import BranchFailureStrategy, MergeStrategy, UsageLimits
from flujo.domain.pipeline import BaseStep
from flujo.domain.results import StepResult
from flujo.domain.step import AgentStep
from flujo.steps.parallel import ParallelStep, outputs_by_name
from flujo.utils.narrowing import is_sequence, is_set

InT = TypeVar("InT", contravariant=True)


class RouterStep(ParallelStep[InT]):
    """Asks an agent which branches to run, and runs them as a parallel step does.

    Attributes:
        router: The step that names the branches: one name or a list of them.
    """

    def __init__(
        self,
        name: str,
        router_agent: Any,
        branches: Mapping[str, BaseStep[InT, Any]],
        *,
        context_include_keys: Collection[str] | None = None,
        merge_strategy: MergeStrategy | MergeFunction = MergeStrategy.NO_MERGE,
        on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE,
        field_mapping: Mapping[str, Sequence[str]] | None = None,
        max_concurrency: int | None = None,
        usage_limits: UsageLimits | None = None,
    ) -> None:
        super().__init__(
            name,
            branches,
            context_include_keys=context_include_keys,
            merge_strategy=merge_strategy,
            on_branch_failure=on_branch_failure,
            field_mapping=field_mapping,
            max_concurrency=max_concurrency,
            usage_limits=usage_limits,
        )
        self.router: AgentStep[Any, Any] = AgentStep(f"{name} router", router_agent)

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return the router and the branches."""
        return (("router", self.router), *super().children())


@dataclass(slots=True, frozen=True)
class _Routed:
    """Where a router step stood once its agent had answered: that answer, which is not asked for again."""

    result: StepResult


@ExecutorCore.handles(RouterStep)
async def _handle_router_step(core: ExecutorCore, step: RouterStep[Any], frame: ExecutionFrame[Any]) -> StepResult:
    journal, routed_path = frame.scope.journal, (*frame.path, "routed")
    routed = journal.take(routed_path, _Routed)
    choice = routed.result if routed else await core.execute(frame.child(step.router, frame.data, at="router"))
    frame.history = [choice]
    if not choice.success:
        return end_with(frame, choice)
    names, unknown = _names(step, choice.output)
    if unknown:
        known = ", ".join(map(repr, step.branches))
        return conclude(
            frame,
            status="failed",
            feedback=f"the router named {', '.join(map(repr, unknown))}; the branches are {known}",
        )
    if names and frame.scope.control.halt is not None and not frame.was_at_work():
        return halted(frame)
    branches = [step.branch(name, frame.data) for name in names]
    run = BranchRun(core, frame, branches, step.policy)
    await run.run()
    result = run.conclude(outputs_by_name(run), before=[choice])
    result.metadata_["executed_branches"] = names
    if result.status == "paused":
        journal.save(routed_path, _Routed(choice))
    return result


def _names(step: RouterStep[Any], answer: Any) -> tuple[list[str], list[Any]]:
    """Return the branches an answer names, in order of declaration, and what it names besides."""
    named = answer if is_sequence(answer) or is_set(answer) else [answer]
    return [name for name in step.branches if name in named], [name for name in named if name not in step.branches]
