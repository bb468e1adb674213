"""Where execution stands: the frame of one step, and what all frames of a run share."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel

from flujo.application.core.admissions import Admissions
from flujo.application.core.budget_desk import BudgetDesk
from flujo.application.core.hooks import HookDispatcher
from flujo.application.core.resources import BroughtResources
from flujo.application.core.shared_budgets import SharedBudgets
from flujo.application.core.state_manager import CheckpointT, Question, StateManager
from flujo.application.core.usage_governor import UsageGovernor
from flujo.cache.backends import ICacheBackend
from flujo.domain.metering import MeteredCall
from flujo.domain.models import HumanInteraction, StepPath
from flujo.domain.paying_step import PayingStep
from flujo.domain.pipeline import BaseStep, Pipeline
from flujo.domain.results import StepResult, Waiting
from flujo.state.budgets import BudgetOutcome, BudgetRequest
from flujo.utils.clock import Clock

ContextT = TypeVar("ContextT", bound=BaseModel)

OnChunk = Callable[[Any], Awaitable[None]]
"""Takes the chunks of a streaming step as they are produced."""

_ANSWER_TURNS = 3  # of the event loop: what an answer takes through a task of the agent's own, as in `asyncio.gather`


class ContextFactory(Protocol):
    """Makes the context of a sub-pipeline; the runner provides it."""

    def __call__(self, data: Any, inherited: BaseModel | None) -> BaseModel:
        """Return a new context for an input, with the fields of the inherited one that it knows."""
        ...


@dataclass(slots=True, frozen=True)
class Halt:
    """Why nothing more may start in a run; `budget` is the shared one that is used up, if it is one."""

    status: Literal["stopped", "aborted"]
    reason: str
    budget: str | None = None

    def refuse(self, step: BaseStep[Any, Any]) -> StepResult:
        """Return the result of a step that was not started."""
        return StepResult(step.name, status=self.status, attempts=0, feedback=f"not started: {self.reason}")


@dataclass(slots=True)
class RunControl:
    """What stops or pauses a run, seen by every step of it.

    Attributes:
        halt: Why nothing more may start; `None` while the run goes on.
        waiting: The steps that wait for a person.
        calls: The tasks that wait for an answer, each with its call; a breach cancels what they wait for.
        cut_short: Those of them that a breach has cancelled.
        in_flight: The steps whose agent was called when the run was cancelled.
        is_limited: Whether any limit can be passed in this run.
        is_cutting: Whether a breach has cut short the calls that were in flight.
        unfinished: By error that ends the run, the step that it came out of so far: its path, and what it came to.
        steps: How many steps have been begun, those of one-step pipelines counted once.
        admissions: Where calls wait until what they may cost fits into the limits.
        settling: The task whose call is being charged: it has its answer, so that it is not cut short.
    """

    is_limited: bool = False
    halt: Halt | None = None
    waiting: list[Waiting] = field(default_factory=list[Waiting])
    calls: dict[asyncio.Task[Any], object] = field(default_factory=dict[asyncio.Task[Any], object])
    cut_short: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])
    in_flight: list[str] = field(default_factory=list[str])
    is_cutting: bool = False
    unfinished: dict[BaseException, tuple[StepPath, StepResult]] = field(
        default_factory=dict[BaseException, tuple[StepPath, StepResult]]
    )
    steps: int = 0
    admissions: Admissions = field(default_factory=Admissions)
    settling: "asyncio.Task[Any] | None" = None

    def waiting_below(self, path: StepPath) -> list[Waiting]:
        """Return those of the waiting steps that are within the step at `path`."""
        return [asked for asked in self.waiting if asked.path[: len(path)] == path]

    def arrange_waiting(self, path: StepPath, position: Callable[[Waiting], int]) -> None:
        """Bring the waiting steps within the step at `path` in order of their position there."""
        elsewhere = [asked for asked in self.waiting if asked.path[: len(path)] != path]
        self.waiting = [*elsewhere, *sorted(self.waiting_below(path), key=position)]

    def stop(self, reason: str, budget: str | None = None) -> None:
        """Let nothing more start, and cut short the calls in flight: a limit was passed.

        A call whose answer is there already keeps it: it is paid for. A breach says more than an abort before it.
        """
        if self.halt is None or self.halt.status == "aborted":
            self.halt = Halt("stopped", reason, budget)
            self.admissions.refuse_all(reason)
        in_flight = tuple((task, call) for task, call in self.calls.items() if task is not self.settling)
        if in_flight and not self.is_cutting:
            self.is_cutting = True
            asyncio.get_running_loop().call_soon(self._cut_short, in_flight, _ANSWER_TURNS)

    def refuse(self, reason: str, budget: str | None = None) -> None:
        """Let nothing more start: a call could pass a limit. Calls in flight fit, and run to their end."""
        if self.halt is None:
            self.halt = Halt("stopped", reason, budget)
            self.admissions.refuse_all(reason)

    def _cut_short(self, in_flight: tuple[tuple["asyncio.Task[Any]", object], ...], turns: int) -> None:
        """Cancel those of the calls that are in flight still, once answers on their way had turns to arrive."""
        if turns > 1:
            asyncio.get_running_loop().call_soon(self._cut_short, in_flight, turns - 1)
            return
        for task, call in in_flight:
            if self.calls.get(task) is call:
                task.cancel()
                self.cut_short.add(task)

    def enter_call(self) -> "asyncio.Task[Any]":
        """Note that the current task waits for an answer from now on, and return it.

        Once a limit was passed, only answers that had come are judged, in a few turns of the loop at most.
        """
        task = asyncio.current_task()
        assert task is not None, "steps run in tasks"
        call = self.calls[task] = object()
        if self.halt is not None and self.halt.status == "stopped":
            asyncio.get_running_loop().call_soon(self._cut_short, ((task, call),), _ANSWER_TURNS)
        return task

    def leave_call(self, task: "asyncio.Task[Any]") -> None:
        """Note that a task has its answer, or will have none; its cancellation by a breach ends here."""
        self.calls.pop(task, None)
        if task in self.cut_short:
            self.cut_short.discard(task)
            task.uncancel()

    def why_halted(self) -> str | None:
        """Return why nothing more may start; `None` while the run goes on."""
        return None if self.halt is None else self.halt.reason

    def abort(self, reason: str) -> None:
        """Let nothing more start; calls in flight run to their end."""
        if self.halt is None:
            self.halt = Halt("aborted", reason)
            self.admissions.refuse_all(reason)


class DurableRun(Protocol):
    """Keeps what finishes in a run, so that it is not run again when the run goes on."""

    def recall(self, frame: "ExecutionFrame[Any]") -> StepResult | None:
        """Return the result of a step that finished before, and let it have its effects; `None` if it did not."""
        ...

    def has_begun(self, path: StepPath) -> bool:
        """Tell whether the step at `path`, or one within it, was at work before the run went on."""
        ...

    def has_begun_within(self, path: StepPath) -> bool:
        """Tell whether a step within the one at `path` was at work before the run went on."""
        ...

    def before(self, frame: "ExecutionFrame[Any]") -> BaseModel | None:
        """Return what `record` wants to know of a step before it runs."""
        ...

    async def record(self, frame: "ExecutionFrame[Any]", result: StepResult, before: BaseModel | None) -> None:
        """Keep that a step ended for good, with this result."""
        ...

    async def hold(self, path: StepPath, held: Sequence[MeteredCall]) -> None:
        """Keep what the attempt at a step that is under way has paid or may pay, before it pays it."""
        ...

    def note_held(self, path: StepPath, held: Sequence[MeteredCall]) -> None:
        """Let what is kept next say what the attempt at a step has paid or may pay by now."""
        ...

    async def hold_in_budgets(
        self, path: StepPath, held: Sequence[MeteredCall], before: Sequence[MeteredCall], request: BudgetRequest
    ) -> BudgetOutcome:
        """Do the same, and reserve its next call in shared budgets, both at once or neither.

        Args:
            path: The address of the step.
            held: What the attempt has paid or may pay, the call included.
            before: The same without the call.
            request: The call.
        """
        ...

    def recall_call(self, path: StepPath, key: str) -> tuple[Any, MeteredCall] | None:
        """Return what a call gave, and was charged, that an attempt made before the run was killed."""
        ...

    def recall_answer(self, path: StepPath, key: str) -> tuple[Any, Sequence[MeteredCall]] | None:
        """Return what an attempt gave that was not judged when the run was killed, and what its calls were charged."""
        ...

    async def keep_call(
        self, path: StepPath, key: str, value: Any, call: MeteredCall, held: Sequence[MeteredCall]
    ) -> None:
        """Keep what a call gave and was charged, and what the attempt has paid or may pay besides."""
        ...

    def keep_calls_of_step(self, path: StepPath) -> None:
        """Let the calls that were kept so far belong to a step, and not to the attempt under way."""
        ...

    async def leave(self, path: StepPath, held: Sequence[MeteredCall]) -> None:
        """Keep what the attempt at a step that is under way has paid, because it goes on when the run does.

        What the step is said to have spent after this is only how it ended.
        """
        ...

    async def spend(self, path: StepPath, result: StepResult) -> None:
        """Keep what a step has spent so far without finishing."""
        ...

    def spent_within(self, path: StepPath) -> tuple[Decimal, int]:
        """Return dollars and tokens that steps at `path` and below spent without finishing, before the run went on."""
        ...

    def add_spent(self, path: StepPath, result: StepResult) -> None:
        """Add to a step's result what it spent before the run went on."""
        ...

    def attempts_before(self, path: StepPath) -> tuple[int, str | None]:
        """Return the attempts made at a step when the run ended in their midst, and what was wrong with the last."""
        ...

    async def note(self, path: StepPath, checkpoint: object) -> None:
        """Keep where the step at `path` stands; it finds the checkpoint when the run goes on."""
        ...

    def interactions(self, home: StepPath) -> list[HumanInteraction]:
        """Return what people have said to the steps whose home is the context of the step at `home`."""
        ...


@dataclass(slots=True, frozen=True)
class RunScope:
    """What a whole run shares.

    Attributes:
        run_id: The identity of the run.
        home: The context that people's answers are kept in: the run's own, or that of a sub-pipeline behind a wall.
        control: What stops or pauses the run.
        journal: Where the unfinished steps stand.
        durable: Keeps what finishes; `None` if nothing is kept.
        desk: What the run has to do with the budgets of its store; `None` if no step of it has any.
        budgets: What its calls share with other runs; `None` if there are none.
        new_context: Makes the context of a sub-pipeline.
        clock: Tells the time.
        resources: What the agents share; `None` if there are none.
        payer: The step of another run that this run is within, which pays for it; `None` if there is none.
        brought: The resources that runners bring along which are steps of the run.
        hooks: Whom to tell; `None` if nobody listens.
        cache: Where cached steps without a cache of their own keep their results.
    """

    run_id: str
    home: BaseModel
    control: RunControl
    journal: StateManager
    new_context: ContextFactory
    clock: Clock
    resources: Any = None
    hooks: HookDispatcher | None = None
    cache: ICacheBackend | None = None
    durable: DurableRun | None = None
    desk: BudgetDesk | None = None
    budgets: SharedBudgets | None = None
    payer: PayingStep | None = None
    brought: BroughtResources = field(default_factory=BroughtResources)


@dataclass(slots=True, frozen=True)
class Earlier:
    """The steps that ended before a step: those of its own sequence so far, and those before the sequence."""

    results: list[StepResult]
    before: "Earlier | None" = None

    def outputs(self) -> dict[str, Any]:
        """Return the outputs of the steps that completed, by name; of two of one name that of the later one."""
        outputs = {} if self.before is None else self.before.outputs()
        outputs.update({result.name: result.output for result in self.results if result.success})
        return outputs


@dataclass(slots=True)
class ExecutionFrame(Generic[ContextT]):
    """Where execution stands: made anew for every step, and all that `ExecutorCore.execute` takes.

    Attributes:
        step: The step to run.
        data: Its input.
        context: The context it sees; of a branch, the branch's own copy.
        scope: What the whole run shares.
        usage: The innermost governor that its charges go to.
        path: Its address in the run.
        on_chunk: Takes its chunks if it streams; `None` if nobody wants them.
        history: The results of its children so far; kept also if its handler fails.
        attempts: The attempts so far, of a loop its iterations; kept also if its handler fails.
        metadata: What is to be said of the step; kept also if its handler fails.
        earlier: The steps that ended before it; `None` if there are none.
    """

    step: BaseStep[Any, Any]
    data: Any
    context: ContextT
    scope: RunScope
    usage: UsageGovernor
    path: StepPath = ()
    on_chunk: OnChunk | None = None
    history: list[StepResult] | None = None
    attempts: int = 1
    metadata: dict[str, Any] | None = None
    earlier: Earlier | None = None

    @property
    def may_change_context(self) -> bool:
        """Whether running the step may change the frame's context; hooks may, whatever the step is."""
        return self.scope.hooks is not None or self.step.may_change_context

    def child(
        self,
        step: BaseStep[Any, Any],
        data: Any,
        *,
        at: str,
        context: ContextT | None = None,
        usage: UsageGovernor | None = None,
        on_chunk: OnChunk | None = None,
    ) -> "ExecutionFrame[ContextT]":
        """Return the frame of an inner step; the only way to make a frame below the top.

        Args:
            step: The inner step.
            data: Its input.
            at: Its part of the path, unique among the children of this frame.
            context: A context of its own; this frame's by default.
            usage: A governor of its own; this frame's by default.
            on_chunk: Given on only to the child whose output is this step's output.
        """
        return ExecutionFrame(
            step,
            data,
            self.context if context is None else context,
            self.scope,
            self.usage if usage is None else usage,
            (*self.path, at),
            on_chunk,
            earlier=self.earlier,
        )

    def only_child(self) -> "ExecutionFrame[ContextT]":
        """Return the frame of the one step of a pipeline, which works on its input and gives its output."""
        assert isinstance(self.step, Pipeline), "only a pipeline is a single step in disguise"
        return self.child(self.step.steps[0], self.data, at="0", on_chunk=self.on_chunk)

    def checkpoint(self, kind: type[CheckpointT]) -> CheckpointT | None:
        """Return where this step stood when its run paused, or `None` if it starts afresh."""
        journal = self.scope.journal
        return journal.take(self.path, kind) if journal.found else None

    def was_at_work(self) -> bool:
        """Tell whether this step waited for a person, or a step within it had begun, before the run went on."""
        found, durable = self.scope.journal.found, self.scope.durable
        if isinstance(found.get(self.path), Question) or (durable is not None and durable.has_begun_within(self.path)):
            return True
        length = len(self.path)
        return any(len(path) > length and path[:length] == self.path for path in found)

    def save(self, checkpoint: object) -> None:
        """Leave a checkpoint: this step returns before it is done."""
        self.scope.journal.save(self.path, checkpoint)
