"""What every kind of step checks when it is declared."""

import difflib
import inspect
from collections.abc import Iterable
from enum import Enum

from pydantic import BaseModel

from flujo.cache.backends import ICacheBackend
from flujo.domain.pipeline import BaseStep, ValidationReport
from flujo.exceptions import ConfigurationError


def check_step(name: str, role: str, step: object) -> None:
    """Refuse what is no step."""
    if not isinstance(step, BaseStep):
        raise ConfigurationError(f"step {name!r}: {role} is {step!r}; give a step or a pipeline")


def check_cache(owner: str, cache: object) -> None:
    """Refuse what is no cache; `None` passes."""
    if cache is not None and not isinstance(cache, ICacheBackend):
        raise ConfigurationError(
            f"{owner}: cache_backend is {cache!r}; give an object with the async methods get, set, delete and clear"
        )


def check_count(name: str, role: str, count: object) -> None:
    """Refuse what is no integer, and an integer below 1; `None` passes."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ConfigurationError(f"step {name!r}: {role} is {count!r}; it must be an integer, 1 or more")


def check_choice(name: str, role: str, choice: object, choices: type[Enum]) -> None:
    """Refuse what is no member of an enum."""
    if not isinstance(choice, choices):
        known = ", ".join(map(str, choices))
        raise ConfigurationError(f"step {name!r}: {role} is {choice!r}; give one of {known}")


def check_names(name: str, role: str, names: object) -> None:
    """Refuse a single string where several names are expected, as its characters would be taken for them."""
    if isinstance(names, str):
        raise ConfigurationError(f"step {name!r}: {role} is the string {names!r}; give a list of names")


def check_call(name: str, role: str, function: object, *arguments: str, required: bool = False) -> None:
    """Refuse what cannot be called, is async or does not take these arguments; `None` passes if not required."""
    if (function is None and not required) or isinstance(function, type):
        return
    if not callable(function):
        raise ConfigurationError(
            f"step {name!r}: {role} is {function!r}; give a function that takes ({', '.join(arguments)})"
        )
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
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
