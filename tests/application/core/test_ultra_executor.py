"""`ExecutorCore.execute` takes a frame, finds the handler of a step's kind, and turns errors into results."""

import ast
import asyncio
import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flujo.application.core
from flujo import (
    BaseStep,
    ConfigurationError,
    ExecutionFrame,
    ExecutorCore,
    Flujo,
    ImproperStepInvocationError,
    PipelineAbortSignal,
    Step,
    StepExecutor,
    StepResult,
    UsageLimits,
)
from flujo.application.core import ultra_executor
from flujo.testing import StubAgent
from tests.application.core.agent_answers import Paid

_PACKAGE = Path(flujo.application.core.__path__[0]).parents[1]


class _Shout(BaseStep[str, str]):
    """A kind of step of the user's own."""


class _Twice(BaseStep[Any, Any]):
    """A kind of step that runs another one two times."""

    def __init__(self, name: str, inner: BaseStep[Any, Any], *, usage_limits: UsageLimits | None = None) -> None:
        super().__init__(name, usage_limits=usage_limits)
        self.inner = inner

    def children(self) -> Any:
        return (("inner", self.inner),)


class _Unheard(BaseStep[Any, Any]):
    """A kind of step that nobody handles."""


class _Raises(BaseStep[Any, Any]):
    """A kind of step whose handler raises or returns what it is given as input."""


@pytest.fixture(autouse=True)
def _own_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register handlers for the kinds of step above, for the length of a test."""
    with monkeypatch.context() as patch:
        patch.setattr(ExecutorCore, "_handlers", dict(ExecutorCore._handlers))  # pyright: ignore[reportPrivateUsage]  # the registry is global
        patch.setattr(ExecutorCore, "_resolved", {})

        @ExecutorCore.handles(_Shout)
        async def _handle_shout_step(core: ExecutorCore, step: _Shout, frame: ExecutionFrame[Any]) -> StepResult:
            return StepResult(step.name, frame.data.upper())

        @ExecutorCore.handles(_Twice)
        async def _handle_twice_step(core: ExecutorCore, step: _Twice, frame: ExecutionFrame[Any]) -> StepResult:
            first = await core.execute(frame.child(step.inner, frame.data, at="first"))
            second = await core.execute(frame.child(step.inner, first.output, at="second"))
            cost = first.cost + second.cost
            return StepResult(step.name, second.output, cost=cost, step_history=[first, second])

        @ExecutorCore.handles(_Raises)
        async def _handle_raises_step(core: ExecutorCore, step: _Raises, frame: ExecutionFrame[Any]) -> Any:
            if isinstance(frame.data, BaseException):
                raise frame.data
            return frame.data

        assert [_handle_shout_step, _handle_twice_step, _handle_raises_step]
        yield


def test_execute_takes_a_frame_and_nothing_else() -> None:
    """REQ-CORE-001: the frame is the only argument, and a dataclass."""
    parameters = list(inspect.signature(ExecutorCore.execute).parameters)

    assert parameters == ["self", "frame"]
    assert dataclasses.is_dataclass(ExecutionFrame)


def test_every_recursion_passes_a_frame() -> None:
    """REQ-CORE-001: whoever runs a step calls `execute` with one argument; frames below the top come from `child`."""
    calls: list[str] = []
    made: list[str] = []
    for path in (*_PACKAGE.glob("application/**/*.py"), *_PACKAGE.glob("steps/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "execute":
                calls.append(f"{path.name}: {len(node.args)} {len(node.keywords)}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ExecutionFrame":
                made.append(path.name)

    assert len(calls) > 5
    assert {call.split(": ")[1] for call in calls} == {"1 0"}
    assert sorted(made) == ["frame.py", "runner.py"]


def test_the_step_executor_is_defined_beside_the_core() -> None:
    """REQ-CORE-003: `StepExecutor` is an attribute of `ultra_executor`, and the one that flujo exports."""
    assert ultra_executor.StepExecutor is StepExecutor
    assert "StepExecutor = " in inspect.getsource(ultra_executor)


async def test_a_kind_of_step_of_ones_own_runs_anywhere() -> None:
    """A registered handler serves at the top, in pipelines, and in other kinds of step."""
    step = _Shout("shout") >> Step.parallel("both", {"a": _Shout("a"), "b": _Shout("b")})

    result = await Flujo(step).run_async("hi")

    assert result.output == {"a": "HI", "b": "HI"}


async def test_the_handler_of_a_class_serves_its_subclasses() -> None:
    """A subclass without a handler has that of its nearest base, until it gets one of its own."""

    class Louder(_Shout):
        pass

    class Loudest(Louder):
        pass

    runner = Flujo(Loudest("shout"))
    inherited = await runner.run_async("hi")

    @ExecutorCore.handles(Louder)
    async def _handle_louder_step(core: ExecutorCore, step: Louder, frame: ExecutionFrame[Any]) -> StepResult:
        return StepResult(step.name, frame.data.upper() + "!")

    nearer = await runner.run_async("hi")

    assert _handle_louder_step.__name__ == "_handle_louder_step"
    assert (inherited.output, nearer.output) == ("HI", "HI!")


async def test_a_kind_that_nobody_handles_is_named() -> None:
    """The error says which kind it is and how to register a handler."""
    with pytest.raises(ConfigurationError) as raised:
        await Flujo(_Unheard("lost")).run_async("hi")

    assert str(raised.value) == "no handler for _Unheard; register one with @ExecutorCore.handles(_Unheard)"


async def test_a_handler_that_returns_no_result_is_named() -> None:
    """Forgetting to return a `StepResult` is a mistake in the workflow."""
    with pytest.raises(ConfigurationError, match="the handler of _Raises returned 'text'; a handler returns a StepRes"):
        await Flujo(_Raises("wrong")).run_async("text")


async def test_what_a_handler_raises_fails_its_step() -> None:
    """An exception is a failed result, a signal an aborted one, and a cancellation of its own a failed one."""
    runner = Flujo(_Raises("broken"))

    failed = await runner.run_async(KeyError("x"))
    aborted = await runner.run_async(PipelineAbortSignal("stop"))
    cancelled = await runner.run_async(asyncio.CancelledError())

    assert [result.status for result in (failed, aborted, cancelled)] == ["failed", "aborted", "failed"]
    assert [result.step_history[0].feedback for result in (failed, aborted, cancelled)] == [
        "KeyError: 'x'",
        "stop",
        "cancelled by its own code",
    ]


async def test_a_composite_of_ones_own_has_limits_paths_and_a_fallback() -> None:
    """What surrounds a handler is the same for every kind of step."""
    inner = Step("inner", StubAgent([Paid("a", 0.2), Paid("b", 0.3), ValueError("no"), ValueError("no")]))
    step = _Twice("twice", inner, usage_limits=UsageLimits(total_cost_usd_limit=0.5))

    result = await Flujo(step).run_async("hi")

    assert (result.output, result.total_cost_usd) == ("b", 0.5)
    assert [child.name for child in result.step_history[0].step_history] == ["inner", "inner"]


async def test_latency_is_measured_around_the_handler() -> None:
    """Every result has the seconds that its step took."""
    result = await Flujo(_Shout("shout")).run_async("hi")

    assert result.step_history[0].latency_s > 0


def test_a_step_cannot_be_called_like_a_function() -> None:
    """A step is a value: calling it raises, and says what to do."""
    with pytest.raises(ImproperStepInvocationError, match=r"step 'shout' was called like a function; run it with"):
        _Shout("shout")("hi")


async def test_one_core_serves_many_runs_at_once() -> None:
    """Runs of one runner that overlap do not see each other."""
    runner = Flujo(_Twice("twice", Step.from_callable(str.upper, name="up")) >> _Shout("shout"))

    results = await asyncio.gather(*(runner.run_async(f"run {number}") for number in range(50)))

    assert [result.output for result in results] == [f"RUN {number}" for number in range(50)]
    assert len({result.run_id for result in results}) == 50
