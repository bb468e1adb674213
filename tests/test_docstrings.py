"""Every example in a docstring is a program that runs."""

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.source import REPOSITORY, read_package

_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def _examples() -> Iterator[tuple[str, str]]:
    """Every Python block of a docstring in flujo, with the name of what it belongs to."""
    for module in read_package(REPOSITORY, "flujo"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = "" if isinstance(node, ast.Module) else f".{node.name}"
                for block in _BLOCK.findall(ast.get_docstring(node) or ""):
                    yield f"{module.name}{name}", textwrap.dedent(block)


_EXAMPLES = list(_examples())


@pytest.mark.parametrize("example", [text for _, text in _EXAMPLES], ids=[name for name, _ in _EXAMPLES])
def test_an_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example is a whole program: it imports what it uses, and what it asserts holds; `await` may stand alone."""
    monkeypatch.chdir(tmp_path)  # where it may leave files
    code = compile(example, "the example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, {"__name__": "example"})
    if inspect.isawaitable(running):
        asyncio.run(_wait_for(running))


async def _wait_for(running: object) -> None:
    assert inspect.isawaitable(running)
    await running


def test_examples_are_found() -> None:
    """What users construct first has an example."""
    names = {name for name, _ in _EXAMPLES}

    assert {
        "flujo.steps.step.Step",
        "flujo.steps.step.step",
        "flujo.domain.pipeline.Pipeline",
        "flujo.application.runner.Flujo",
        "flujo.domain.models.PipelineContext",
        "flujo.domain.models.UsageLimits",
        "flujo.domain.policies.StepConfig",
        "flujo.domain.policies.validator",
        "flujo.cache.backends.InMemoryCache",
        "flujo.testing.agents.StubAgent",
    } <= names
