"""A step whose results are remembered: the declaration and the handler.

The key of a result is a digest of the step's definition, its input, and the context if a step within sees it.
What is stored under it is text: the output, what is said besides, and what the step changed in the context.
Of identical steps that run at once one makes the call, and the others wait for its result (see `single_flight`).
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from flujo.application.core.agent_call import CutShortError, within_deadline
from flujo.application.core.context import OWNED_BY_THE_RUN, changed_fields, update_context
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.outcome import conclude, end_with
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.cache.backends import ICacheBackend, InMemoryCache
from flujo.cache.definitions import definition_of
from flujo.cache.keys import digest, fields_of
from flujo.cache.single_flight import FLIGHTS, Ticket, Turn
from flujo.cache.stored_types import StoredTypes, stored_types
from flujo.domain.cost_ceiling import Ceiling
from flujo.domain.pipeline import BaseStep, Pipeline
from flujo.domain.results import CALLS, UNCERTAIN, StepResult
from flujo.domain.step import AgentStep
from flujo.exceptions import SerializationError
from flujo.steps.checks import check_cache, check_step
from flujo.utils.codec import Codec, to_json_text
from flujo.utils.copying import copy_context

InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT", covariant=True)

_log = logging.getLogger("flujo.cache")
_NOT_IN_THE_KEY = OWNED_BY_THE_RUN - {"initial_prompt"}


class CachedStep(BaseStep[InT, OutT]):
    """Runs a step once for each input and context, and returns the stored result from then on.

    Attributes:
        inner: The step whose results are remembered.
        cache_backend: Where they are kept; `None` for the runner's cache, or else one of the step's own.
        own_cache: The step's own cache, used if neither the step nor the runner names one.
    """

    def __init__(self, step: BaseStep[InT, OutT], cache_backend: ICacheBackend | None = None) -> None:
        check_step("cached", "the step", step)
        check_cache(f"step {step.name!r}", cache_backend)
        super().__init__(step.name)
        self.inner = step
        self.cache_backend = cache_backend
        self.own_cache = InMemoryCache()
        self.input_type, self.output_type = step.input_type, step.output_type

    def children(self) -> Iterable[tuple[str, BaseStep[Any, Any]]]:
        """Return the inner step."""
        return (("cached", self.inner),)

    def own_ceiling(self, inner: Sequence[Ceiling]) -> Ceiling:
        """Return that of the inner step: nothing may be remembered."""
        return Ceiling.sum_of(inner, "if nothing is remembered")

    @property
    def touches_context(self) -> bool:
        """A hit changes what the remembered step changed, and no more."""
        return False


@dataclass(slots=True)
class _Experience:
    """What running a cached step has taught this process.

    Attributes:
        types: The classes that may be found in the cache.
        warned: What the log was told of results that could not be stored.
    """

    types: StoredTypes
    warned: set[str] = field(default_factory=set[str])


_EXPERIENCES: "WeakKeyDictionary[CachedStep[Any, Any], _Experience]" = WeakKeyDictionary()


@dataclass(slots=True, frozen=True)
class _CachedCheckpoint:
    """Where a cached step stood: the key its result will have, and the context it started from."""

    key: str
    before: BaseModel | None


@dataclass(slots=True, frozen=True)
class _Place:
    """Where one result is kept: the cache, the key, and what reads and writes values."""

    cache: ICacheBackend
    start: _CachedCheckpoint
    codec: Codec
    warned: set[str]


@ExecutorCore.handles(CachedStep)
async def _handle_cached_step(core: ExecutorCore, step: CachedStep[Any, Any], frame: ExecutionFrame[Any]) -> StepResult:
    cache = next(cache for cache in (step.cache_backend, frame.scope.cache, step.own_cache) if cache is not None)
    start, durable = frame.checkpoint(_CachedCheckpoint), frame.scope.durable
    has_begun = start is not None or (durable is not None and durable.has_begun(frame.path))
    if start is None:
        try:
            start = _begin(step, frame)
        except SerializationError as error:
            return conclude(frame, status="failed", feedback=str(error))
    experience = _experience(step, frame)
    place = _Place(cache, start, Codec(experience.types), experience.warned)
    if has_begun:  # what it has paid for counts, whatever others have stored meanwhile
        return await _run(core, step, frame, place, None)
    ticket = FLIGHTS.board(cache, start.key)
    try:
        if ticket.turn is None:
            outcome = await within_deadline(frame.scope.control, ticket.outcome())
            if isinstance(outcome, str) and (hit := _hit(outcome, step, frame, place)) is not None:
                return hit
        if ticket.turn is Turn.LEAD:
            text = await _look_up(place)
            if text is not None and (hit := _hit(text, step, frame, place)) is not None:
                ticket.land(text)
                return hit
        with ticket.leading():
            return await _run(core, step, frame, place, ticket)
    except CutShortError:
        halt = frame.scope.control.halt
        assert halt is not None, "only a limit that was passed cuts short"
        return halt.refuse(step)
    finally:
        ticket.leave()


async def _run(
    core: ExecutorCore, step: CachedStep[Any, Any], frame: ExecutionFrame[Any], place: _Place, ticket: Ticket | None
) -> StepResult:
    """Run the inner step, and store its result if it completed."""
    inner = frame.child(step.inner, frame.data, at="cached", on_chunk=frame.on_chunk)
    inner.earlier = None  # what other steps gave is no part of the key
    result = await core.execute(inner)
    if result.status == "paused":
        frame.save(place.start)
    if isinstance(step.inner, Pipeline) and len(step.inner.steps) == 1 and not step.inner.is_guarded:
        frame.history = [result]  # it came to what its step came to, but a hit knows only the pipeline's name
        result = conclude(frame, result.output) if result.success else end_with(frame, result, result.output)
    if result.success:
        text = _written(step, frame, place, result)
        try:
            if text is not None:
                await _keep(place, text)
        finally:  # it is paid for, though who waits for the cache may be cancelled
            if ticket is not None:
                ticket.land(Turn.GO_ALONE if text is None else text)
    result.metadata_["cache_hit"] = False
    return result


def _sees_context(step: BaseStep[Any, Any]) -> bool:
    return step.touches_context if isinstance(step, AgentStep) else not isinstance(step, Pipeline)


def _begin(step: CachedStep[Any, Any], frame: ExecutionFrame[Any]) -> _CachedCheckpoint:
    """Return the key of the result, and the context before the step if the step may read or change it."""
    sees_context = any(_sees_context(inner) for inner in step.inner.walk())
    seen = {name: value for name, value in fields_of(frame.context).items() if name not in _NOT_IN_THE_KEY}
    about = digest(frame.data, "input"), digest(seen if sees_context else {}, "context")
    before = copy_context(frame.context) if step.inner.may_change_context else None
    return _CachedCheckpoint(digest([definition_of(step.inner), *about]), before)


def _experience(step: CachedStep[Any, Any], frame: ExecutionFrame[Any]) -> _Experience:
    experience = _EXPERIENCES.get(step)
    if experience is None:
        experience = _EXPERIENCES[step] = _Experience(stored_types(step.inner))
    experience.types.add(type(frame.context))
    return experience


async def _look_up(place: _Place) -> str | None:
    try:
        found = await place.cache.get(place.start.key)
    except Exception:  # a cache is code of the user's; one that fails is one that has nothing
        _log.exception("the cache failed to look up a result")
        return None
    return found if isinstance(found, str) else None


async def _keep(place: _Place, text: str) -> None:
    try:
        await place.cache.set(place.start.key, text)
    except Exception:  # a cache is code of the user's; what was paid for is given all the same
        _log.exception("the cache failed to keep a result")


def _written(step: CachedStep[Any, Any], frame: ExecutionFrame[Any], place: _Place, result: StepResult) -> str | None:
    """Return what is stored of a result; `None` if it holds something that would not come back as it is."""
    start, codec = place.start, place.codec
    changes = changed_fields(start.before, frame.context) if start.before is not None else {}
    try:
        return to_json_text(
            {
                "key": start.key,
                "output": codec.encode(result.output, "output"),
                "metadata": codec.encode(_lasting(result.metadata_), "metadata_"),
                "context": codec.encode(
                    {name: value for name, value in changes.items() if name not in OWNED_BY_THE_RUN}, "context"
                ),
            }
        )
    except SerializationError as error:
        if (why := str(error)) not in place.warned:
            place.warned.add(why)
            _log.warning("a result of step %r is not kept in the cache: %s", step.name, why)
        return None


def _lasting(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of a result that is true of a hit too, which calls nothing."""
    return {key: said for key, said in metadata.items() if key not in (CALLS, UNCERTAIN)}


def _hit(text: str, step: CachedStep[Any, Any], frame: ExecutionFrame[Any], place: _Place) -> StepResult | None:
    """Return a stored result, and let it have its effect; `None` if the text is not one that can be used here."""
    try:
        stored = json.loads(text)
        if stored["key"] != place.start.key:
            return None
        output, metadata, changes = (place.codec.decode(stored[part]) for part in ("output", "metadata", "context"))
    except (SerializationError, ValueError, TypeError, KeyError) as error:
        _log.warning("a stored result of step %r cannot be used: %s", step.name, error)
        return None
    update_context(frame.context, changes)
    return StepResult(step.name, output, attempts=0, metadata_={**metadata, "cache_hit": True})
