"""A pipeline as one step: the handler of what `as_step` returns."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from flujo.application.core.context import OWNED_BY_THE_RUN, changed_fields, update_context
from flujo.application.core.frame import ContextFactory, DurableRun, ExecutionFrame, RunScope
from flujo.application.core.hooks import HookDispatcher
from flujo.application.core.outcome import blame, conclude, pipeline_result
from flujo.application.core.pausing import remember
from flujo.application.core.sequence import run_in_order
from flujo.application.core.shared_budgets import SharedBudgets
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.cache.backends import ICacheBackend
from flujo.domain.budgets import Budget
from flujo.domain.observers import Hook
from flujo.domain.pipeline import SubPipelineStep
from flujo.domain.results import StepResult
from flujo.state.backend import StateBackend
from flujo.utils.copying import copy_context, copy_value


@dataclass(slots=True, frozen=True)
class RunnerSettings:
    """What a runner brings along when it is made a step.

    Attributes:
        new_context: Makes contexts of the runner's own model.
        given: The fields of them that the runner gives.
        resources: What the inner agents share, entered once in the outer run; `None` for those of the outer run.
        hooks: Whom to tell of the inner steps, besides the hooks of the outer run.
        cache: Where cached steps keep their results; `None` for the cache of the outer run.
        budgets: What the calls of the inner steps share with other runs, besides the budgets of the outer run.
        store: Where the runner would keep its own runs and budgets; `None` if it does not say.
    """

    new_context: ContextFactory
    given: Collection[str]
    resources: Any
    hooks: Sequence[Hook]
    cache: ICacheBackend | None
    budgets: Sequence[Budget] = ()
    store: StateBackend | None = None


@dataclass(slots=True, frozen=True)
class SubPipelineCheckpoint:
    """Where a sub-pipeline stood: its own context; its steps keep their own checkpoints."""

    context: BaseModel


@ExecutorCore.handles(SubPipelineStep)
async def _handle_sub_pipeline_step(
    core: ExecutorCore, step: SubPipelineStep[Any, Any], frame: ExecutionFrame[Any]
) -> StepResult:
    left = frame.checkpoint(SubPipelineCheckpoint)
    context = copy_context(left.context) if left else _new_context(step, frame)
    if frame.scope.durable is not None:
        await _keep_context(step, frame, context, frame.scope.durable, is_new=left is None)
    before = copy_context(context) if step.inherit_context else None
    inner = frame.child(step.pipeline, frame.data, at="pipeline", context=context)
    inner.scope = await _inner_scope(step, frame.scope, context)
    if not step.inherit_context:
        inner.earlier = None
    try:
        ran = await _run_pipeline(core, inner)
    finally:  # what ran is kept, also if it ends the run
        history = frame.history = inner.history or []
    scope = frame.scope
    waiting = scope.control.waiting_below(frame.path) if ran.status == "paused" else ()
    output = pipeline_result(scope.run_id, ran.status, ran.output, history, context, waiting)
    if ran.status == "paused":
        frame.save(SubPipelineCheckpoint(context))
    if before is not None:
        _flow_back(frame.context, before, context)
    feedback = ran.feedback if ran.status in ("completed", "paused") or not history else blame(history[-1])
    return conclude(frame, output, status=ran.status, feedback=feedback)


async def _run_pipeline(core: ExecutorCore, inner: ExecutionFrame[Any]) -> StepResult:
    """Run the steps, and leave their results in the frame's history."""
    pipeline = inner.step
    if pipeline.is_guarded:
        ran = await core.execute(inner)
        inner.history = [ran]
        return ran
    return await run_in_order(core, pipeline.steps, inner)  # type: ignore[attr-defined]  # the step is a Pipeline


async def _keep_context(
    step: SubPipelineStep[Any, Any],
    frame: ExecutionFrame[Any],
    context: BaseModel,
    durable: DurableRun,
    *,
    is_new: bool,
) -> None:
    """Keep the context that a sub-pipeline begins with, unless it is a copy of the outer one; add what people said."""
    if is_new and not (step.inherit_context and type(context) is type(frame.context)):
        await durable.note(frame.path, SubPipelineCheckpoint(context))
    if not step.inherit_context:
        remember(durable.interactions(frame.path), context)


def _new_context(step: SubPipelineStep[Any, Any], frame: ExecutionFrame[Any]) -> BaseModel:
    new_context = step.settings.new_context if step.settings else frame.scope.new_context
    return new_context(frame.data, frame.context if step.inherit_context else None)


async def _inner_scope(step: SubPipelineStep[Any, Any], scope: RunScope, context: BaseModel) -> RunScope:
    """Return the scope of the inner steps: the outer one, with what the step brings along."""
    settings: RunnerSettings | None = step.settings
    if settings is not None:
        outer_hooks = scope.hooks.hooks if scope.hooks else ()
        hooks = (*outer_hooks, *settings.hooks)
        scope = replace(
            scope,
            new_context=settings.new_context,
            resources=await scope.brought.enter(settings.resources)
            if settings.resources is not None
            else scope.resources,
            hooks=HookDispatcher(hooks) if hooks else None,
            cache=scope.cache if settings.cache is None else settings.cache,
            budgets=_shared_by(scope, settings.budgets),
        )
    return scope if step.inherit_context else replace(scope, home=context)


def _shared_by(scope: RunScope, budgets: Sequence[Budget]) -> SharedBudgets | None:
    """Return the budgets of the inner steps: those of the outer run, and more."""
    if not budgets:
        return scope.budgets
    assert scope.desk is not None, "a run has a desk if any step of it has budgets"
    shared = (scope.budgets or SharedBudgets(scope.desk, ())).within(budgets)
    return shared if shared.names else None


def _flow_back(outer: BaseModel, before: BaseModel, inner: BaseModel) -> None:
    """Write what the inner steps changed to the fields that the outer context has too."""
    changes = {
        name: copy_value(value)
        for name, value in changed_fields(before, inner).items()
        if name in type(outer).model_fields and name not in OWNED_BY_THE_RUN
    }
    if changes:
        update_context(outer, changes)
