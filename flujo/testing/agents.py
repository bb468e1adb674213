"""Scripted agents and plugins."""

from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from flujo.domain.policies import PluginOutcome
from flujo.domain.step import AgentStep


class StubAgent:
    """Gives scripted outputs in order; an exception among them, or a class of exceptions, is raised.

    It takes the keyword arguments that steps offer to agents, and ignores them.

    Attributes:
        inputs: What the agent was called with, oldest first.

    Example:
        ```python
        from flujo import Flujo, Step
        from flujo.testing import StubAgent

        agent = StubAgent([ValueError("overloaded"), "fine"])
        result = Flujo(Step("try", agent)).run("question")
        assert result.output == "fine" and agent.call_count == 2
        ```
    """

    def __init__(self, outputs: Iterable[Any]) -> None:
        self._outputs = list(outputs)
        self.inputs: list[Any] = []

    @property
    def call_count(self) -> int:
        """How often the agent was called."""
        return len(self.inputs)

    async def run(self, data: Any, **offered: Any) -> Any:
        """Give the next output.

        Raises:
            IndexError: The script is at its end.
        """
        self.inputs.append(data)
        if len(self.inputs) > len(self._outputs):
            raise IndexError(f"StubAgent has {len(self._outputs)} outputs and was called {len(self.inputs)} times")
        return _given(self._outputs[len(self.inputs) - 1])


class DummyPlugin:
    """Gives scripted outcomes in order, and accepts everything once they are used up; an exception is raised.

    Attributes:
        seen: What the plugin was asked to judge, oldest first.

    Example:
        ```python
        from flujo import Flujo, PluginOutcome, Step
        from flujo.testing import DummyPlugin, StubAgent

        plugin = DummyPlugin([PluginOutcome(success=False, feedback="too long")])
        result = Flujo(Step("try", StubAgent(["a long story", "short"]), plugins=[(plugin, 0)])).run("question")
        assert result.output == "short" and plugin.call_count == 2
        ```
    """

    def __init__(self, outcomes: Iterable[PluginOutcome | BaseException]) -> None:
        self._outcomes = list(outcomes)
        self.seen: list[dict[str, Any]] = []

    @property
    def call_count(self) -> int:
        """How often the plugin was asked."""
        return len(self.seen)

    async def validate(self, data: dict[str, Any], /) -> PluginOutcome:
        """Give the next outcome."""
        self.seen.append(data)
        if len(self.seen) > len(self._outcomes):
            return PluginOutcome(success=True)
        outcome: PluginOutcome = _given(self._outcomes[len(self.seen) - 1])
        return outcome


class FailingStreamAgent:
    """Streams some chunks and then raises; it takes and ignores the keyword arguments that steps offer.

    Example:
        ```python
        from flujo import Flujo, Step
        from flujo.testing import FailingStreamAgent

        result = Flujo(Step("tell", FailingStreamAgent(["Once"], OSError("cut off")), max_retries=0)).run("a story")
        assert not result.success and "cut off" in result.step_history[0].feedback
        ```
    """

    def __init__(self, chunks: Iterable[Any], exc: BaseException) -> None:
        self._chunks = list(chunks)
        self._exc = exc

    async def stream(self, data: Any, **offered: Any) -> AsyncIterator[Any]:
        """Give the chunks, then raise."""
        for chunk in self._chunks:
            yield chunk
        raise self._exc


def _given(scripted: Any) -> Any:
    if isinstance(scripted, BaseException) or _is_exception_class(scripted):
        raise scripted
    return scripted


def _is_exception_class(scripted: object) -> bool:
    return isinstance(scripted, type) and issubclass(scripted, BaseException)


@contextmanager
def override_agent(step: AgentStep[Any, Any], agent: Any) -> Generator[None]:
    """Give a step another agent for the length of a `with` block.

    Args:
        step: The very step that runs, for instance one of `pipeline.steps`.
        agent: What it calls meanwhile.

    Raises:
        TypeError: It is a step of a kind that calls no agent itself.
    """
    if not isinstance(step, AgentStep):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise TypeError(f"{step!r} calls no agent itself; override the agents of the steps within it")
    original = step.agent
    step.bind(agent)
    try:
        yield
    finally:
        step.bind(original)
