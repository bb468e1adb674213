"""Children that run at once, each on its own copy of the context."""

import asyncio
import copy
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pydantic import BaseModel

from flujo.application.core.context import OWNED_BY_THE_RUN
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.merging import merge_branches
from flujo.application.core.outcome import blame, call_user, conclude, halted
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.domain.models import BranchFailureStrategy, MergeStrategy
from flujo.domain.pipeline import BaseStep
from flujo.domain.results import StepResult
from flujo.exceptions import FlujoError
from flujo.utils.copying import copy_context, copy_value

MergeFunction = Callable[[Any, dict[str, Any]], object]

_STARTED_A_TURN = (
    500  # tasks that all exist before one of them runs are what the garbage collector walks again and again
)
_MOST_BLAMED = 3  # failed branches that the step's feedback tells of


@dataclass(slots=True, frozen=True)
class Branch:
    """One child: its name, its part of the path, its step and its input."""

    name: str
    at: str
    step: BaseStep[Any, Any]
    data: Any


@dataclass(slots=True, frozen=True)
class BranchPolicy:
    """How branches run and what comes back.

    Attributes:
        merge: How their contexts come back.
        on_failure: What a failed branch means.
        max_concurrency: How many run at once; `None` for all.
        include: The context fields that branches get and may bring back; `None` for all.
        field_mapping: The fields that the named branches may bring back.
    """

    merge: MergeStrategy | MergeFunction = MergeStrategy.NO_MERGE
    on_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE
    max_concurrency: int | None = None
    include: Collection[str] | None = None
    field_mapping: Mapping[str, Sequence[str]] | None = None


@dataclass(slots=True, frozen=True)
class _BranchesCheckpoint:
    """Where branches stood: the results of the finished ones, and the contexts that those which wait do not share."""

    finished: dict[str, StepResult]
    contexts: dict[str, BaseModel]


@dataclass(slots=True)
class BranchRun:
    """Branches of one step while they run.

    Attributes:
        core: Runs them.
        frame: The frame of the step they belong to; its governor becomes the one they share.
        branches: In order of declaration.
        policy: How they run and what comes back.
        results: By branch name; a branch that was never started has none.
        contexts: The context of each started branch; those that cannot change theirs share one.
    """

    core: ExecutorCore
    frame: ExecutionFrame[Any]
    branches: Sequence[Branch]
    policy: BranchPolicy
    results: dict[str, StepResult] = field(default_factory=dict[str, StepResult])
    contexts: dict[str, BaseModel] = field(default_factory=dict[str, BaseModel])
    _failed: list[tuple[ExecutionFrame[Any], StepResult]] = field(
        default_factory=list[tuple[ExecutionFrame[Any], StepResult]]
    )
    _shared: BaseModel | None = None
    _sharing: dict[int, bool] = field(default_factory=dict[int, bool])  # by identity of a step, which the branches keep

    _mistakes: list[FlujoError] = field(default_factory=list[FlujoError])

    async def run(self) -> None:
        """Run all branches to their end, at most `max_concurrency` at once.

        A mistake that is found in one ends the run, once the calls in flight in the others, which are being paid for,
        have come to their end.
        """
        if (left := self.frame.checkpoint(_BranchesCheckpoint)) is not None:
            self.results.update({name: _with_own_output(result) for name, result in left.finished.items()})
            self.contexts.update({name: copy_context(context) for name, context in left.contexts.items()})
        todo = [branch for branch in self.branches if branch.name not in self.results]
        self.frame.usage = self.frame.usage.for_branches()
        limit = self.policy.max_concurrency
        try:
            async with asyncio.TaskGroup() as tasks:
                if limit is None or limit >= len(todo):
                    for number, branch in enumerate(todo, 1):
                        tasks.create_task(self._run_branch(branch))
                        if number % _STARTED_A_TURN == 0:
                            await asyncio.sleep(0)
                else:
                    queue = iter(todo)
                    for _ in range(limit):
                        tasks.create_task(self._work_off(queue))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if self._mistakes:
            self._raise_mistake()
        if self.frame.scope.control.halt is None:
            self._note_lost()
        if any(result.status == "paused" for result in self.results.values()):
            await self._keep_failures()

    def _raise_mistake(self) -> NoReturn:
        """Raise the first mistake, with what all branches came to in the frame's history."""
        first, *others = self._mistakes
        ran = [self.results[branch.name] for branch in self.branches if branch.name in self.results]
        unfinished = self.frame.scope.control.unfinished
        broken = [unfinished[mistake][1] for mistake in others if mistake in unfinished]
        self.frame.history = [*(self.frame.history or ()), *ran, *broken]
        raise first

    def _note_lost(self) -> None:
        """Give a result to branches that have none although nothing stopped them: they cancelled their own task."""
        for branch in self.branches:
            if branch.name not in self.results:
                is_started = branch.name in self.contexts
                why = "cancelled by its own code" if is_started else "not started: another was cancelled"
                self.results[branch.name] = StepResult(branch.step.name, success=False, attempts=0, feedback=why)

    async def _keep_failures(self) -> None:
        """Let no branch that failed run again while others wait, or because its failure is ignored."""
        if (durable := self.frame.scope.durable) is not None:
            for frame, result in self._failed:
                await durable.record(frame, result, None)
            self._failed.clear()

    async def _work_off(self, queue: Iterator[Branch]) -> None:
        for branch in queue:
            await self._run_branch(branch)

    async def _run_branch(self, branch: Branch) -> None:
        context = self.contexts.get(branch.name)
        if context is None:
            context = self._context_for(branch.step)
        frame = self.frame.child(branch.step, branch.data, at=branch.at, context=context)
        if self.frame.scope.control.halt is not None and not frame.was_at_work():
            return
        self.contexts[branch.name] = context
        try:
            result = await self.core.execute(frame)
        except FlujoError as mistake:
            self.frame.scope.control.abort(f"a mistake was found in {branch.step.describe()}: {mistake}")
            self._mistakes.append(mistake)
            return
        result.branch_context = context
        self.results[branch.name] = result
        if result.status == "failed":
            self._failed.append((frame, result))
            if self.policy.on_failure is BranchFailureStrategy.IGNORE:
                await self._keep_failures()

    def _context_for(self, step: BaseStep[Any, Any]) -> BaseModel:
        """Return a copy of the context: one of its own for a step that may change it, or else the one they share.

        What a merge function of the user's gets are copies in any case, for it may do with them what it likes.
        """
        shares = self._sharing.get(id(step))
        if shares is None:
            is_told = self.frame.scope.hooks is not None or not isinstance(self.policy.merge, MergeStrategy)
            shares = self._sharing[id(step)] = not is_told and not step.may_change_context
        if shares and self._shared is not None:
            return self._shared
        copied: BaseModel = copy_context(self.frame.context, include=self.policy.include)
        if shares:
            self._shared = copied
        return copied

    def conclude(self, output: Any, *, before: Sequence[StepResult] = ()) -> StepResult:
        """Return the step's result, with the contexts of the branches merged if it completed.

        Args:
            output: The step's output, made of `results`.
            before: Children that ran before the branches, such as a router.
        """
        ran = [self.results[branch.name] for branch in self.branches if branch.name in self.results]
        self.frame.history = [*before, *ran]
        if len(ran) < len(self.branches) or any(result.status in ("stopped", "aborted") for result in ran):
            return halted(self.frame, output)
        if any(result.status == "paused" for result in ran):
            return self._pause(ran)
        failed = [result for result in ran if not result.success]
        if failed and (self.policy.on_failure is BranchFailureStrategy.PROPAGATE or len(failed) == len(ran)):
            return conclude(self.frame, output, status="failed", feedback=self._blame())
        self._merge()
        return conclude(self.frame, output)

    def _blame(self) -> str:
        """Return which branches failed and why."""
        failed = [branch for branch in self.branches if not self.results[branch.name].success]
        told = [
            f"{branch.at.replace(':', ' ', 1)}: {blame(self.results[branch.name])}" for branch in failed[:_MOST_BLAMED]
        ]
        more = [f"and {len(failed) - _MOST_BLAMED} more"] if len(failed) > _MOST_BLAMED else []
        return "; ".join([*told, *more])

    def _pause(self, ran: Sequence[StepResult]) -> StepResult:
        """Keep what finished and the contexts of what waits; the questions come in order of declaration."""
        order = {branch.at: position for position, branch in enumerate(self.branches)}
        depth = len(self.frame.path)
        self.frame.scope.control.arrange_waiting(self.frame.path, lambda asked: order[asked.path[depth]])
        waiting = {name for name, result in self.results.items() if result.status == "paused"}
        finished = {name: result for name, result in self.results.items() if name not in waiting}
        contexts = {name: self.contexts[name] for name in waiting if self.contexts[name] is not self._shared}
        self.frame.save(_BranchesCheckpoint(finished, contexts))
        first = next(result for result in ran if result.status == "paused")
        return conclude(self.frame, status="paused", feedback=first.feedback)

    def _merge(self) -> None:
        """Bring back the contexts of the branches that completed."""
        policy = self.policy
        if policy.merge is MergeStrategy.NO_MERGE:
            return
        merge = policy.merge
        if not isinstance(merge, MergeStrategy):
            merge = functools.partial(call_user, "merge_strategy", merge)
        ran = [(branch.name, self.results[branch.name]) for branch in self.branches]
        completed = {
            name: result.branch_context
            for name, result in ran
            if result.success and result.branch_context is not self._shared
        }
        merge_branches(
            self.frame.context,
            completed,
            self.frame.context,
            merge,
            _allowed_fields(completed, policy),
            OWNED_BY_THE_RUN,
        )


def _with_own_output(result: StepResult) -> StepResult:
    """Return a result whose output the steps that follow may change, though the paused run keeps it as well."""
    own = copy.copy(result)
    own.output = copy_value(result.output)
    return own


def _allowed_fields(branches: Collection[str], policy: BranchPolicy) -> Mapping[str, Sequence[str]] | None:
    """Return which fields each branch may bring back; `None` for all."""
    if policy.include is None:
        return policy.field_mapping
    mapping = policy.field_mapping or {}
    return {name: [key for key in mapping.get(name, policy.include) if key in policy.include] for name in branches}
