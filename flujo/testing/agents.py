"""Scripted agents and plugins."""

from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from flujo.domain.policies import PluginOutcome
from flujo.domain.step import AgentStep


class StubAgent:
    """Gives scripted outputs in order; an exception among them is raised.

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

    async def run(self, data: Any) -> Any:
        """Give the next output.

        Raises:
            IndexError: The script is at its end.
        """
        self.inputs.append(data)
        if len(self.inputs) > len(self._outputs):
            raise IndexError(f"StubAgent has {len(self._outputs)} outputs and was called {len(self.inputs)} times")
        output = self._outputs[len(self.inputs) - 1]
        if isinstance(output, BaseException):
            raise output
        return output


class DummyPlugin:
    """Gives scripted outcomes in order, and accepts everything once they are used up.

    Attributes:
        seen: What the plugin was asked to judge, oldest first.
    """

    def __init__(self, outcomes: Iterable[PluginOutcome]) -> None:
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
        return self._outcomes[len(self.seen) - 1]


class FailingStreamAgent:
    """Streams some chunks and then raises."""

    def __init__(self, chunks: Iterable[Any], exc: BaseException) -> None:
        self._chunks = list(chunks)
        self._exc = exc

    async def stream(self, data: Any) -> AsyncIterator[Any]:
        """Give the chunks, then raise."""
        for chunk in self._chunks:
            yield chunk
        raise self._exc


@contextmanager
def override_agent(step: AgentStep[Any, Any], agent: Any) -> Generator[None]:
    """Give a step another agent for the length of a `with` block."""
    original = step.agent
    step.bind(agent)
    try:
        yield
    finally:
        step.bind(original)
