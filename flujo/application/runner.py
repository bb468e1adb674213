"""`Flujo`: makes the context of a run, wires everything that runs it, and runs it.

This is the only place where a context is made: for a run, and for the sub-pipelines within it.
"""

import asyncio
import reprlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from flujo.application.core.context import copy_context, copy_value
from flujo.application.core.execution_manager import ExecutionManager, ResumePoint
from flujo.application.core.frame import ExecutionFrame, OnChunk, RunControl, RunScope
from flujo.application.core.hooks import HookDispatcher
from flujo.application.core.resources import enter_resources
from flujo.application.core.state_manager import StateManager
from flujo.application.core.step_coordinator import StepCoordinator
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.application.core.usage_governor import UsageGovernor
from flujo.application.pipeline_run import PipelineRun
from flujo.cache.backends import ICacheBackend
from flujo.domain.models import PipelineContext, StepPath, UsageLimits, new_run_id
from flujo.domain.observers import Hook, PostRunPayload, PreRunPayload
from flujo.domain.pipeline import BaseStep, Pipeline, SubPipelineStep, mismatch
from flujo.domain.results import PipelineResult, Waiting
from flujo.domain.type_compatibility import accepts
from flujo.exceptions import (
    AnswerRejectedError,
    ConfigurationError,
    ContextInheritanceError,
    PipelineAbortSignal,
    PipelineContextInitializationError,
    StateError,
    UsageLimitExceededError,
)
from flujo.steps.sub_pipeline import RunnerSettings
from flujo.utils.clock import SYSTEM_CLOCK, Clock
from flujo.utils.narrowing import is_dict

InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT", covariant=True)

PROMPT_CHARACTERS = 2000
"""The most characters of `initial_prompt` that are made of an input that is no string."""


@dataclass(slots=True, frozen=True)
class _Beginning:
    """What a run starts from: afresh, or where another one paused."""

    data: Any
    context: BaseModel
    run_id: str
    journal: StateManager
    governor: UsageGovernor
    control: RunControl


class Flujo(Generic[InT, OutT]):
    """Runs a pipeline.

    Args:
        pipeline: A pipeline or a single step.
        context_model: The pydantic model of the run's context.
        initial_context_data: Fields of the context of every run.
        resources: What the agents share; an async context manager is entered once per run.
        usage_limits: What each run may use.
        hooks: Async callables that are told what happens.
        cache_backend: Where cached steps without a cache of their own keep their results.
        pipeline_name: What the pipeline is called.
        pipeline_version: Which version of it this is.
        clock: Tells the time, for instance of a person's answer.

    Raises:
        ConfigurationError: A hook cannot be called, or `pipeline` is no pipeline.

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
        context_model: type[BaseModel] = PipelineContext,
        initial_context_data: Mapping[str, Any] | None = None,
        resources: Any = None,
        usage_limits: UsageLimits | None = None,
        hooks: Sequence[Hook] = (),
        cache_backend: ICacheBackend | None = None,
        pipeline_name: str | None = None,
        pipeline_version: str = "latest",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not isinstance(pipeline, BaseStep):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise ConfigurationError(f"Flujo runs a pipeline or a step, not {pipeline!r}")
        self.pipeline: Pipeline[InT, OutT] = Pipeline.from_step(pipeline)
        self.context_model = context_model
        self.pipeline_name = pipeline_name or pipeline.name
        self.pipeline_version = pipeline_version
        self._initial_context_data = dict(initial_context_data or {})
        self._resources = resources
        self._usage_limits = usage_limits
        self._hooks = tuple(hooks)
        self._dispatcher = HookDispatcher(hooks) if hooks else None
        self._cache_backend = cache_backend
        self._clock = clock
        self._manager_parts = StepCoordinator(ExecutorCore(), self.pipeline)
        self._is_checked = False
        self._has_step_limits = False

    def run(
        self,
        data: InT,
        *,
        run_id: str | None = None,
        initial_context_data: Mapping[str, Any] | None = None,
    ) -> PipelineResult[OutT]:
        """Run the pipeline and return its result; from plain code, not from within an event loop.

        Args:
            data: The input of the first step.
            run_id: The identity of the run; a fresh one by default.
            initial_context_data: Fields of this run's context, over those of the runner.

        Raises:
            TypeError: An event loop is running; await `run_async` there.
            UsageLimitExceededError: A limit was passed; `result` is the run so far.
            ConfigurationError: The workflow is wrong; nothing was run.
            PipelineContextInitializationError: The context lacks required fields; nothing was run.
        """
        _refuse_running_loop("run", "run_async")
        return asyncio.run(self._start(data, run_id, initial_context_data, None))

    def run_async(
        self,
        data: InT,
        *,
        run_id: str | None = None,
        initial_context_data: Mapping[str, Any] | None = None,
    ) -> PipelineRun[OutT]:
        """Return the run, to be awaited for its result or iterated over for chunks and then its result.

        Takes and raises what `run` does.
        """
        return PipelineRun(lambda on_chunk: self._start(data, run_id, initial_context_data, on_chunk))

    def stream_async(
        self,
        data: InT,
        *,
        run_id: str | None = None,
        initial_context_data: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Any]:
        """Run, and give the chunks of a streaming last step and then the result; takes and raises what `run` does."""
        return aiter(self.run_async(data, run_id=run_id, initial_context_data=initial_context_data))

    def resume(
        self, paused: PipelineResult[Any], human_input: Any, *, path: Sequence[str] | None = None
    ) -> PipelineResult[OutT]:
        """Answer a waiting step and go on; from plain code. Takes and raises what `resume_async` does."""
        _refuse_running_loop("resume", "resume_async")
        return asyncio.run(self.resume_async(paused, human_input, path=path))

    async def resume_async(
        self, paused: PipelineResult[Any], human_input: Any, *, path: Sequence[str] | None = None
    ) -> PipelineResult[OutT]:
        """Answer a waiting step and go on; `paused` itself stays as it is and may be resumed again.

        Args:
            paused: A result with `status == "paused"`.
            human_input: The answer; validated against the step's `input_schema`.
            path: The path of the step that is answered; not needed if only one waits.

        Raises:
            StateError: The run does not wait, several steps wait and `path` does not say which is answered,
                or it is a run of another pipeline.
            AnswerRejectedError: The answer does not fit, or nobody waits at `path`. Nothing was run.
        """
        self.check()
        point = _resume_point(paused)
        if [step.name for step in point.pipeline.walk()] != [step.name for step in self.pipeline.walk()]:
            raise StateError(f"run {paused.run_id} is of another pipeline; resume it with the runner that paused it")
        asked = _which(point.waiting, tuple(path) if path is not None else None)
        answer = _validated(asked, human_input)
        return await self._run(self._resumed(point, paused.run_id, asked.path, answer), None)

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
            settings=RunnerSettings(self._new_context, self._resources, self._hooks),
        )

    def with_settings(
        self,
        *,
        context_model: type[BaseModel] | None = None,
        initial_context_data: Mapping[str, Any] | None = None,
        usage_limits: UsageLimits | None = None,
        hooks: Sequence[Hook] = (),
    ) -> "Flujo[InT, OutT]":
        """Return a runner of the same pipeline with some settings replaced.

        Args:
            context_model: Replaces the context model, if given.
            initial_context_data: Fields over those of this runner.
            usage_limits: Replaces the limits, if given.
            hooks: Told what happens after the hooks of this runner.
        """
        return Flujo(
            self.pipeline,
            context_model=context_model or self.context_model,
            initial_context_data={**self._initial_context_data, **(initial_context_data or {})},
            resources=self._resources,
            usage_limits=usage_limits or self._usage_limits,
            hooks=(*self._hooks, *hooks),
            cache_backend=self._cache_backend,
            pipeline_name=self.pipeline_name,
            pipeline_version=self.pipeline_version,
            clock=self._clock,
        )

    def check(self) -> None:
        """Check the pipeline against the context model, once; a run does it before its first step.

        Raises:
            ConfigurationError: The first thing that is wrong.
        """
        if not self._is_checked:
            self.pipeline.validate_graph(self.context_model).raise_first()
            self._has_step_limits = any(step.usage_limits is not None for step in self.pipeline.walk())
            self._is_checked = True

    async def _start(
        self,
        data: Any,
        run_id: str | None,
        initial_context_data: Mapping[str, Any] | None,
        on_chunk: OnChunk | None,
    ) -> PipelineResult[OutT]:
        """Check everything that can be checked, make the context, and run."""
        self.check()
        first = self.pipeline.steps[0]
        if first.input_key is None and not accepts(first.input_type, data):
            raise mismatch("the run's input", type(data), first.describe(), first.input_type, verb="is")
        run_id = run_id or new_run_id()
        given = {**self._initial_context_data, **(initial_context_data or {})}
        context = make_context(self.context_model, data, run_id, given)
        return await self._run(self._fresh(data, run_id, context), on_chunk)

    def _fresh(self, data: Any, run_id: str, context: BaseModel) -> _Beginning:
        control = self._control()
        governor = UsageGovernor(self._usage_limits, label="the run", on_breach=control.stop)
        return _Beginning(data, context, run_id, StateManager(), governor, control)

    def _resumed(self, point: ResumePoint, run_id: str, path: StepPath, answer: Any) -> _Beginning:
        context = copy_context(point.context)
        _mark_pause(context, None)
        control = self._control()
        governor = UsageGovernor(
            self._usage_limits, label="the run", on_breach=control.stop, cost=point.cost, tokens=point.tokens
        )
        journal = StateManager(found=dict(point.checkpoints), answers={path: answer})
        return _Beginning(point.data, context, run_id, journal, governor, control)

    def _control(self) -> RunControl:
        return RunControl(is_limited=self._usage_limits is not None or self._has_step_limits)

    async def _run(self, begin: _Beginning, on_chunk: OnChunk | None) -> PipelineResult[OutT]:
        """Run from a beginning: resources around it, hooks before and after it."""
        async with AsyncExitStack() as stack:
            scope = RunScope(
                run_id=begin.run_id,
                home=begin.context,
                control=begin.control,
                journal=begin.journal,
                new_context=self._new_context_in_run,
                clock=self._clock,
                resources=await enter_resources(stack, self._resources),
                hooks=self._dispatcher,
                cache=self._cache_backend,
            )
            frame = ExecutionFrame(self.pipeline, begin.data, begin.context, scope, begin.governor, on_chunk=on_chunk)
            manager = ExecutionManager(self._manager_parts, begin.governor)
            await self._tell_start(frame)
            try:
                result = await manager.execute_steps(frame)
            except UsageLimitExceededError as exceeded:
                await self._tell_end(frame, exceeded.result)
                raise
            if result.status == "paused":
                _mark_pause(begin.context, result.waiting)
            await self._tell_end(frame, result)
            return result

    async def _tell_start(self, frame: ExecutionFrame[Any]) -> None:
        if self._dispatcher is not None:
            payload = PreRunPayload(initial_input=frame.data, context=frame.context, resources=frame.scope.resources)
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


def make_context(model: type[BaseModel], data: Any, run_id: str, given: Mapping[str, Any]) -> BaseModel:
    """Return the context of a run.

    `run_id` and `initial_prompt` are filled if the model has them and they are not given.

    Raises:
        PipelineContextInitializationError: Required fields are missing, fields are unknown, or values do not fit.
    """
    fields = model.model_fields
    filled: dict[str, Any] = {}
    if "run_id" in fields:
        filled["run_id"] = run_id
    if "initial_prompt" in fields:
        filled["initial_prompt"] = prompt_of(data)
    if unknown := [name for name in given if name not in fields and model.model_config.get("extra") != "allow"]:
        raise PipelineContextInitializationError(
            f"{model.__name__} has no field {', '.join(map(repr, unknown))}; it has {', '.join(fields)}",
            fields=tuple(unknown),
        )
    values = {**filled, **{name: copy_value(value) for name, value in given.items()}}
    try:
        return model(**values)
    except ValidationError as error:
        message, names = _explain(model, error)
        hint = "give them with initial_context_data"
        raise PipelineContextInitializationError(f"{message}; {hint}", fields=names) from None


def inherit_context(
    model: type[BaseModel], data: Any, inherited: BaseModel | None, given: Mapping[str, Any]
) -> BaseModel:
    """Return the context of a sub-pipeline: fields of the outer context, or none of them behind a wall.

    Raises:
        ContextInheritanceError: Required fields are missing or do not fit.
    """
    if inherited is not None and type(inherited) is model and not given:
        return copy_context(inherited)
    shared = {
        name: copy_value(getattr(inherited, name))
        for name in model.model_fields
        if inherited is not None and name in type(inherited).model_fields
    }
    try:
        return make_context(model, data, new_run_id(), {**given, **shared})
    except PipelineContextInitializationError as error:
        source = "the outer context" if inherited is not None else "nothing, because inherit_context is False"
        raise ContextInheritanceError(
            f"the sub-pipeline inherits from {source}: {error}", fields=error.fields
        ) from None


def prompt_of(data: Any) -> str:
    """Return a run's input as text: a string as it is, anything else readable and of bounded length.

    A pydantic model is written as the dict of its fields. Long strings, deep nesting and long containers are
    shortened by `...`, and the whole is at most `PROMPT_CHARACTERS` long.
    """
    if isinstance(data, str):
        return data
    outline = reprlib.Repr()
    outline.maxlevel, outline.maxstring, outline.maxother = 6, 500, 500
    outline.maxdict = outline.maxlist = outline.maxtuple = outline.maxset = outline.maxfrozenset = 50
    text = outline.repr(dict(data)) if isinstance(data, BaseModel) else outline.repr(data)
    return text if len(text) <= PROMPT_CHARACTERS else text[: PROMPT_CHARACTERS - 3] + "..."


def _explain(model: type[BaseModel], error: ValidationError) -> tuple[str, tuple[str, ...]]:
    """Return what is wrong with a context in one line, and the fields concerned."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    names = tuple(str(problem["loc"][0]) if problem["loc"] else "" for problem in problems)
    missing = [name for name, problem in zip(names, problems, strict=True) if problem["type"] == "missing"]
    if missing:
        return f"{model.__name__} lacks the required fields {', '.join(missing)}", tuple(missing)
    wrong = "; ".join(f"{name}: {problem['msg']}" for name, problem in zip(names, problems, strict=True))
    return f"{model.__name__} does not take what it was given ({wrong})", names


def _refuse_running_loop(method: str, instead: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # there is none, as it should be
        return
    raise TypeError(f"Flujo.{method}() cannot be called inside a running event loop; use `await flujo.{instead}(...)`")


def _mark_pause(context: BaseModel, waiting: Sequence[Waiting] | None) -> None:
    """Say in the scratchpad, if there is one, what a paused run asks; or that it asks nothing any more."""
    scratchpad = getattr(context, "scratchpad", None)  # a context may be any model
    if not is_dict(scratchpad):
        return
    if waiting is None:
        scratchpad.pop("status", None)
        scratchpad.pop("pause_message", None)
    else:
        scratchpad["status"] = "paused"
        scratchpad["pause_message"] = "\n".join(asked.message for asked in waiting)


def _resume_point(paused: PipelineResult[Any]) -> ResumePoint:
    """Return where a paused run stands."""
    if not isinstance(paused, PipelineResult):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise StateError(f"{reprlib.repr(paused)} is no PipelineResult; resume takes the result of a paused run")
    if isinstance(paused.resume_point, ResumePoint):
        return paused.resume_point
    if paused.status == "paused":
        raise StateError(f"this copy of run {paused.run_id} does not know where it stands; resume the original result")
    raise StateError(f"run {paused.run_id} does not wait for an answer: it is {paused.status}")


def _which(waiting: Sequence[Waiting], path: StepPath | None) -> Waiting:
    """Return the waiting step that is answered."""
    places = ", ".join("/".join(asked.path) for asked in waiting)
    if path is None:
        if len(waiting) != 1:
            raise StateError(f"{len(waiting)} steps wait, at {places}; say with path= which one is answered")
        return waiting[0]
    for asked in waiting:
        if asked.path == path:
            return asked
    raise AnswerRejectedError(f"nobody waits at {'/'.join(path)}; waiting: {places}")


def _validated(asked: Waiting, answer: Any) -> Any:
    """Return an answer as the schema of the waiting step reads it."""
    if asked.input_schema is None:
        return answer
    try:
        return TypeAdapter(asked.input_schema).validate_python(answer)
    except ValidationError as error:
        problems = "; ".join(
            ".".join(map(str, problem["loc"])) + (": " if problem["loc"] else "") + problem["msg"]
            for problem in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise AnswerRejectedError(f"the answer does not fit step {asked.step_name!r}: {problems}") from None
