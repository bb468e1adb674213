"""What every kind of step checks when it is declared."""

import difflib
import inspect
from collections.abc import Iterable

from pydantic import BaseModel

from flujo.domain.pipeline import BaseStep, ValidationReport
from flujo.exceptions import ConfigurationError


def check_step(name: str, role: str, step: object) -> None:
    """Refuse what is no step."""
    if not isinstance(step, BaseStep):
        raise ConfigurationError(f"step {name!r}: {role} is {step!r}; give a step or a pipeline")


def check_count(name: str, role: str, count: int | None) -> None:
    """Refuse a count below 1."""
    if count is not None and (isinstance(count, bool) or count < 1):
        raise ConfigurationError(f"step {name!r}: {role} is {count!r}; it must be an integer, 1 or more")


def check_call(name: str, role: str, function: object, *arguments: str) -> None:
    """Refuse a function that is async or does not take these arguments; anything not callable passes."""
    if not callable(function) or isinstance(function, type):
        return
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(
            f"step {name!r}: {role} is async; it decides the course of the run and must be a plain function"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have none
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise ConfigurationError(
            f"step {name!r}: {role} is called as {role}({', '.join(arguments)}), but takes {signature}"
        ) from None


def check_fields(name: str, fields: Iterable[str], report: ValidationReport, context_model: type | None) -> None:
    """Add the context fields that a step names but the context does not have."""
    if context_model is None or not issubclass(context_model, BaseModel):
        return
    if context_model.model_config.get("extra") == "allow":
        return
    known = list(context_model.model_fields)
    for field in fields:
        if field not in known:
            near = difflib.get_close_matches(field, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            message = f"step {name!r} names the context field {field!r}, which {context_model.__name__} does not have"
            report.refuse(ConfigurationError(message + hint), name)
