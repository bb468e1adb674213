"""A step whose results are remembered: the declaration and the handler."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from flujo.application.core.context import OWNED_BY_THE_RUN, changed_fields, copy_context, copy_value, update_context
from flujo.application.core.frame import ExecutionFrame
from flujo.application.core.outcome import conclude, end_with
from flujo.application.core.ultra_executor import ExecutorCore
from flujo.cache.backends import ICacheBackend, InMemoryCache
from flujo.cache.keys import digest, fields_of
from flujo.domain.pipeline import BaseStep, Pipeline
from flujo.domain.results import StepResult
from flujo.domain.step import AgentStep
from flujo.exceptions import SerializationError
from flujo.steps.checks import check_cache, check_step

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

    @property
    def touches_context(self) -> bool:
        """A hit changes what the remembered step changed, and no more."""
        return False


@dataclass(slots=True, frozen=True)
class _Remembered:
    """A stored result: the output, what is said besides, what changed in the context, and what it was made by.

    The steps and agents are kept, so that their identities in the key are not taken by others.
    """

    output: Any
    metadata: dict[str, Any]
    changes: dict[str, Any]
    made_by: tuple[object, ...]


@dataclass(slots=True, frozen=True)
class _CachedCheckpoint:
    """Where a cached step stood: the key its result will have, and the context it started from."""

    key: str
    before: BaseModel | None


@ExecutorCore.handles(CachedStep)
async def _handle_cached_step(core: ExecutorCore, step: CachedStep[Any, Any], frame: ExecutionFrame[Any]) -> StepResult:
    cache = next(cache for cache in (step.cache_backend, frame.scope.cache, step.own_cache) if cache is not None)
    start = frame.checkpoint(_CachedCheckpoint)
    if start is None:
        try:
            start = _begin(step, frame)
        except SerializationError as error:
            return conclude(frame, status="failed", feedback=str(error))
        if (hit := await _look_up(cache, start.key, step)) is not None:
            update_context(frame.context, copy_value(hit.changes))
            metadata = {**copy_value(hit.metadata), "cache_hit": True}
            return StepResult(step.name, copy_value(hit.output), attempts=0, metadata_=metadata)
    result = await core.execute(frame.child(step.inner, frame.data, at="cached", on_chunk=frame.on_chunk))
    if result.status == "paused":
        frame.save(start)
    if isinstance(step.inner, Pipeline) and len(step.inner.steps) == 1 and not step.inner.is_guarded:
        frame.history = [result]  # it came to what its step came to, but a hit knows only the pipeline's name
        result = conclude(frame, result.output) if result.success else end_with(frame, result, result.output)
    if result.success:
        await _remember(cache, start, step, frame, result)
    result.metadata_["cache_hit"] = False
    return result


def _sees_context(step: BaseStep[Any, Any]) -> bool:
    return step.touches_context if isinstance(step, AgentStep) else not isinstance(step, Pipeline)


def _begin(step: CachedStep[Any, Any], frame: ExecutionFrame[Any]) -> _CachedCheckpoint:
    """Return the key of the result, and the context before the step if the step may read or change it."""
    sees_context = any(_sees_context(inner) for inner in step.inner.walk())
    seen = {name: value for name, value in fields_of(frame.context).items() if name not in _NOT_IN_THE_KEY}
    definition = [id(part) for part in _definition(step)]
    key = digest([definition, digest(frame.data, "input"), digest(seen if sees_context else {}, "context")])
    return _CachedCheckpoint(key, copy_context(frame.context) if step.inner.may_change_context else None)


def _definition(step: CachedStep[Any, Any]) -> tuple[object, ...]:
    """Return the steps and agents that make the result."""
    steps = tuple(step.inner.walk())
    return (*steps, *(inner.agent for inner in steps if isinstance(inner, AgentStep)))


async def _look_up(cache: ICacheBackend, key: str, step: CachedStep[Any, Any]) -> _Remembered | None:
    try:
        found = await cache.get(key)
    except Exception:  # a cache is code of the user's; one that fails is one that has nothing
        _log.exception("the cache failed to look up a result")
        return None
    if not isinstance(found, _Remembered):
        return None
    # A cache that outlives the process holds keys with the identities of other objects.
    makers = zip(found.made_by, _definition(step), strict=True)
    return found if all(maker is part for maker, part in makers) else None


async def _remember(
    cache: ICacheBackend,
    start: _CachedCheckpoint,
    step: CachedStep[Any, Any],
    frame: ExecutionFrame[Any],
    result: StepResult,
) -> None:
    try:
        changes = changed_fields(start.before, frame.context) if start.before is not None else {}
        kept = {name: copy_value(value) for name, value in changes.items() if name not in OWNED_BY_THE_RUN}
        remembered = _Remembered(copy_value(result.output), copy_value(result.metadata_), kept, _definition(step))
        await cache.set(start.key, remembered)
    except Exception:  # a cache is code of the user's, as is copying; what was paid for is kept all the same
        _log.exception("the cache failed to keep a result")
