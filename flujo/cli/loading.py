"""Finds the workflow in a user's Python file.

`FILE:NAME` names a variable; `FILE` alone means the variable `pipeline`, or else the only pipeline or runner in
the file, or else the only step.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from pydantic import BaseModel

from flujo.application.runner import Flujo
from flujo.cli.exit_codes import WrongUsageError
from flujo.cli.importing import import_file
from flujo.domain.pipeline import BaseStep, Pipeline

Workflow = BaseStep[Any, Any] | Flujo[Any, Any]
"""What a file can hold: a step, a pipeline, or a runner with settings of its own."""

_DEFAULT_NAME = "pipeline"


@dataclass(slots=True, frozen=True)
class LoadedFile:
    """A user's file, imported.

    Attributes:
        path: The file as the user named it.
        module: What it holds.
        workflow: The workflow that was asked for.
        name: The variable that was named; `None` if the file was to choose.
    """

    path: Path
    module: ModuleType
    workflow: Workflow
    name: str | None = None

    @property
    def runner(self) -> Flujo[Any, Any]:
        """The workflow as a runner: the file's own, or one with the settings that runners have."""
        if isinstance(self.workflow, Flujo):
            return self.workflow
        return Flujo(self.workflow, pipeline_name=self.path.stem if self.name is None else self.name)

    def context_model(self, name: str) -> type[BaseModel]:
        """Return the pydantic model of that name in the file.

        Raises:
            WrongUsageError: There is none.
        """
        value = _variable(self.path, self.module, name)
        if not _is_model(value):
            raise WrongUsageError(f"{self.path}: {name} is {_describe(value)}, not a pydantic model")
        return value


def load_file(target: str) -> LoadedFile:
    """Import the file of `FILE[:NAME]` and return it with its workflow.

    Raises:
        WrongUsageError: The file cannot be imported, or does not hold what was asked for.
    """
    path, name = _split(target)
    module = import_file(path)
    workflow = _chosen(path, module) if name is None else _variable(path, module, name)
    if not _is_workflow(workflow):
        raise WrongUsageError(f"{path}: {name} is {_describe(workflow)}, not a pipeline, a step or a Flujo")
    return LoadedFile(path, module, workflow, name)


def _split(target: str) -> tuple[Path, str | None]:
    file, colon, name = target.rpartition(":")
    if not colon or Path(target).exists() or not (Path(file).exists() or name.isidentifier()):
        return Path(target), None
    if not name:
        raise WrongUsageError(f"{target}: give the name of a variable after the colon, or leave the colon out")
    return Path(file), name


def _public(module: ModuleType) -> Mapping[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _variable(path: Path, module: ModuleType, name: str) -> Any:
    if name not in vars(module):
        near = difflib.get_close_matches(name, _public(module), 1)
        candidates = [each for each, value in _public(module).items() if _is_workflow(value)]
        hint = f"; did you mean {near[0]}?" if near else _listing(candidates)
        raise WrongUsageError(f"{path} has no variable {name}{hint}")
    return vars(module)[name]


def _listing(names: list[str]) -> str:
    return f"; it has {', '.join(names)}" if names else ""


def _chosen(path: Path, module: ModuleType) -> Workflow:
    """Return the workflow of a file whose user named none."""
    variables = _public(module)
    default = variables.get(_DEFAULT_NAME)
    if _is_workflow(default):
        return default
    workflows = {name: value for name, value in variables.items() if _is_workflow(value)}
    whole = {name: value for name, value in workflows.items() if isinstance(value, Pipeline | Flujo)}
    candidates = _distinct(whole or workflows)
    if not candidates:
        raise WrongUsageError(f"{path} has no pipeline; assign one to a variable, such as: pipeline = first >> second")
    if len(candidates) > 1:
        names = ", ".join(candidates)
        first = next(iter(candidates))
        raise WrongUsageError(f"{path} has several workflows: {names}; choose one, such as {path}:{first}")
    return next(iter(candidates.values()))


def _is_workflow(value: object) -> TypeGuard[Workflow]:
    return isinstance(value, BaseStep | Flujo)


def _is_model(value: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _distinct(workflows: Mapping[str, Workflow]) -> dict[str, Workflow]:
    """Return every workflow once, and no pipeline that a runner beside it runs."""
    run = {id(value.pipeline) for value in workflows.values() if isinstance(value, Flujo)}
    seen: set[int] = set()
    distinct: dict[str, Workflow] = {}
    for name, value in workflows.items():
        if id(value) not in seen and id(value) not in run:
            seen.add(id(value))
            distinct[name] = value
    return distinct


def _describe(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"of type {type(value).__name__}"
