"""The one way to run a step: `ExecutorCore.execute(frame)`.

Kinds of step register their handlers, so the core knows none of them by name;
a handler reaches other steps through `core.execute(frame.child(...))`, and there is no other recursion.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from time import perf_counter
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel

from flujo.application.core.cancellation import is_cancelled
from flujo.application.core.frame import DurableRun, ExecutionFrame, Halt
from flujo.application.core.outcome import conclude, describe_error, keep_output, leave_unfinished
from flujo.application.core.state_manager import Question
from flujo.application.core.usage_governor import UsageGovernor
from flujo.domain.models import StepPath, UsageLimits
from flujo.domain.money import ZERO, add_usd
from flujo.domain.observers import OnPausePayload, OnStepFailurePayload, PostStepPayload, PreStepPayload
from flujo.domain.pipeline import BaseStep, Pipeline
from flujo.domain.results import CALLS, UNCERTAIN, StepResult
from flujo.domain.step import AgentStep
from flujo.exceptions import (
    ConfigurationError,
    ContextInheritanceError,
    InfiniteRedirectError,
    PipelineAbortSignal,
    PipelineContextInitializationError,
    SerializationError,
    StateError,
)
from flujo.utils.narrowing import is_dict

StepExecutor = Callable[["ExecutorCore", Any, ExecutionFrame[Any]], Awaitable[StepResult]]
"""Runs one kind of step: `async def _handle_<kind>_step(core, step, frame) -> StepResult`."""

ExecutorT = TypeVar("ExecutorT", bound=StepExecutor)

_log = logging.getLogger("flujo.steps")

_STEPS_A_TURN = 100
"""Steps of a run after which other tasks of the event loop have their turn, though no step ever waits."""

_WORKFLOW_MISTAKES = (
    ConfigurationError,
    ContextInheritanceError,
    InfiniteRedirectError,
    PipelineContextInitializationError,
    SerializationError,
    StateError,
)
"""What a run raises instead of failing a step."""


@dataclass(slots=True, frozen=True)
class _Spent:
    """Checkpoint of a step with limits: what it had spent when its run paused."""

    cost: Decimal
    tokens: int


@dataclass(slots=True, frozen=True)
class FellBack:
    """Checkpoint of a step whose fallback waits: the result of the primary, which is not run again."""

    primary: StepResult
    changed: Any = None
    """What the primary changed in the context, for a run that is started again from the beginning."""


class ExecutorCore:
    """Runs steps; it keeps no state of its own, so one serves every run."""

    _handlers: ClassVar[dict[type, StepExecutor]] = {}
    _resolved: ClassVar[dict[type, StepExecutor]] = {}  # inherited ones too; made anew when one is registered

    @classmethod
    def handles(cls, kind: type[BaseStep[Any, Any]]) -> Callable[[ExecutorT], ExecutorT]:
        """Register the handler of a kind of step and of its subclasses.

        Example:
            ```python
            from flujo import BaseStep, ExecutionFrame, ExecutorCore, StepResult

            class Shout(BaseStep[str, str]):
                pass

            @ExecutorCore.handles(Shout)
            async def _handle_shout_step(core: ExecutorCore, step: Shout, frame: ExecutionFrame) -> StepResult:
                return StepResult(step.name, frame.data.upper())
            ```
        """

        def register(handler: ExecutorT) -> ExecutorT:
            cls._handlers[kind] = handler
            cls._resolved.clear()
            return handler

        return register

    async def execute(self, frame: ExecutionFrame[Any]) -> StepResult:
        """Run the step of a frame and return what it came to; only mistakes in the workflow are raised."""
        scope = frame.scope
        control = scope.control
        control.steps += 1
        if control.steps % _STEPS_A_TURN == 0:
            await asyncio.sleep(0)  # so that a run whose steps never wait can be cancelled, and starves nobody
        if control.halt is not None:
            return await self._refuse(frame, control.halt)
        if scope.durable is not None:
            return await self._run_durably(frame, scope.durable)
        step = frame.step
        while type(step) is Pipeline and len(step.steps) == 1 and not step.is_guarded:
            frame = frame.only_child()  # running it is running its step, with fewer frames on Python's stack
            step = frame.step
        if scope.hooks is not None or step.is_guarded:
            return await self._run_guarded(frame)
        return await self._run(frame)

    async def _refuse(self, frame: ExecutionFrame[Any], halt: Halt) -> StepResult:
        """Return the result of a step that may not start.

        A step that was at work when the run paused, or was killed, has what it paid for in its result; nothing
        within it starts either.
        """
        durable = frame.scope.durable
        if durable is not None and (recalled := durable.recall(frame)) is not None:
            return recalled
        return await self._run_limited(frame) if frame.was_at_work() else halt.refuse(frame.step)

    async def _run_durably(self, frame: ExecutionFrame[Any], durable: DurableRun) -> StepResult:
        """Return what a step came to before, or run it and keep what it comes to."""
        while (recalled := durable.recall(frame)) is None:
            step = frame.step
            if len(frame.path) == 1 or type(step) is not Pipeline or len(step.steps) > 1 or step.is_guarded:
                break
            frame = frame.only_child()  # it is its step, which is kept
        else:
            return recalled
        if frame.scope.hooks is not None or frame.step.is_guarded:
            return await self._run_guarded(frame)
        return await self._run_and_keep(frame, durable, durable.before(frame), is_guarded=False)

    async def _run_and_keep(
        self, frame: ExecutionFrame[Any], durable: DurableRun, before: BaseModel | None, *, is_guarded: bool
    ) -> StepResult:
        """Run a step and keep what it comes to, before anybody is told of it."""
        started = perf_counter()
        try:
            result = await (self._run_limited(frame) if is_guarded else self._run(frame))
            result.latency_s = perf_counter() - started
        except _WORKFLOW_MISTAKES as mistake:
            _, unfinished = frame.scope.control.unfinished.get(mistake, (None, None))
            if unfinished is not None and not unfinished.step_history:
                await _keep_spent(frame.path, unfinished, durable, mistake)
            raise
        if result.status not in ("completed", "paused") and not result.step_history:
            await durable.spend(frame.path, result)
        cost, tokens, attempts, calls = result.cost, result.token_counts, result.attempts, result.calls
        durable.add_spent(frame.path, result)
        if result.status == "completed" or (result.status == "paused" and not result.step_history):
            try:
                await durable.record(frame, result, before)
            except _WORKFLOW_MISTAKES as mistake:
                frame.scope.control.unfinished[mistake] = frame.path, result
                now = StepResult(frame.step.name, cost=cost, token_counts=tokens, attempts=attempts)
                now.add_earlier_calls(calls)
                if not result.step_history:  # or else it is stored with the steps within it
                    await _keep_spent(frame.path, now, durable, mistake)
                raise
        return result

    async def _run(self, frame: ExecutionFrame[Any]) -> StepResult:
        """Run the handler; an exception of user code becomes a failed result."""
        step = frame.step
        handler = self._resolved.get(type(step)) or self._resolve(type(step))
        started = perf_counter()
        try:
            result = await handler(self, step, frame)
        except _WORKFLOW_MISTAKES as mistake:
            leave_unfinished(frame, mistake)
            raise
        except PipelineAbortSignal as signal:
            frame.scope.control.abort(f"{step.describe()} aborted the run: {signal}")
            result = conclude(frame, status="aborted", feedback=str(signal))
        except Exception as error:  # mappers, conditions and the like are code of the user's
            _log.debug("step %r raised", step.name, exc_info=error)
            result = conclude(frame, status="failed", feedback=describe_error(error))
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            result = conclude(frame, status="failed", feedback="cancelled by its own code")
        if not isinstance(result, StepResult):  # pyright: ignore[reportUnnecessaryIsInstance]  # handlers may be untyped
            raise ConfigurationError(
                f"the handler of {type(step).__name__} returned {result!r}; a handler returns a StepResult"
            )
        result.latency_s = perf_counter() - started
        return result

    def _resolve(self, kind: type) -> StepExecutor:
        for base in kind.__mro__:
            if base in self._handlers:
                return self._resolved.setdefault(kind, self._handlers[base])
        raise ConfigurationError(
            f"no handler for {kind.__name__}; register one with @ExecutorCore.handles({kind.__name__})"
        )

    async def _run_guarded(self, frame: ExecutionFrame[Any]) -> StepResult:
        """Run a step with everything around its handler: hooks, its part of the input, limits, fallback."""
        started = perf_counter()
        durable = frame.scope.durable
        before = None if durable is None else durable.before(frame)
        await _tell_before(frame)
        if (halt := frame.scope.control.halt) is not None:  # a hook may have aborted the run, or taken its time
            return halt.refuse(frame.step)
        if durable is not None:
            result = await self._run_and_keep(frame, durable, before, is_guarded=True)
        else:
            result = await self._run_limited(frame)
            result.latency_s = perf_counter() - started
        await _tell_after(frame, result)
        return result

    async def _run_limited(self, frame: ExecutionFrame[Any]) -> StepResult:
        step = frame.step
        if step.input_key is not None and (missing := _pick_input(frame, step.input_key)) is not None:
            return missing
        if step.usage_limits is None:
            return await self._run_with_fallback(frame)
        governor = _limit(frame, step.usage_limits)
        if (halt := frame.scope.control.halt) is not None and not frame.was_at_work():
            return halt.refuse(step)  # it had spent more than it may before the run went on
        result = await self._run_with_fallback(frame)
        if result.status == "paused":
            frame.scope.journal.save((*frame.path, "usage"), _Spent(governor.total_cost, governor.total_tokens))
        return result

    async def _run_with_fallback(self, frame: ExecutionFrame[Any]) -> StepResult:
        step = frame.step
        if step.fallback_step is None:
            return await self._run(frame)
        fallen = frame.checkpoint(FellBack)
        primary = fallen.primary if fallen else await self._run(frame)
        if primary.status != "failed" or (frame.scope.control.halt is not None and fallen is None):
            return primary
        if frame.scope.durable is not None:
            if fallen is None:
                await frame.scope.durable.note(frame.path, FellBack(primary))
            else:
                frame.usage.recall(primary.cost, primary.token_counts)
        try:
            rescue = await self.execute(
                frame.child(step.fallback_step, frame.data, at="fallback", on_chunk=frame.on_chunk)
            )
        except _WORKFLOW_MISTAKES as mistake:
            frame.history = [primary]
            leave_unfinished(frame, mistake)
            raise
        if rescue.status == "paused":
            frame.save(FellBack(primary))
        result = _rescued(step, primary, rescue)
        if result.success and isinstance(step, AgentStep) and _misses_update(step, step.fallback_step):
            keep_output(step, frame.context, result)
        return result


async def _keep_spent(path: StepPath, spent: StepResult, durable: DurableRun, mistake: Exception) -> None:
    """Store what a step has spent that ends its run, unless it is the store that failed."""
    if (spent.cost or spent.token_counts) and not isinstance(mistake, StateError):
        await durable.spend(path, spent)


def _limit(frame: ExecutionFrame[Any], limits: UsageLimits) -> UsageGovernor:
    control, durable = frame.scope.control, frame.scope.durable
    control.is_limited = True  # the step may be a fallback that was declared after the first run
    spent = frame.scope.journal.take((*frame.path, "usage"), _Spent) or _Spent(ZERO, 0)
    cost, tokens = (spent.cost, spent.tokens) if durable is None else durable.spent_within(frame.path)
    frame.usage = frame.usage.child(limits, label=frame.step.describe(), cost=cost, tokens=tokens)
    if (breach := frame.usage.breach()) is not None:
        control.stop(breach)
    return frame.usage


def _pick_input(frame: ExecutionFrame[Any], key: str) -> StepResult | None:
    """Narrow the frame's input to one key; return a failed result if it is not there."""
    data = frame.data
    if is_dict(data) and key in data:
        frame.data = data[key]
        return None
    known = f"its keys are {', '.join(map(repr, data))}" if is_dict(data) else f"it is a {type(data).__name__}"
    return StepResult(frame.step.name, success=False, attempts=0, feedback=f"the input has no key {key!r}; {known}")


def _rescued(step: BaseStep[Any, Any], primary: StepResult, rescue: StepResult) -> StepResult:
    """Return what a step and its fallback came to together."""
    keeps = isinstance(step, AgentStep) and step.config.preserve_fallback_diagnostics
    feedback = primary.feedback if keeps else None
    if rescue.status == "paused":
        feedback = rescue.feedback  # the question, and nothing but the question
    elif not rescue.success:
        feedback = f"{primary.feedback}; the fallback {rescue.name!r}: {rescue.feedback}"
    uncertain = add_usd(primary.metadata_.get(UNCERTAIN, ZERO), rescue.metadata_.get(UNCERTAIN, ZERO))
    return StepResult(
        step.name,
        rescue.output,
        status=rescue.status,
        attempts=primary.attempts + rescue.attempts,
        token_counts=primary.token_counts + rescue.token_counts,
        cost=add_usd(primary.cost, rescue.cost),
        feedback=feedback,
        metadata_={
            **{key: said for key, said in (primary.metadata_ | rescue.metadata_).items() if key != CALLS},
            **({UNCERTAIN: uncertain} if uncertain else {}),
            "fallback_triggered": True,
            "original_error": primary.feedback,
        },
        step_history=[primary, rescue],
    )


def _misses_update(step: BaseStep[Any, Any], fallback: BaseStep[Any, Any]) -> bool:
    """Return whether what the fallback gave belongs into the context by the step's word, and is not there yet."""
    return _updates_context(step) and not _updates_context(fallback)


def _updates_context(step: BaseStep[Any, Any]) -> bool:
    """Return whether the output of a step is merged into the context where it is made."""
    if isinstance(step, Pipeline):
        return _updates_context(step.steps[-1])
    return isinstance(step, AgentStep) and step.updates_context


async def _tell_before(frame: ExecutionFrame[Any]) -> None:
    """Tell the hooks that a step starts."""
    scope = frame.scope
    if scope.hooks is None or isinstance(frame.step, Pipeline):
        return
    payload = PreStepPayload(
        step=frame.step,
        step_input=frame.data,
        path=frame.path,
        context=frame.context,
        resources=scope.resources,
    )
    try:
        await scope.hooks.fire(payload)
    except PipelineAbortSignal as signal:
        scope.control.abort(f"a hook aborted the run before {frame.step.describe()}: {signal}")


async def _tell_after(frame: ExecutionFrame[Any], result: StepResult) -> None:
    """Tell the hooks how a step ended; that it waits is told of the step that asks, and not of those around it."""
    scope = frame.scope
    if scope.hooks is None or isinstance(frame.step, Pipeline):
        return
    if result.status == "paused" and not isinstance(scope.journal.left.get(frame.path), Question):
        return
    payload: PostStepPayload | OnPausePayload | OnStepFailurePayload
    if result.success:
        payload = PostStepPayload(step_result=result, path=frame.path, context=frame.context, resources=scope.resources)
    elif result.status == "paused":
        payload = OnPausePayload(
            step_name=result.name,
            path=frame.path,
            message=result.feedback or "",
            context=frame.context,
            resources=scope.resources,
        )
    else:
        payload = OnStepFailurePayload(
            step_result=result, path=frame.path, context=frame.context, resources=scope.resources
        )
    try:
        await scope.hooks.fire(payload)
    except PipelineAbortSignal as signal:
        scope.control.abort(f"a hook aborted the run after {frame.step.describe()}: {signal}")
