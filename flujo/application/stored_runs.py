"""The stored runs of one runner: begun, found again, answered."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from flujo.application.core.durable_journal import INTERNAL_TYPES, DurableJournal
from flujo.application.core.fingerprints import Fingerprints
from flujo.application.core.outcome import pipeline_result
from flujo.application.core.pausing import remember
from flujo.application.resuming import accepted_answer, asked_step
from flujo.domain.models import HumanInteraction, RefinementCheck, StepPath
from flujo.domain.pipeline import Pipeline, SubPipelineStep
from flujo.domain.policies import ValidationResult
from flujo.domain.results import PipelineResult, RunStatus, Waiting
from flujo.domain.step import AgentStep
from flujo.domain.type_compatibility import type_name
from flujo.exceptions import AnswerRejectedError, SerializationError, StateCorruptedError, StateError
from flujo.state.backend import StateBackend
from flujo.state.ownership import Owner
from flujo.state.records import RunRecord, StoredRun, running_order
from flujo.steps.hitl import HumanInTheLoopStep
from flujo.steps.sub_pipeline import SubPipelineCheckpoint
from flujo.utils.background import begin_in_background
from flujo.utils.clock import Clock
from flujo.utils.codec import Codec, to_json_text
from flujo.utils.declared_types import DeclaredTypes
from flujo.utils.storable_types import unstorable_class

_log = logging.getLogger("flujo.state")

_RENEWALS_PER_LEASE = 3


@dataclass(slots=True)
class OpenRun:
    """A stored run that this process owns.

    Attributes:
        journal: Its journal.
        data: The input it began with.
        context: A context as it began, with what people have said since.
    """

    journal: DurableJournal
    data: Any
    context: BaseModel


class StoredRuns:
    """Opens the stored runs of one pipeline.

    Args:
        backend: The store.
        pipeline: The pipeline.
        context_model: The model of the runs' contexts.
        name: What the pipeline is called.
        version: Which version of it this is.
        clock: Tells the time.
        origin: Where runs that begin here come from, as JSON; `None` if nobody needs to know.
        is_optional: Whether a run goes on without the store where a value cannot be stored.
    """

    def __init__(
        self,
        backend: StateBackend,
        pipeline: Pipeline[Any, Any],
        context_model: type[BaseModel],
        *,
        name: str,
        version: str,
        clock: Clock,
        origin: Mapping[str, Any] | None = None,
        is_optional: bool = False,
    ) -> None:
        self.backend = backend
        self._is_optional = is_optional
        self._pipeline = pipeline
        self._name, self._version, self._clock = name, version, clock
        self._origin = {} if origin is None else {"origin": origin}
        self._context_model = context_model
        self._is_checked = False
        self._codec = Codec(DeclaredTypes(_declared(pipeline, context_model)))
        self._fingerprints = Fingerprints(pipeline)

    def check(self) -> None:
        """Check, until it holds, that values of all declared types can be stored.

        Raises:
            SerializationError: A step, a question or the context declares a type whose values never can be.
        """
        if not self._is_checked:
            _check_declared(self._pipeline, self._context_model)
            self._is_checked = True

    def takes(self, data: Any, context: BaseModel) -> bool:
        """Tell whether a run with this input and context can be kept; raises what `begun` does if it has to be."""
        try:
            self.check()
            self._encoded_start(data, context)
        except SerializationError as error:
            if not self._is_optional:
                raise
            _log.warning("the run is not kept: %s", error)
            return False
        return True

    def _encoded_start(self, data: Any, context: BaseModel) -> str:
        return to_json_text(
            {
                "input": self._codec.encode(data, "the input"),
                "context": self._codec.encode(context, "the context"),
                **self._origin,
            }
        )

    @asynccontextmanager
    async def begun(
        self, run_id: str, data: Any, context: BaseModel, *, allow_changes: bool
    ) -> AsyncGenerator[OpenRun | PipelineResult[Any]]:
        """Begin a run, or go on with the one of this identity; gives the result of one that completed.

        Raises:
            SerializationError: The input or the context holds a value that would not come back as it is.
            RunOwnedError: Another process runs it.
            StateError: It cannot be stored, is damaged, or is of another pipeline.
        """
        self.check()
        now = self._clock.now()
        start = self._encoded_start(data, context)
        record = RunRecord(
            run_id=run_id,
            pipeline_name=self._name,
            pipeline_version=self._version,
            created_at=now,
            updated_at=now,
            start=start,
        ).sealed()
        async with self._owner_of(run_id) as owner:
            is_new = await self.backend.create(record, owner)
            stored = StoredRun(record, []) if is_new else await self.backend.claim(run_id, owner)
            yield self._opened(stored, owner, allow_changes=allow_changes)

    @asynccontextmanager
    async def found(self, run_id: str, *, allow_changes: bool) -> AsyncGenerator[OpenRun | PipelineResult[Any]]:
        """Go on with a run; raises what `begun` does, and `RunNotFoundError` if there is none."""
        self.check()
        async with self._owner_of(run_id) as owner:
            yield self._opened(await self.backend.claim(run_id, owner), owner, allow_changes=allow_changes)

    async def waiting_in(self, run_id: str, *, allow_changes: bool) -> list[Waiting]:
        """Return the steps of a run that wait for a person, whoever owns the run; raises what `found` does."""
        stored = await self.backend.load(run_id)
        return self.waiting(self._open(stored, Owner(), allow_changes=allow_changes))

    def waiting(self, run: OpenRun) -> list[Waiting]:
        """Return the steps of a run that wait for a person, in the order of their addresses."""
        asked = run.journal.asked
        return [
            Waiting(
                path=path,
                step_name=self._name_of(path),
                message=asked[path].message,
                input_schema=self._schema_of(path),
            )
            for path in sorted(asked, key=running_order)
        ]

    async def answer(self, run: OpenRun, human_input: Any, path: Sequence[str] | None) -> None:
        """Store a person's answer to a waiting step, once it is known to fit.

        Raises:
            StateError: The run does not wait, or several steps do and `path` does not say which one is answered.
            AnswerRejectedError: The answer does not fit, came twice, or nobody waits at `path`.
        """
        run_id, waiting = run.journal.run_id, self.waiting(run)
        if path is not None and run.journal.is_answered(tuple(path)):
            raise AnswerRejectedError(f"the step at {tuple(path)!r} of run {run_id!r} has been answered already")
        if not waiting and run.journal.answers:
            raise AnswerRejectedError(f"run {run_id!r} has been answered already; run it again by its run_id")
        if not waiting:
            raise AnswerRejectedError(f"run {run_id!r} does not wait for an answer")
        asked = asked_step(waiting, path)
        remember(await run.journal.answer(asked.path, accepted_answer(asked, human_input)), run.context)

    @asynccontextmanager
    async def _owner_of(self, run_id: str) -> AsyncGenerator[Owner]:
        """Give an owner for a run, whose lease is renewed while the block runs, and which then lets it go."""
        owner = Owner()
        owner.enter()
        renewal = begin_in_background(self._renew(run_id, owner))  # cancelled and awaited below
        try:
            yield owner
        finally:
            owner.leave()
            renewal.cancel()
            await asyncio.wait([renewal])
            await self._let_go(run_id, owner)

    async def _let_go(self, run_id: str, owner: Owner) -> None:
        """Let a run belong to nobody, if it still has this owner; it has none if the run came to its end."""
        try:
            await self.backend.release(run_id, owner)
        except StateError as error:  # the lease runs out, and what happened before says more
            _log.debug("run %s could not be let go: %s", run_id, error)

    def _opened(self, stored: StoredRun, owner: Owner, *, allow_changes: bool) -> OpenRun | PipelineResult[Any]:
        run = self._open(stored, owner, allow_changes=allow_changes)
        return self._result(stored, run) if stored.record.status == "completed" else run

    async def _renew(self, run_id: str, owner: Owner) -> None:
        while True:
            await asyncio.sleep(self.backend.lease_s / _RENEWALS_PER_LEASE)
            try:
                await self.backend.renew(run_id, owner)
            except StateError as error:  # what the run writes next tells it so
                _log.warning("the lease of run %s was not renewed: %s", run_id, error)

    def _open(self, stored: StoredRun, owner: Owner, *, allow_changes: bool) -> OpenRun:
        journal = DurableJournal(
            self.backend,
            owner,
            stored,
            codec=self._codec,
            fingerprints=self._fingerprints,
            clock=self._clock,
            allow_changes=allow_changes,
            is_optional=self._is_optional,
        )
        data, context = self._start_of(stored.record)
        remember(journal.interactions(()), context)
        return OpenRun(journal, data, context)

    def _start_of(self, record: RunRecord) -> tuple[Any, BaseModel]:
        try:
            start = json.loads(record.start)
            return self._codec.decode(start["input"]), self._codec.decode(start["context"])
        except SerializationError as error:
            raise SerializationError(f"run {record.run_id!r}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StateCorruptedError(f"the start of run {record.run_id!r} is damaged", run_id=record.run_id) from error

    def _result(self, stored: StoredRun, run: OpenRun) -> PipelineResult[Any]:
        """Return what a run came to that completed, made of its journal."""
        history = run.journal.replay(run.context)
        status: RunStatus = "completed"
        return pipeline_result(stored.record.run_id, status, history[-1].output, history, run.context, ())

    def _name_of(self, path: StepPath) -> str:
        step = self._fingerprints.find(path)
        return path[-1] if step is None else step.name

    def _schema_of(self, path: StepPath) -> Any:
        step = self._fingerprints.find(path)
        return step.input_schema if isinstance(step, HumanInTheLoopStep) else None


def _declared(pipeline: Pipeline[Any, Any], context_model: type[BaseModel]) -> Iterable[Any]:
    """Yield the types that a pipeline declares, and those that flujo itself stores."""
    yield from (context_model, HumanInteraction, RefinementCheck, ValidationResult, PipelineResult[Any], Waiting)
    yield from (SubPipelineCheckpoint, *INTERNAL_TYPES)
    for step in pipeline.walk():
        yield from (step.input_type, step.output_type)
        if isinstance(step, HumanInTheLoopStep):
            yield step.input_schema
        if isinstance(step, SubPipelineStep):
            yield step.context_model


def _check_declared(pipeline: Pipeline[Any, Any], context_model: type[BaseModel]) -> None:
    """Raise if values of a type that a pipeline declares can never be stored; nothing has been spent yet."""
    _check_fields("the context", context_model)
    for step in pipeline.walk():
        is_processed = isinstance(step, AgentStep) and step.processors.output_processors  # which may give anything
        if not is_processed and not any(step.children()):  # or else its output is made of theirs
            _refuse_unstorable(f"{step.describe()} gives", step.output_type)
        if isinstance(step, SubPipelineStep):
            _check_fields(f"the context of {step.describe()}", step.context_model)


def _check_fields(what: str, model: type | None) -> None:
    if model is not None and issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            _refuse_unstorable(f"{what} has the field {name!r} of the type", field.annotation)


def _refuse_unstorable(what: str, declared: Any) -> None:
    cls = unstorable_class(declared)
    if cls is not None:
        name = cls.__qualname__
        raise SerializationError(
            f"{what} {type_name(declared)}, but flujo cannot store {name}; "
            f"call register_custom_serializer({name}, ...) and register_custom_deserializer({name}, ...)"
        )
