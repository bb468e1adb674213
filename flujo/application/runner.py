"""`Flujo`: makes the context of a run, wires everything that runs it, and runs it.

This is the only place where a context is made: for a run, and for the sub-pipelines within it.
"""

import asyncio
import reprlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from flujo.application.context_factory import inherit_context, make_context
from flujo.application.core.budget_desk import BudgetDesk
from flujo.application.core.durable_journal import DurableJournal
from flujo.application.core.execution_manager import ExecutionManager, ResumePoint
from flujo.application.core.frame import DurableRun, ExecutionFrame, OnChunk, RunControl, RunScope
from flujo.application.core.hooks import HookDispatcher
from flujo.application.core.outcome import describe_error
from flujo.application.core.resources import enter_resources
from flujo.application.core.shared_budgets import SharedBudgets
from flujo.application.core.state_manager import StateManager
from flujo.application.core.step_coordinator import StepCoordinator
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.application.core.usage_governor import THE_RUN, UsageGovernor
from flujo.application.pipeline_run import PipelineRun
from flujo.application.resuming import accepted_answer, asked_step, clear_pause, mark_pause, resume_point
from flujo.application.spending_checks import all_budgets, checked_budgets, distinct_budgets, refuse_unbounded
from flujo.application.stored_runs import OpenRun, StoredRuns
from flujo.cache.backends import ICacheBackend
from flujo.domain.budgets import Budget
from flujo.domain.cost_ceiling import CostCeiling
from flujo.domain.models import PipelineContext, StepPath, UsageLimits, new_run_id
from flujo.domain.money import ZERO
from flujo.domain.observers import Hook, PostRunPayload, PreRunPayload
from flujo.domain.paying_step import paying_step
from flujo.domain.pipeline import BaseStep, Pipeline, SubPipelineStep, alternatives, mismatch
from flujo.domain.results import PipelineResult, Waiting
from flujo.domain.type_compatibility import accepts
from flujo.exceptions import (
    AnswerRejectedError,
    ConfigurationError,
    FlujoError,
    PipelineAbortSignal,
    StateError,
    UsageLimitExceededError,
)
from flujo.state.backend import StateBackend
from flujo.state.budgets import BudgetStore
from flujo.state.ownership import Owner
from flujo.state.records import StoredStatus
from flujo.steps.checks import check_cache
from flujo.steps.sub_pipeline import RunnerSettings
from flujo.utils.clock import SYSTEM_CLOCK, Clock
from flujo.utils.copying import copy_context

InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT", covariant=True)


@dataclass(slots=True, frozen=True)
class _Beginning:
    """What a run starts from: afresh, or where another one paused."""

    data: Any
    context: BaseModel
    run_id: str
    journal: StateManager
    governor: UsageGovernor
    control: RunControl
    durable: DurableRun | None = None
    desk: BudgetDesk | None = None


class Flujo(Generic[InT, OutT]):
    """Runs a pipeline.

    Args:
        pipeline: A pipeline or a single step.
        context_model: The pydantic model of the run's context; `None` for `PipelineContext`.
        initial_context_data: Fields of the context of every run, by name.
        resources: What the agents share; an async context manager is entered once per run.
        usage_limits: What each run may use.
        budgets: What each run shares with all runs that name the same budgets in the same store.
        hooks: Async callables that are told what happens.
        state_backend: Where runs are kept, so that they go on after a crash or a pause; `None` keeps nothing.
        delete_on_completion: Whether a stored run is forgotten once it completed.
        cache_backend: Where cached steps without a cache of their own keep their results.
        pipeline_name: What the pipeline is called.
        pipeline_version: Which version of it this is.
        clock: Tells the time, for instance of a person's answer.

    Raises:
        ConfigurationError: `pipeline` is no pipeline, `context_model` is no pydantic model,
            or a hook cannot be called.

    Example:
        ```python
        from flujo import Flujo, Step

        shout = Step.from_callable(str.upper, name="shout")
        result = Flujo(shout).run("hello")
        assert result.output == "HELLO"
        ```
    """

    def __init__(
        self,
        pipeline: BaseStep[InT, OutT],
        *,
        context_model: type[BaseModel] | None = None,
        initial_context_data: Mapping[str, Any] | None = None,
        resources: Any = None,
        usage_limits: UsageLimits | None = None,
        budgets: Sequence[Budget] = (),
        hooks: Sequence[Hook] = (),
        state_backend: StateBackend | None = None,
        delete_on_completion: bool = False,
        cache_backend: ICacheBackend | None = None,
        pipeline_name: str | None = None,
        pipeline_version: str = "latest",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(pipeline, BaseStep):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"Flujo runs a pipeline or a step, not {pipeline!r}")
        if usage_limits is not None and not isinstance(usage_limits, UsageLimits):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"the runner: usage_limits is {usage_limits!r}; give UsageLimits(...)")
        self.pipeline: Pipeline[InT, OutT] = Pipeline.from_step(pipeline)
        self.context_model = _context_model(context_model)
        self.pipeline_name = pipeline_name or pipeline.name
        self.pipeline_version = pipeline_version
        self._initial_context_data = _context_data(initial_context_data)
        self._resources = resources
        self._usage_limits = usage_limits
        self._budgets = distinct_budgets(budgets)
        if not isinstance(hooks, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"the runner: hooks is {hooks!r}; give a list of async callables")
        self._hooks = tuple(hooks)
        self._dispatcher = HookDispatcher(hooks) if hooks else None
        check_cache("the runner", cache_backend)
        self._cache_backend = cache_backend
        self._clock = clock
        self._state_backend = state_backend
        self._delete_on_completion = delete_on_completion
        self._origin: Mapping[str, Any] | None = None
        self._is_store_optional = False
        self._manager_parts = StepCoordinator(ExecutorCore(), self.pipeline)
        self._runs: StoredRuns | None = None
        self._is_checked = False
        self._has_step_limits = False
        self._all_budgets: tuple[Budget, ...] = ()

    @property
    def state_backend(self) -> StateBackend | None:
        """Where runs are kept; `None` if they are not."""
        return self._state_backend

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """What its runs share with others: its own budgets, and those of the runners that are steps of it."""
        return all_budgets(self.pipeline, self._budgets)

    def new_identity(self) -> str:
        """Return the identity of a run that is given none: the one in its context data, or a fresh one."""
        return _run_id_among(self._initial_context_data) or new_run_id()

    def run(
        self,
        data: InT,
        *,
        run_id: str | None = None,
        initial_context_data: Mapping[str, Any] | None = None,
        allow_changes: bool = False,
    ) -> PipelineResult[OutT]:
        """Run the pipeline and return its result; from plain code, not from within an event loop.

        With a state backend, a run of this identity that is stored goes on, with the input and the context that it
        began with; one that completed gives its stored result, and one that waits gives its pause again.

        Args:
            data: The input of the first step.
            run_id: The identity of the run; a fresh one by default.
            initial_context_data: Fields of this run's context, over those of the runner.
            allow_changes: Whether finished steps of a stored run may differ from those of this pipeline.

        Raises:
            TypeError: An event loop is running; await `run_async` there.
            UsageLimitExceededError: A limit was passed; `result` is the run so far.
            ConfigurationError: The workflow is wrong; nothing was run.
            PipelineContextInitializationError: The context lacks required fields; nothing was run.
            StateError: The run cannot be stored, somebody else runs it, or it is of another pipeline.
        """
        _refuse_running_loop("run", "run_async")
        return asyncio.run(self._start(data, run_id, initial_context_data, None, allow_changes=allow_changes))

    def run_async(
        self,
        data: InT,
        *,
        run_id: str | None = None,
        initial_context_data: Mapping[str, Any] | None = None,
        allow_changes: bool = False,
    ) -> PipelineRun[OutT]:
        """Return the run, to be awaited for its result or iterated over for chunks and then its result.

        Takes and raises what `run` does.
        """
        return PipelineRun(
            lambda on_chunk: self._start(data, run_id, initial_context_data, on_chunk, allow_changes=allow_changes)
        )

    def stream_async(
        self,
        data: InT,
        *,
        run_id: str | None = None,
        initial_context_data: Mapping[str, Any] | None = None,
        allow_changes: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """Run, and give the chunks of a streaming last step and then the result; takes and raises what `run` does."""
        run = self.run_async(
            data, run_id=run_id, initial_context_data=initial_context_data, allow_changes=allow_changes
        )
        return aiter(run)

    def resume(
        self,
        paused_result_or_run_id: PipelineResult[Any] | str,
        human_input: Any,
        *,
        path: Sequence[str] | None = None,
        allow_changes: bool = False,
    ) -> PipelineResult[OutT]:
        """Answer a waiting step and go on; from plain code. Takes and raises what `resume_async` does."""
        _refuse_running_loop("resume", "resume_async")
        return asyncio.run(
            self.resume_async(paused_result_or_run_id, human_input, path=path, allow_changes=allow_changes)
        )

    async def resume_async(
        self,
        paused_result_or_run_id: PipelineResult[Any] | str,
        human_input: Any,
        *,
        path: Sequence[str] | None = None,
        allow_changes: bool = False,
    ) -> PipelineResult[OutT]:
        """Answer a waiting step and go on.

        A stored run takes each answer once. Without a state backend the result itself is where the run stands:
        it stays as it is, and may be resumed again.

        Args:
            paused_result_or_run_id: A result with `status == "paused"`, or the identity of a stored run.
            human_input: The answer; validated against the step's `input_schema` before anything is stored.
            path: The path of the step that is answered; not needed if only one waits.
            allow_changes: Whether finished steps of a stored run may differ from those of this pipeline.

        Raises:
            StateError: The run does not wait, several steps wait and `path` does not say which is answered,
                it is a run of another pipeline, or somebody else runs it.
            AnswerRejectedError: The answer does not fit, came twice, or nobody waits at `path`. Nothing was run.
        """
        self.check()
        paused = paused_result_or_run_id
        if self._state_backend is not None or isinstance(paused, str):
            run_id = paused if isinstance(paused, str) else paused.run_id
            if path is None and not isinstance(paused, str) and len(paused.waiting) == 1:
                path = paused.waiting[0].path  # the question that this result shows, and no later one
            return await self._continue(run_id, [(path, human_input)], None, allow_changes=allow_changes)
        point = resume_point(paused, self.pipeline)
        asked = asked_step(point.waiting, path)
        answer = accepted_answer(asked, human_input)
        return await self._run_unstored(self._resumed(point, paused.run_id, asked.path, answer), None)

    def continue_async(
        self,
        run_id: str,
        *,
        answers: Mapping[StepPath, Any] | None = None,
        allow_changes: bool = False,
    ) -> PipelineRun[OutT]:
        """Return a stored run that goes on, to be awaited or iterated over as what `run_async` returns.

        Unlike `run_async` it needs no input, and unlike `resume_async` no answer: the run goes on at what did not
        finish, and one that completed gives its stored result.

        Args:
            run_id: The identity of the run.
            answers: What people answered to steps that wait, by the paths of the steps.
            allow_changes: Whether finished steps may differ from those of this pipeline.

        Raises:
            StateError: There is no such run here, somebody else runs it, or an answer is not accepted.
        """
        given = list((answers or {}).items())
        return PipelineRun(lambda on_chunk: self._continue(run_id, given, on_chunk, allow_changes=allow_changes))

    async def waiting_in(self, run_id: str, *, allow_changes: bool = False) -> list[Waiting]:
        """Return the steps of a stored run that wait for a person; takes and raises what `continue_async` does."""
        self.check()
        return await self._stored_runs(self._store_of(run_id)).waiting_in(run_id, allow_changes=allow_changes)

    def as_step(self, name: str, *, inherit_context: bool = True) -> BaseStep[InT, PipelineResult[OutT]]:
        """Return this runner as one step, with its own context model, limits, resources and hooks.

        Args:
            name: The step's name.
            inherit_context: Whether context fields flow in and back. `False` is a wall in both directions.
        """
        return SubPipelineStep(
            name,
            self.pipeline,
            inherit_context=inherit_context,
            usage_limits=self._usage_limits,
            context_model=self.context_model,
            settings=RunnerSettings(
                self._new_context,
                frozenset(self._initial_context_data),
                self._resources,
                self._hooks,
                self._cache_backend,
                self._budgets,
                self._state_backend,
            ),
        )

    def with_settings(
        self,
        *,
        context_model: type[BaseModel] | None = None,
        initial_context_data: Mapping[str, Any] | None = None,
        usage_limits: UsageLimits | None = None,
        hooks: Sequence[Hook] = (),
        state_backend: StateBackend | None = None,
        is_store_optional: bool = False,
        origin: Mapping[str, Any] | None = None,
    ) -> "Flujo[InT, OutT]":
        """Return a runner of the same pipeline with some settings replaced.

        Args:
            context_model: Replaces the context model, if given.
            initial_context_data: Fields over those of this runner.
            usage_limits: Each limit that is set in it replaces that one of this runner; the others stay.
            hooks: Told what happens after the hooks of this runner.
            state_backend: Replaces the store, if given.
            is_store_optional: Whether a run goes on without its store, with a warning, where a value cannot be stored.
            origin: Where runs come from, such as a file, as JSON; stored with each run that begins.
        """
        made = Flujo(
            self.pipeline,
            context_model=context_model or self.context_model,
            initial_context_data={**self._initial_context_data, **_context_data(initial_context_data)},
            resources=self._resources,
            usage_limits=_over(self._usage_limits, usage_limits),
            budgets=self._budgets,
            hooks=(*self._hooks, *hooks),
            state_backend=state_backend or self._state_backend,
            delete_on_completion=self._delete_on_completion,
            cache_backend=self._cache_backend,
            pipeline_name=self.pipeline_name,
            pipeline_version=self.pipeline_version,
            clock=self._clock,
        )
        made._origin = self._origin if origin is None else origin
        made._is_store_optional = is_store_optional or self._is_store_optional
        return made

    def cost_ceiling(self) -> CostCeiling:
        """Return what a run can cost at the most under the limits of this runner; see `BaseStep.cost_ceiling`."""
        return self.pipeline.cost_ceiling(usage_limits=self._usage_limits)

    def check(self) -> None:
        """Check the pipeline against the context model, once; a run does it before its first step.

        Raises:
            ConfigurationError: The first thing that is wrong.
        """
        if not self._is_checked:
            report = self.pipeline.validate_graph(self.context_model)
            report.raise_first()
            for wall in _plain_walls(self.pipeline):
                wall.check_context(report, self.context_model, None, given=())
            report.raise_first()
            refuse_unbounded(self.pipeline, self._usage_limits)
            self._all_budgets = checked_budgets(self.pipeline, self._budgets, self._state_backend)
            self._has_step_limits = any(step.usage_limits is not None for step in self.pipeline.walk())
            self._is_checked = True

    async def _start(
        self,
        data: Any,
        run_id: str | None,
        initial_context_data: Mapping[str, Any] | None,
        on_chunk: OnChunk | None,
        *,
        allow_changes: bool,
    ) -> PipelineResult[OutT]:
        """Check everything that can be checked, make the context, and run."""
        self.check()
        if run_id == "":
            raise ConfigurationError("run_id is ''; give a run an identity that is not empty, or none")
        first = self.pipeline.steps[0]
        for each in alternatives(first) if first.input_key is None else ():
            if each.input_key is None and not accepts(each.input_type, data):
                raise mismatch("the run's input", type(data), each.describe(), each.input_type, verb="is")
        given = {**self._initial_context_data, **_context_data(initial_context_data)}
        run_id = run_id or _run_id_among(given) or new_run_id()
        context = make_context(self.context_model, data, run_id, given)
        if self._state_backend is None or not self._stored_runs(self._state_backend).takes(data, context):
            return await self._run_unstored(self._fresh(data, run_id, context), on_chunk)
        async with self._stored_runs(self._state_backend).begun(
            run_id, data, context, allow_changes=allow_changes
        ) as run:
            return run if isinstance(run, PipelineResult) else await self._run_stored(run, on_chunk)

    def _fresh(self, data: Any, run_id: str, context: BaseModel) -> _Beginning:
        control = self._control()
        governor = self._governor(control)
        return _Beginning(data, context, run_id, StateManager(), governor, control)

    def _resumed(self, point: ResumePoint, run_id: str, path: StepPath, answer: Any) -> _Beginning:
        """Return where a paused run goes on; one that has spent more than it may does not start anything."""
        context = copy_context(point.context)
        clear_pause(context)
        control = self._control()
        governor = self._governor(control, point.cost, point.tokens)
        if (breach := governor.breach()) is not None:
            control.stop(breach)
        journal = StateManager(found=dict(point.checkpoints), answers={path: answer})
        return _Beginning(point.data, context, run_id, journal, governor, control)

    async def _continue(
        self,
        run_id: str,
        answers: Sequence[tuple[Sequence[str] | None, Any]],
        on_chunk: OnChunk | None,
        *,
        allow_changes: bool,
    ) -> PipelineResult[OutT]:
        """Store the answers to waiting steps of a stored run, and go on."""
        self.check()
        runs = self._stored_runs(self._store_of(run_id))
        async with runs.found(run_id, allow_changes=allow_changes) as run:
            if isinstance(run, PipelineResult):
                if answers:
                    raise AnswerRejectedError(f"run {run_id!r} does not wait for an answer: it is completed")
                return run
            for path, answer in answers:
                await runs.answer(run, answer, path)
            return await self._run_stored(run, on_chunk)

    def _store_of(self, run_id: str) -> StateBackend:
        if self._state_backend is None:
            raise StateError(f"there is no store to find run {run_id!r} in; give the runner a state_backend")
        return self._state_backend

    async def _run_unstored(self, begin: _Beginning, on_chunk: OnChunk | None) -> PipelineResult[OutT]:
        """Run what is kept nowhere, with its budgets if there are any."""
        if not self._all_budgets:
            return await self._run(begin, on_chunk)
        owner = Owner()
        owner.enter()
        try:
            async with self._desk(begin, owner) as desk:
                return await self._run(replace(begin, desk=desk), on_chunk)
        finally:
            owner.leave()

    @asynccontextmanager
    async def _desk(
        self, begin: _Beginning, owner: Owner, journal: DurableJournal | None = None
    ) -> AsyncGenerator[BudgetDesk]:
        """Give what a run has to do with budgets; all its calls are settled when the block ends."""
        store = self._state_backend
        assert isinstance(store, BudgetStore), "a runner with budgets has such a store"
        settle = None if journal is None or store.durability == "exit" else journal.settle
        around = paying_step()
        covered = (budget.name for budget in self._all_budgets if around and around.covers(store.location, budget.name))
        desk = BudgetDesk(
            store,
            begin.run_id,
            owner,
            on_breach=begin.control.stop,
            covered=frozenset(covered),
            settle_with_run=settle,
        )
        if journal is not None:
            journal.budgets = desk
        await desk.open(self._all_budgets, goes_on=journal is not None)
        try:
            yield desk
        finally:
            await desk.close()

    async def _run_stored(self, run: OpenRun, on_chunk: OnChunk | None) -> PipelineResult[OutT]:
        """Run from where a stored run stands, and store how it ends."""
        journal, control = run.journal, self._control()
        governor = self._governor(control)
        journal.governor = governor
        governor.recall(*journal.spent_within())
        begin = _Beginning(run.data, run.context, journal.run_id, journal, governor, control, journal)
        if not self._all_budgets:
            return await self._run_kept(begin, journal, on_chunk)
        async with self._desk(begin, journal.owner, journal) as desk:
            return await self._run_kept(replace(begin, desk=desk), journal, on_chunk)

    async def _run_kept(
        self, begin: _Beginning, journal: DurableJournal, on_chunk: OnChunk | None
    ) -> PipelineResult[OutT]:
        """Run, and store how that ends."""
        try:
            result = await self._run(begin, on_chunk)
        except UsageLimitExceededError as exceeded:
            await _finish(journal, "stopped", exceeded.result)
            raise
        except asyncio.CancelledError:
            with suppress(StateError):  # a step was being stored, and perhaps was not; the run goes on from before it
                await journal.finish("cancelled")
            raise
        except StateError:
            raise  # what could not be stored stays as it was
        except FlujoError as error:
            await _finish(journal, "failed", error.result)
            raise
        await _finish(journal, result.status, result)
        if self._delete_on_completion and result.success and self._state_backend is not None:
            await self._state_backend.delete(journal.run_id)
        return result

    def _stored_runs(self, backend: StateBackend) -> StoredRuns:
        if self._runs is None:
            self._runs = StoredRuns(
                backend,
                self.pipeline,
                self.context_model,
                name=self.pipeline_name,
                version=self.pipeline_version,
                clock=self._clock,
                origin=self._origin,
                is_optional=self._is_store_optional,
            )
        return self._runs

    def _control(self) -> RunControl:
        is_limited = self._usage_limits is not None or self._has_step_limits or bool(self._all_budgets)
        return RunControl(is_limited=is_limited)

    def _governor(self, control: RunControl, cost: Decimal = ZERO, tokens: int = 0) -> UsageGovernor:
        """Return what counts the usage of a run that has spent so much."""
        return UsageGovernor(
            self._usage_limits,
            label=THE_RUN,
            on_breach=control.stop,
            cost=cost,
            tokens=tokens,
            admissions=control.admissions,
        )

    async def _run(self, begin: _Beginning, on_chunk: OnChunk | None) -> PipelineResult[OutT]:
        """Run from a beginning, with the resources around it."""
        frame = self._top_frame(begin, on_chunk)
        manager = ExecutionManager(self._manager_parts, begin.governor)
        try:
            async with AsyncExitStack() as stack:
                if self._resources is not None:
                    frame.scope = replace(frame.scope, resources=await self._entered_resources(stack))
                    frame.scope.brought.add(self._resources, frame.scope.resources)
                await stack.enter_async_context(frame.scope.brought)
                return await self._run_observed(manager, frame)
        except asyncio.CancelledError as cancelled:
            cancelled.add_note(manager.describe_position(frame))
            raise

    async def _entered_resources(self, stack: AsyncExitStack) -> Any:
        try:
            return await enter_resources(stack, self._resources)
        except Exception as error:  # it is code of the user's; nothing has been spent
            raise ConfigurationError(
                f"the resources {type(self._resources).__name__} could not be entered: {describe_error(error)}"
            ) from error

    def _top_frame(self, begin: _Beginning, on_chunk: OnChunk | None) -> ExecutionFrame[BaseModel]:
        budgets = None if begin.desk is None else SharedBudgets(begin.desk, ()).within(self._budgets)
        scope = RunScope(
            run_id=begin.run_id,
            home=begin.context,
            control=begin.control,
            journal=begin.journal,
            new_context=self._new_context_in_run,
            clock=self._clock,
            hooks=self._dispatcher,
            cache=self._cache_backend,
            durable=begin.durable,
            desk=begin.desk,
            budgets=budgets if budgets is not None and budgets.names else None,
            payer=paying_step(),
        )
        return ExecutionFrame(self.pipeline, begin.data, begin.context, scope, begin.governor, on_chunk=on_chunk)

    async def _run_observed(self, manager: ExecutionManager, frame: ExecutionFrame[BaseModel]) -> PipelineResult[OutT]:
        """Run the steps, and tell the hooks before and after, whichever way the run ends."""
        try:
            await self._tell_start(frame)
            result = await manager.execute_steps(frame)
        except UsageLimitExceededError as exceeded:
            await self._tell_end(frame, exceeded.result)
            raise
        except asyncio.CancelledError:
            await self._tell_end(frame, manager.unfinished(frame, "cancelled"))
            raise
        except FlujoError as error:
            error.result = manager.failed(frame, error)
            await self._tell_end(frame, error.result or manager.unfinished(frame, "failed"))
            raise
        if result.status == "paused":
            mark_pause(frame.context, result.waiting)
        await self._tell_end(frame, result)
        return result

    async def _tell_start(self, frame: ExecutionFrame[Any]) -> None:
        if self._dispatcher is not None:
            payload = PreRunPayload(
                initial_input=frame.data,
                usage=lambda: (frame.usage.level(),),
                context=frame.context,
                resources=frame.scope.resources,
            )
            try:
                await self._dispatcher.fire(payload)
            except PipelineAbortSignal as signal:
                frame.scope.control.abort(f"a hook aborted the run before its first step: {signal}")

    async def _tell_end(self, frame: ExecutionFrame[Any], result: PipelineResult[Any]) -> None:
        if self._dispatcher is not None:
            payload = PostRunPayload(pipeline_result=result, context=frame.context, resources=frame.scope.resources)
            with suppress(PipelineAbortSignal):  # the run is over
                await self._dispatcher.fire(payload)

    def _new_context_in_run(self, data: Any, inherited: BaseModel | None) -> BaseModel:
        """Make the context of a sub-pipeline that is a plain pipeline: one of this runner's model."""
        return inherit_context(self.context_model, data, inherited, {})

    def _new_context(self, data: Any, inherited: BaseModel | None) -> BaseModel:
        """Make the context of this runner where it is a step of another one."""
        return inherit_context(self.context_model, data, inherited, self._initial_context_data)


async def _finish(journal: DurableJournal, status: StoredStatus, result: PipelineResult[Any] | None) -> None:
    """Store how a run ended; if that fails, the error has what the run came to."""
    try:
        await journal.finish(status, [asked.path for asked in result.waiting] if result else ())
    except FlujoError as error:
        error.result = result
        raise


def _plain_walls(step: BaseStep[Any, Any]) -> Iterator[SubPipelineStep[Any, Any]]:
    """Yield the plain pipelines as steps whose context is made of nothing but this runner's model."""
    within = [child for _, child in step.children()]
    if step.fallback_step is not None:
        within.append(step.fallback_step)
    if isinstance(step, SubPipelineStep):
        if step.settings is not None:
            return
        if not step.inherit_context:
            yield step
    for inner in within:
        yield from _plain_walls(inner)


def _over(limits: UsageLimits | None, later: UsageLimits | None) -> UsageLimits | None:
    """Return limits with those that are set in others in their place."""
    if limits is None or later is None:
        return later or limits
    return limits.model_copy(update={name: getattr(later, name) for name in later.model_fields_set})


def _refuse_running_loop(method: str, instead: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # there is none, as it should be
        return
    raise TypeError(f"Flujo.{method}() cannot be called inside a running event loop; use `await flujo.{instead}(...)`")


def _context_model(model: type[BaseModel] | None) -> type[BaseModel]:
    if model is None:
        return PipelineContext
    if not isinstance(model, type) or not issubclass(model, BaseModel):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise ConfigurationError(
            f"context_model is {model!r}; give the class of a pydantic model, such as a subclass of PipelineContext"
        )
    return model


def _context_data(given: Mapping[str, Any] | None) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise ConfigurationError(
            f"initial_context_data is {reprlib.repr(given)}; give a dict of context fields by name"
        )
    return dict(given or {})


def _run_id_among(given: Mapping[str, Any]) -> str | None:
    """Return the run's identity if the fields of its context name one, so that the run has only one."""
    run_id = given.get("run_id")
    return run_id if isinstance(run_id, str) else None
