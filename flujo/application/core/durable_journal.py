"""The journal of a run that survives: what finished is stored, and not run again when the run goes on.

To resume is to run again from the start. A step that finished returns at once, with the effect it had: its result,
what it changed in the context, what it cost. So a pause or a crash inside a loop inside a branch needs no code
of its own, and kinds of step of the user's are durable like all others.

When a step that is made of steps finishes, its entry takes the place of theirs: the journal holds the frontier of the
run, and what is written for a step depends on what it gave and changed, not on what came before.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from operator import attrgetter
from typing import Any

from pydantic import BaseModel

from flujo.application.core.budget_desk import BudgetDesk
from flujo.application.core.context_changes import apply_context_change, context_change
from flujo.application.core.fingerprints import Fingerprints
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.frontier import Frontier
from flujo.application.core.state_manager import Question, StateManager
from flujo.application.core.stored_results import StoredResults
from flujo.application.core.ultra_executor import FellBack
from flujo.application.core.usage_governor import UsageGovernor
from flujo.domain.metering import MeteredCall
from flujo.domain.models import HumanInteraction, StepPath
from flujo.domain.money import ZERO, add_usd
from flujo.domain.pipeline import SubPipelineStep
from flujo.domain.results import StepResult
from flujo.domain.step import AgentStep
from flujo.exceptions import PipelineChangedError, SerializationError, StateCorruptedError
from flujo.state.backend import StateBackend
from flujo.state.budgets import BudgetChange, BudgetOutcome, BudgetRequest, RunWrite
from flujo.state.ownership import Owner
from flujo.state.records import EntryKind, JournalEntry, JournalWrite, StoredRun, StoredStatus, read_path, written_path
from flujo.utils.clock import Clock
from flujo.utils.codec import Codec, to_json_text
from flujo.utils.copying import copy_context

_log = logging.getLogger("flujo.state")


@dataclass(slots=True, frozen=True)
class _Spent:
    """What a step paid without finishing, and how it ended last."""

    cost: Decimal
    tokens: int
    attempts: int
    name: str
    status: str
    feedback: str | None
    latency_s: float
    changed: Any = None
    """What the attempts so far changed in the context, if more of them were to come."""
    calls: tuple[MeteredCall, ...] = ()
    """What was metered of the cost."""
    goes_on_after: int | None = None
    """If it was left in the midst of an attempt, how many came before that one; `None` if it was not."""
    told: str | None = None
    """What that attempt is told was wrong with the one before."""

    @property
    def is_unfinished(self) -> bool:
        """Whether the step had attempts left when this was stored."""
        return self.status == "completed"

    @property
    def counts(self) -> bool:
        """Whether it is part of what the step comes to in the end."""
        return self.is_paid or self.is_unfinished or self.goes_on_after is not None

    def left(self, result: StepResult) -> "_Spent":
        """Return the same of a step that was left in the midst of its next attempt, and why it was."""
        goes_on_after, told = (self.attempts, self.feedback) if self.is_unfinished else (self.goes_on_after, self.told)
        return replace(
            self,
            name=result.name,
            status=result.status,
            feedback=result.feedback,
            latency_s=result.latency_s,
            goes_on_after=goes_on_after or 0,
            told=told,
        )

    @property
    def is_paid(self) -> bool:
        """Whether it cost anything; what was free counts as if it had not been."""
        return bool(self.cost or self.tokens)


@dataclass(slots=True, frozen=True)
class _Held:
    """What attempts at a step that did not come to an end have paid or may have paid, but for what calls gave."""

    cost: Decimal
    tokens: int
    calls: tuple[MeteredCall, ...] = ()
    """The same, attempt by attempt."""


@dataclass(slots=True, frozen=True)
class _Call:
    """What a call of an attempt gave that did not come to an end."""

    key: str
    value: Any
    cost: Decimal
    tokens: int
    label: str | None = None
    is_uncertain: bool = False

    def charged(self) -> MeteredCall:
        """Return what it was charged."""
        return MeteredCall(self.label, self.cost, self.tokens, self.is_uncertain)


@dataclass(slots=True, frozen=True)
class _Said:
    """What a person said to a step, and the step whose context it is kept in."""

    interaction: HumanInteraction
    home: str


class DurableJournal(StateManager):
    """The journal of one run in a store.

    Args:
        backend: The store.
        owner: Who runs the run.
        stored: The run as the store has it.
        codec: Writes and reads values.
        fingerprints: Of the steps of the pipeline.
        clock: Tells the time.
        allow_changes: Whether steps may differ from those that finished.
        is_optional: Whether a value that cannot be stored is left out with a warning; its step runs again if the run
            goes on.

    Raises:
        StateCorruptedError: What is stored is damaged.
        PipelineChangedError: A step that finished is another one in this pipeline, or is gone.
    """

    def __init__(
        self,
        backend: StateBackend,
        owner: Owner,
        stored: StoredRun,
        *,
        codec: Codec,
        fingerprints: Fingerprints,
        clock: Clock,
        allow_changes: bool = False,
        is_optional: bool = False,
    ) -> None:
        super().__init__()
        self._is_optional, self._has_gaps = is_optional, False
        record = stored.record
        self.run_id = record.run_id
        self._backend, self.owner, self._codec, self._clock = backend, owner, codec, clock
        self._fingerprints = fingerprints
        self._seal = record.seal
        self._stored_head = record.head
        self._frontier = Frontier()
        self._last_number = 0
        self._done: dict[str, dict[str, Any]] = {}
        self._spent: dict[str, _Spent] = {}
        self._lost: dict[str, _Held] = {}  # in flight when the run ended
        self._calls: dict[str, list[tuple[int, _Call]]] = {}  # that an attempt under way then had made, by number
        self._made_calls: dict[str, list[int]] = {}  # that are part of the attempt under way now
        self._calls_of_step: dict[str, list[int]] = {}  # that another attempt does not make again
        self._unfinished: dict[str, _Spent] = {}  # what attempts came to that more are to follow, in this run
        self._left_off: dict[str, _Spent] = {}  # what came before attempts that go on when the run does
        self._changed: dict[StepPath, Any] = {}  # by steps that did not finish
        self._at_work: dict[StepPath, tuple[BaseModel, BaseModel]] = {}  # context before and now
        self._said: list[_Said] = []
        self._results = StoredResults(codec)
        self._is_buffered = backend.durability == "exit"
        self._buffer: dict[int, JournalEntry] = {}
        self._removed: list[int] = []
        self._writing = asyncio.Lock()
        self._added = self._stored = 0
        self._last_task = id(asyncio.current_task())  # that added something
        self._open(stored, allow_changes=allow_changes)
        self.governor: UsageGovernor | None = None
        self.budgets: BudgetDesk | None = None

    # Going on

    def spent_within(self, path: StepPath = ()) -> tuple[Decimal, int]:
        """Return the dollars and tokens that steps at `path` and below spent without finishing."""
        cost, tokens = ZERO, 0
        unfinished: list[tuple[str, _Spent | _Held | _Call]] = [*self._spent.items(), *self._lost.items()]
        unfinished += [(written, call) for written, calls in self._calls.items() for _, call in calls]
        for written, each in unfinished:
            if read_path(written)[: len(path)] == path:
                cost, tokens = add_usd(cost, each.cost), tokens + each.tokens
        return cost, tokens

    @property
    def asked(self) -> dict[StepPath, Question]:
        """The questions that wait for an answer, by the address of the step that asked."""
        return {
            path: question
            for path, question in self.found.items()
            if isinstance(question, Question) and path not in self.answers
        }

    def interactions(self, home: StepPath) -> list[HumanInteraction]:
        """Return what people have said to the steps whose home is the context of the step at `home`, in order."""
        written = written_path(home)
        return [each.interaction for each in self._said if each.home == written]

    def is_answered(self, path: StepPath) -> bool:
        """Tell whether a person has answered the step at this address already."""
        return path in self.answers or written_path(path) in self._done

    def has_begun(self, path: StepPath) -> bool:
        """Tell whether the step at `path`, or one within it, was at work before the run went on."""
        return self._frontier.knows(written_path(path))

    def has_begun_within(self, path: StepPath) -> bool:
        """Tell whether a step within the one at `path` was at work before the run went on."""
        return self._frontier.has_inner(written_path(path))

    def recall(self, frame: ExecutionFrame[Any]) -> StepResult | None:
        """Return the result of a step that finished before, and let it have its effects; `None` if it did not."""
        data = self._done.pop(written_path(frame.path), None) if self._done else None
        if data is None:
            return None
        result = self._read(data, frame.context)
        if result.cost or result.token_counts:
            frame.usage.recall(result.cost, result.token_counts)
        if len(frame.path) > 1:
            self._results.know(result, data["result"], data["at"])
        return result

    def _open(self, stored: StoredRun, *, allow_changes: bool) -> None:
        record = stored.record
        for entry in stored.entries:
            if not entry.is_intact(self.run_id):
                raise self._damaged(f"the entry of step {entry.path}")
            self._frontier.put(entry)
        is_whole = self._frontier.head == record.head and len(stored.entries) == record.entry_count
        if not is_whole or not record.is_intact():
            raise self._damaged(f"its record, or one of its {record.entry_count} entries,")
        entries = sorted(stored.entries, key=_number)
        self._last_number = entries[-1].number if entries else 0
        payloads = json.loads(f"[{','.join([entry.payload for entry in entries])}]")  # a third faster than one by one
        for entry, data in zip(entries, payloads, strict=True):
            path = read_path(entry.path)
            match entry.kind:
                case "done":
                    self._check_step(path, data["step"], allow_changes=allow_changes)
                    data["at"] = entry.at
                    self._done[entry.path] = data
                case "spent":
                    self._spent[entry.path] = spent = self._decoded(data)
                    if spent.changed is not None:
                        self._changed[path] = spent.changed
                case "held":
                    self._lost[entry.path] = self._decoded(data)
                case "call":
                    self._calls.setdefault(entry.path, []).append((entry.number, self._decoded(data)))
                case "answer":
                    self._note_said(path, self._decoded(data))
                case "asked" | "note":
                    if entry.kind == "asked" and self._frontier.has(entry.path, "note"):
                        continue  # a note counts more than a question
                    self.found[path] = left = self._decoded(data)
                    if isinstance(left, Question | FellBack) and left.changed is not None:
                        self._changed[path] = left.changed

    def _check_step(self, path: StepPath, fingerprint: str, *, allow_changes: bool) -> None:
        step = self._fingerprints.find(path)
        if allow_changes or (step is not None and self._fingerprints.of(step) == fingerprint):
            return
        what = f"{step.describe()} is another one now" if step is not None else "there is no such step any more"
        raise PipelineChangedError(
            f"run {self.run_id!r} finished the step at {'/'.join(path)}, but {what}; run it with the pipeline it began "
            "with, or go on with allow_changes=True",
            run_id=self.run_id,
            path=path,
        )

    def _damaged(self, what: str) -> StateCorruptedError:
        return StateCorruptedError(f"{what} of run {self.run_id!r} is damaged in the store", run_id=self.run_id)

    def _decoded(self, data: Any) -> Any:
        try:
            return self._codec.decode(data)
        except SerializationError as error:
            raise self._unreadable(error) from error

    def _read(self, data: dict[str, Any], context: BaseModel) -> StepResult:
        """Return the result of an entry, and make its change of the context again."""
        try:
            result = self._results.read(data["result"])
        except SerializationError as error:
            raise self._unreadable(error) from error
        if "context" in data:
            apply_context_change(context, self._decoded(data["context"]))
        return result

    def _unreadable(self, error: SerializationError) -> SerializationError:
        return SerializationError(f"run {self.run_id!r}: {error}")

    def replay(self, context: BaseModel) -> list[StepResult]:
        """Return the results of the steps of a run that completed, and let its context become what it was."""
        history: list[StepResult] = []
        while (data := self._done.get(str(len(history)))) is not None:
            history.append(self._read(data, context))
        if not history:
            raise self._damaged("the history")
        return history

    # Recording

    def before(self, frame: ExecutionFrame[Any]) -> BaseModel | None:
        """Return a copy of a step's context to compare with afterwards; `None` if the step cannot change it.

        What the step changed before the run went on, and without finishing, is changed again.
        """
        if not frame.may_change_context:
            return None
        context: BaseModel = frame.context
        before = copy_context(context)
        if self._changed and (change := self._changed.pop(frame.path, None)) is not None:
            apply_context_change(context, change)
        if frame.step.fallback_step is not None or isinstance(frame.step, AgentStep):
            self._at_work[frame.path] = before, context
        return before

    async def record(self, frame: ExecutionFrame[Any], result: StepResult, before: BaseModel | None) -> None:
        """Store that a step finished: its result, what it changed in the context and what it cost, at once.

        Of a step that waits the question takes the place of the result.

        Raises:
            SerializationError: The result holds a value that would not come back as it is.
        """
        path = written_path(frame.path)
        self._at_work.pop(frame.path, None)
        change = None if before is None else context_change(before, frame.context)
        if result.status == "paused":
            await self._ask(frame.path, result, change)
            return
        try:
            data = self._results.write(result)
            written: dict[str, Any] = {"step": self._fingerprints.of(frame.step), "result": data}
            if change is not None:
                written["context"] = self._encoded_change(change, frame.context)
        except SerializationError as error:
            self._leave_out(path, error)
            return
        at = await self._put(path, "done", written, folds=self._frontier.knows(path))
        if len(frame.path) > 1:  # or else there is no step around it
            self._results.know(result, data, at)

    def _leave_out(self, path: str, error: SerializationError) -> None:
        """Do without an entry, if that is allowed.

        Raises:
            SerializationError: It is not.
        """
        if not self._is_optional:
            raise error
        if not self._has_gaps:
            _log.warning("the step at %s is not kept, and runs again if the run goes on: %s", path, error)
        self._has_gaps = True

    def _encoded_change(self, change: Any, context: BaseModel) -> Any:
        try:
            return self._codec.encode(change, "a change of the context")
        except SerializationError:
            self._codec.encode(context, "context")  # names the place as the user knows it
            raise

    async def _ask(self, path: StepPath, result: StepResult, change: Any) -> None:
        """Store what a step asks; at once if it would have to be paid for again, or else when the run pauses."""
        question, written = self.left.get(path), written_path(path)
        if not isinstance(question, Question) or self._frontier.has(written, "asked"):
            return
        if result.cost or result.token_counts or change is not None:
            whole = Question(
                question.message, result.attempts, result.cost, result.token_counts, change, tuple(result.calls)
            )
            await self._put(written, "asked", self._codec.encode(whole), folds=self._frontier.knows(written))

    async def spend(self, path: StepPath, result: StepResult) -> None:
        """Store what a step has spent without finishing, before this run went on and since, and how it ended."""
        written = written_path(path)
        if self._frontier.has_inner(written):
            return  # its result is that of a step within it, where this is stored already
        if (earlier := self._left_off.pop(written, None)) is not None:
            await self._put(written, "spent", self._codec.encode(earlier.left(result)))
            return
        cost, tokens, attempts, calls = result.cost, result.token_counts, result.attempts, tuple(result.calls)
        before = self._spent.get(written)
        if before is not None and before.counts:
            cost, tokens, attempts = add_usd(cost, before.cost), tokens + before.tokens, attempts + before.attempts
            calls = (*before.calls, *calls)
        contexts = self._at_work.get(path) if result.success else self._at_work.pop(path, None)
        change = context_change(*contexts) if contexts is not None and result.success else None
        spent = _Spent(
            cost, tokens, attempts, result.name, result.status, result.feedback, result.latency_s, change, calls
        )
        self._set_held(written, ())
        made = self._made_calls.pop(written, [])
        if spent.is_unfinished:
            self._unfinished[written] = spent
        else:
            self._unfinished.pop(written, None)
            made += self._calls_of_step.pop(written, [])
        for number in made:
            self._frontier.drop_call(written, number)
            self._remove(number)
        await self._put(written, "spent", self._codec.encode(spent))

    async def leave(self, path: StepPath, held: Sequence[MeteredCall]) -> None:
        """Store what the attempt at a step that is under way has paid, because it goes on when the run does."""
        written = written_path(path)
        earlier = self._unfinished.get(written) or self._spent.get(written)
        if earlier is None or not earlier.counts:
            earlier = _Spent(ZERO, 0, 0, "", "stopped", None, 0.0)
        self._left_off[written] = earlier
        await self.hold(path, held)

    def keep_calls_of_step(self, path: StepPath) -> None:
        """Let the calls that were kept so far belong to a step, and not to the attempt under way."""
        written = written_path(path)
        self._calls_of_step.setdefault(written, []).extend(self._made_calls.pop(written, ()))

    async def hold(self, path: StepPath, held: Sequence[MeteredCall]) -> None:
        """Store what the attempt at a step that is under way has paid or may pay, before it pays it."""
        self._set_held(written_path(path), held)
        await self._store()

    def note_held(self, path: StepPath, held: Sequence[MeteredCall]) -> None:
        """Let what is stored next say what the attempt at a step has paid or may pay by now."""
        if not self._is_buffered:
            self._set_held(written_path(path), held)

    async def settle(self) -> None:
        """Store what calls have used, with what the run says of it."""
        async with self._writing:
            if self.budgets is not None and not self.budgets.is_settled:
                await self._flush("running", releases=False)

    async def hold_in_budgets(
        self, path: StepPath, held: Sequence[MeteredCall], before: Sequence[MeteredCall], request: BudgetRequest
    ) -> BudgetOutcome:
        """Do the same, and reserve its next call in shared budgets, both at once or neither."""
        assert self.budgets is not None, "a run whose calls are in budgets has a desk for them"
        if self._is_buffered:
            return await self.budgets.ask(request)
        written = written_path(path)
        async with self._writing:
            while not self.budgets.is_settled:  # what ends is stored, whether or not the call may begin
                await self._flush("running", releases=False)
            self._set_held(written, held)
            outcome = await self._flush("running", releases=False, request=request)
            if not outcome.is_granted:
                self._set_held(written, before)
        return outcome

    def recall_call(self, path: StepPath, key: str) -> tuple[Any, MeteredCall] | None:
        """Return what a call gave, and was charged, that an attempt made before the run was killed.

        Each is returned once; `None` if there is none of this key.
        """
        written = written_path(path)
        calls = self._calls.get(written, ())
        for position, (number, call) in enumerate(calls):
            if call.key == key:
                del self._calls[written][position]
                self._made_calls.setdefault(written, []).append(number)
                return call.value, call.charged()
        return None

    def recall_answer(self, path: StepPath, key: str) -> tuple[Any, list[MeteredCall]] | None:
        """Return what an attempt gave that was not judged when the run was killed, and what its calls were charged."""
        written = written_path(path)
        calls = self._calls.get(written, ())
        for position, (_, answer) in enumerate(calls):
            if answer.key == key:
                made, self._calls[written] = calls[: position + 1], [*calls[position + 1 :]]
                self._made_calls.setdefault(written, []).extend(number for number, _ in made)
                return answer.value, [call.charged() for _, call in made]
        return None

    async def keep_call(
        self, path: StepPath, key: str, value: Any, call: MeteredCall, held: Sequence[MeteredCall]
    ) -> None:
        """Store what a call gave and was charged, and what the attempt has paid or may pay besides.

        Raises:
            SerializationError: The value would not come back as it is.
        """
        written = written_path(path)
        kept = _Call(key, value, call.cost, call.tokens, call.label, call.is_uncertain)
        encoded = self._codec.encode(kept, "the result of a call")
        self._set_held(written, held)
        entry = self._add(written, "call", to_json_text(encoded))
        self._made_calls.setdefault(written, []).append(entry.number)
        await self._store()

    def _set_held(self, written: str, now: Sequence[MeteredCall]) -> None:
        """Let this be what the attempt under way has paid or may pay, besides what the store had when the run ended."""
        lost = self._lost.get(written, _NOTHING_HELD)
        cost, tokens = lost.cost, lost.tokens
        for call in now:
            cost, tokens = add_usd(cost, call.cost), tokens + call.tokens
        held = _Held(cost, tokens, (*lost.calls, *now))
        if held != _NOTHING_HELD:
            self._add(written, "held", to_json_text(self._codec.encode(held)))
        elif (number := self._frontier.drop(written, "held")) is not None:
            self._remove(number)

    def attempts_before(self, path: StepPath) -> tuple[int, str | None]:
        """Return the attempts made at a step when the run ended in their midst, and what was wrong with the last.

        A step that had no attempts left starts afresh.
        """
        before = self._spent.get(written_path(path)) if self._spent else None
        if before is None:
            return 0, None
        if before.goes_on_after is not None:
            return before.goes_on_after, before.told
        return (before.attempts, before.feedback) if before.is_unfinished else (0, None)

    def add_spent(self, path: StepPath, result: StepResult) -> None:
        """Add to a step's result what it spent before this run went on."""
        if not (self._spent or self._calls or self._lost):
            return
        written, calls = written_path(path), list[MeteredCall]()
        before = self._spent.get(written)
        if before is not None and before.counts:
            result.cost = add_usd(result.cost, before.cost)
            result.token_counts += before.tokens
            result.attempts += before.attempts
            calls += before.calls
        for _, call in self._calls.get(written, ()):
            result.cost, result.token_counts = add_usd(result.cost, call.cost), result.token_counts + call.tokens
            if call.cost or call.tokens:
                calls.append(call.charged())
        if (lost := self._lost.get(written)) is not None:
            result.cost, result.token_counts = add_usd(result.cost, lost.cost), result.token_counts + lost.tokens
            calls += lost.calls
        result.add_earlier_calls(calls)

    async def note(self, path: StepPath, checkpoint: object) -> None:
        """Store where the step at `path` stands, in place of all that was stored of it."""
        written = written_path(path)
        if isinstance(checkpoint, FellBack):
            self.add_spent(path, checkpoint.primary)  # what was stored of it is folded
            self._spent.pop(written, None)
            contexts = self._at_work.get(path)
            change = None if contexts is None else context_change(*contexts)
            checkpoint = replace(checkpoint, changed=change)
        try:
            encoded = self._codec.encode(checkpoint, "what is noted")
        except SerializationError as error:
            self._leave_out(written, error)
            return
        await self._put(written, "note", encoded, folds=self._frontier.knows(written))

    async def answer(self, path: StepPath, answer: Any) -> list[HumanInteraction]:
        """Store what a person answered to the step at `path`, which has asked.

        Returns:
            What was said, if the context of the run keeps it; nothing if that of a sub-pipeline does.

        Raises:
            SerializationError: The answer would not come back as it is.
        """
        interaction = HumanInteraction(
            message_to_human=self.asked[path].message, human_response=answer, timestamp=self._clock.now()
        )
        said = _Said(interaction, written_path(self._home_of(path)))
        written = self._codec.encode(said, "the answer")
        self._note_said(path, said)
        await self._put(written_path(path), "answer", written, is_urgent=True)
        return [] if said.home else [interaction]

    def _note_said(self, path: StepPath, said: _Said) -> None:
        self._said.append(said)
        self.answers[path] = said.interaction.human_response

    def _home_of(self, path: StepPath) -> StepPath:
        """Return the address of the innermost wall around a step; that of the run if there is none."""
        for length in range(len(path) - 1, 0, -1):
            step = self._fingerprints.find(path[:length])
            if isinstance(step, SubPipelineStep) and not step.inherit_context:
                return path[:length]
        return ()

    async def finish(self, status: StoredStatus, waiting: Iterable[StepPath] = ()) -> None:
        """Store how the run ended, with the questions it waits for, and let it go."""
        for path in waiting:
            question, written = self.left.get(path), written_path(path)
            if question is not None and not self._frontier.has(written, "asked"):
                self._add(written, "asked", to_json_text(self._codec.encode(question)))
        async with self._writing:
            await self._flush(status, releases=True)
        if status == "completed" and self._has_gaps:
            await self._backend.delete(self.run_id)  # it could not be read back

    async def _put(
        self, path: str, kind: EntryKind, data: Any, *, folds: bool = False, is_urgent: bool = False
    ) -> float:
        """Store an entry, and return the moment it was made at, in seconds since 1970."""
        if folds:
            for number in self._frontier.fold(path):
                self._remove(number)
            for of_attempts in (self._made_calls, self._calls_of_step, self._unfinished):
                of_attempts.pop(path, None)
        entry = self._add(path, kind, to_json_text(data))
        await self._store(is_urgent=is_urgent)
        return entry.at

    def _add(self, path: str, kind: EntryKind, payload: str) -> JournalEntry:
        self._last_number += 1
        now = self._clock.now().timestamp()
        entry = JournalEntry.sealed(self.run_id, self._last_number, path, kind, now, payload)
        replaced = self._frontier.put(entry)
        if replaced is not None:
            self._remove(replaced)
        self._buffer[entry.number] = entry
        self._added += 1
        return entry

    def _remove(self, number: int) -> None:
        if self._buffer.pop(number, None) is None:
            self._removed.append(number)

    async def _store(self, *, is_urgent: bool = False) -> None:
        """Return when everything added so far is stored; what branches add meanwhile is stored together.

        If only the end of the run is to be stored, it is, unless this is urgent.
        """
        if self._is_buffered and not is_urgent:
            return
        mine = self._added
        task = id(asyncio.current_task())
        if task != self._last_task:  # branches are at work, and others may be about to add something
            self._last_task = task
            await asyncio.sleep(0)
        async with self._writing:  # never taken twice by one task, and nothing else is awaited for within it
            if self._stored < mine:
                await self._flush("running", releases=False)

    async def _flush(
        self, status: StoredStatus, *, releases: bool, request: BudgetRequest | None = None
    ) -> BudgetOutcome:
        """Store what is buffered; one change at a time, because each builds on the one before.

        What calls have used is settled with what they gave. If there is a call to be reserved that may not begin yet,
        nothing is stored, and all stays buffered.
        """
        added = self._added
        cost, tokens = (ZERO, 0) if self.governor is None else (self.governor.total_cost, self.governor.total_tokens)
        head, count, now = self._frontier.head, len(self._frontier), self._clock.now().timestamp()
        change = JournalWrite(
            status=status,
            at=now,
            total_cost=cost,
            total_tokens=tokens,
            after=self._stored_head,
            head=head,
            entry_count=count,
            checksum=self._seal.checksum(status, now, cost, tokens, head, count),
            removed=self._removed,
            entries=list(self._buffer.values()),
            releases=releases,
        )
        before, self._stored_head = self._stored_head, head
        entries, self._buffer, self._removed = self._buffer, {}, []
        settlements = [] if self.budgets is None else self.budgets.take()
        if self.budgets is None or not (settlements or request):
            await self._backend.write(self.run_id, self.owner, change)
            self._stored = added
            return BudgetOutcome()
        run = RunWrite(self.run_id, self.owner, change)
        try:
            outcome = await self.budgets.store.change_budgets(BudgetChange(settlements, request), run)
        except Exception:  # not if it is cancelled, because then it is stored all the same
            self.budgets.put_back(settlements)
            raise
        if outcome.is_granted:
            self._stored = added
        else:
            self._stored_head = before
            self._buffer_again(entries, change.removed)
        if settlements:
            self.budgets.note(outcome)
        return outcome

    def _buffer_again(self, entries: dict[int, JournalEntry], removed: Sequence[int]) -> None:
        """Buffer what was not stored, but for entries that have been removed meanwhile."""
        later = self._removed
        self._removed = [*removed, *(number for number in later if number not in entries)]
        gone = set(later)
        self._buffer = {**{number: entry for number, entry in entries.items() if number not in gone}, **self._buffer}


_NOTHING_HELD = _Held(ZERO, 0)
_number = attrgetter("number")


INTERNAL_TYPES = (Question, FellBack, MeteredCall, _Spent, _Held, _Call, _Said)
"""What journals store besides values of the user's."""
