"""Tells whether a step is still the step that a stored run knows.

The fingerprint of a step is a digest of its kind, its name, its agent's name, and those of the steps within it;
what an agent's code does is not part of it, because correcting a mistake in one step must not end the runs that wait.
"""

import functools
import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

from flujo.domain.models import StepPath
from flujo.domain.pipeline import BaseStep
from flujo.domain.step import AgentStep

_FALLBACK = "fallback"


class Fingerprints:
    """The fingerprints of the steps of one pipeline, each made when it is first asked for.

    Args:
        pipeline: The pipeline.
    """

    def __init__(self, pipeline: BaseStep[Any, Any]) -> None:
        self._pipeline = pipeline
        self._made: dict[int, str] = {}  # by identity; the pipeline keeps its steps alive
        self._children: dict[int, dict[str, BaseStep[Any, Any]]] = {}

    def of(self, step: BaseStep[Any, Any]) -> str:
        """Return the fingerprint of a step: 16 hexadecimal digits."""
        made = self._made.get(id(step))
        if made is None:
            made = self._made[id(step)] = self._digest(step)
        return made

    def find(self, path: StepPath) -> BaseStep[Any, Any] | None:
        """Return the step at an address of a run, or `None` if the pipeline has none there."""
        step: BaseStep[Any, Any] | None = self._pipeline
        for part in path:
            if step is None:
                return None
            step = self._child(step, part)
        return step

    def _child(self, step: BaseStep[Any, Any], part: str) -> BaseStep[Any, Any] | None:
        """Return the inner step a part of a path leads to; `iteration:3` leads to what is called `iteration`."""
        children = self._children.get(id(step))
        if children is None:
            children = self._children[id(step)] = dict(step.children())
            if step.fallback_step is not None:
                children[_FALLBACK] = step.fallback_step
        return children.get(part) or children.get(part.partition(":")[0])

    def _digest(self, step: BaseStep[Any, Any]) -> str:
        inner = [f"{part}={self.of(child)}" for part, child in step.children()]
        if step.fallback_step is not None:
            inner.append(f"{_FALLBACK}={self.of(step.fallback_step)}")
        agent = _agent_name(step.agent) if isinstance(step, AgentStep) else ""
        return _digest([type(step).__qualname__, step.name, agent, *inner])


def _agent_name(agent: object) -> str:
    if isinstance(agent, functools.partial):
        return _agent_name(agent.func)
    named: Any = agent if inspect.isroutine(agent) or inspect.isclass(agent) else type(agent)
    return str(named.__qualname__)  # without its module, which is `__main__` or not as the file is run or imported


def _digest(parts: Sequence[str]) -> str:
    made = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = part.encode("utf-8", "surrogatepass")
        made.update(len(text).to_bytes(8, "big"))
        made.update(text)
    return made.hexdigest()
