"""The coordinator runs one top-level step: with its own path, its input, and chunks only for the last."""

from collections.abc import AsyncIterator
from typing import Any

from flujo import ExecutionFrame, ExecutorCore, Pipeline, PreStepPayload, Step
from flujo.application.core.frame import RunControl, RunScope
from flujo.application.core.hooks import HookDispatcher
from flujo.application.core.state_manager import StateManager
from flujo.application.core.step_coordinator import StepCoordinator
from flujo.application.core.usage_governor import UsageGovernor
from flujo.domain.models import PipelineContext
from flujo.utils.clock import SYSTEM_CLOCK


async def _letters(data: str) -> AsyncIterator[str]:
    for letter in data:
        yield letter


def _pipeline() -> Pipeline[Any, Any]:
    return Step("first", _letters) >> Step("last", _letters)


def _no_context(data: Any, inherited: Any) -> Any:
    raise AssertionError("no sub-pipeline runs here")


class Listener:
    """Keeps the chunks and the paths that it is told."""

    def __init__(self) -> None:
        self.chunks: list[Any] = []
        self.paths: list[tuple[str, ...]] = []

    async def take(self, chunk: Any) -> None:
        self.chunks.append(chunk)

    async def hear(self, payload: PreStepPayload) -> None:
        self.paths.append(payload.path)


def _frame(listener: Listener) -> ExecutionFrame[Any]:
    control, context = RunControl(), PipelineContext(initial_prompt="x", run_id="r1")
    governor = UsageGovernor(None, label="the run", on_breach=control.stop)
    scope = RunScope(
        "r1", context, control, StateManager(), _no_context, SYSTEM_CLOCK, hooks=HookDispatcher([listener.hear])
    )
    return ExecutionFrame(_pipeline(), "x", context, scope, governor, on_chunk=listener.take)


async def test_only_the_last_step_hands_out_its_chunks() -> None:
    """What the other steps stream is input of the next, and nobody else's."""
    listener = Listener()
    run = _frame(listener)
    coordinator = StepCoordinator(ExecutorCore(), _pipeline())

    first = await coordinator.execute_step(0, "ab", run)
    assert listener.chunks == []
    last = await coordinator.execute_step(1, first.output, run)

    assert listener.chunks == ["a", "b"]
    assert (first.name, last.name, last.output) == ("first", "last", "ab")


async def test_a_step_has_its_position_as_its_path() -> None:
    """The path of a top-level step is its position."""
    listener = Listener()
    coordinator = StepCoordinator(ExecutorCore(), _pipeline())

    await coordinator.execute_step(1, "ab", _frame(listener))

    assert listener.paths == [("1",)]


async def test_a_coordinator_keeps_nothing_of_a_run() -> None:
    """One coordinator serves every run of its pipeline."""
    coordinator = StepCoordinator(ExecutorCore(), _pipeline())
    one, other = Listener(), Listener()

    await coordinator.execute_step(1, "a", _frame(one))
    await coordinator.execute_step(1, "b", _frame(other))

    assert (one.chunks, other.chunks) == (["a"], ["b"])
