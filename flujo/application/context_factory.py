"""Makes the context of a run, and those of the sub-pipelines within it; only `Flujo` uses it."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from flujo.application.initial_prompt import prompt_of
from flujo.domain.models import new_run_id
from flujo.exceptions import ContextInheritanceError, PipelineContextInitializationError
from flujo.utils.copying import copy_context, copy_value


def make_context(model: type[BaseModel], data: Any, run_id: str, given: Mapping[str, Any]) -> BaseModel:
    """Return the context of a run; it shares nothing with the values it is made of.

    Args:
        model: The model of the context.
        data: The run's input; fills `initial_prompt` if the model has it and it is not given.
        run_id: Fills `run_id` if the model has it and it is not given.
        given: Values by field name.

    Raises:
        PipelineContextInitializationError: Required fields are missing, fields are unknown, or values do not fit.
    """
    fields = model.model_fields
    _refuse_unknown(model, given)
    values = {name: copy_value(value) for name, value in given.items()}
    if "run_id" in fields:
        values.setdefault("run_id", run_id)
    if "initial_prompt" in fields and "initial_prompt" not in values:
        values["initial_prompt"] = prompt_of(data)
    try:
        return model(**{_argument(model, name): value for name, value in values.items()})
    except ValidationError as error:
        message, names = _explain(model, error)
        raise PipelineContextInitializationError(message, fields=names) from None


def inherit_context(
    model: type[BaseModel], data: Any, inherited: BaseModel | None, given: Mapping[str, Any]
) -> BaseModel:
    """Return the context of a sub-pipeline; it shares nothing with the outer one.

    Args:
        model: The model of the inner context.
        data: The inner input.
        inherited: The outer context, whose fields flow in; `None` behind a wall.
        given: Values by field name, for what does not flow in.

    Raises:
        ContextInheritanceError: Required fields are missing or do not fit.
    """
    if inherited is not None and type(inherited) is model:
        return copy_context(inherited)
    shared = {
        name: getattr(inherited, name)
        for name in model.model_fields
        if inherited is not None and name in type(inherited).model_fields
    }
    try:
        return make_context(model, data, new_run_id(), {**given, **shared})
    except PipelineContextInitializationError as error:
        source = "the outer context" if inherited is not None else "nothing, because inherit_context is False"
        raise ContextInheritanceError(
            f"the sub-pipeline inherits from {source}: {error}", fields=error.fields
        ) from None


def _refuse_unknown(model: type[BaseModel], given: Mapping[str, Any]) -> None:
    fields = list(model.model_fields)
    unknown = [name for name in given if name not in fields]
    if unknown and model.model_config.get("extra") != "allow":
        near = difflib.get_close_matches(unknown[0], fields, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(fields)}"
        raise PipelineContextInitializationError(
            f"{model.__name__} has no field {', '.join(map(repr, unknown))}; {hint}", fields=tuple(unknown)
        )


def _argument(model: type[BaseModel], name: str) -> str:
    """Return what a model's constructor calls a field."""
    field = model.model_fields.get(name)
    if field is None or not isinstance(field.validation_alias, str):
        return name
    return field.validation_alias if model.model_config.get("validate_by_alias", True) else name


def _explain(model: type[BaseModel], error: ValidationError) -> tuple[str, tuple[str, ...]]:
    """Return what is wrong with a context in one line, and the fields concerned."""
    names = {_argument(model, name): name for name in model.model_fields}
    problems = [
        (names.get(str(problem["loc"][0]), str(problem["loc"][0])) if problem["loc"] else "", problem)
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    missing = [name for name, problem in problems if problem["type"] == "missing" and len(problem["loc"]) == 1]
    if missing:
        needed = ", ".join(missing)
        hint = "give them with initial_context_data"
        return f"{model.__name__} lacks the required fields {needed}; {hint}", tuple(missing)
    wrong = "; ".join(f"{name}: {problem['msg']}" if name else problem["msg"] for name, problem in problems)
    return f"{model.__name__} does not take what it was given ({wrong})", tuple(name for name, _ in problems if name)
