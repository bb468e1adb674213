"""What differs between two contexts, and how a context is updated: all or nothing, validated by its model.

A context is any pydantic model; nothing here knows what it holds, apart from the fields that belong to the run.
"""

import difflib
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flujo.exceptions import ContextUpdateError
from flujo.utils.copying import make_model, set_slot
from flujo.utils.sameness import same_value

ContextT = TypeVar("ContextT", bound=BaseModel)

OWNED_BY_THE_RUN = frozenset({"run_id", "initial_prompt", "hitl_history"})
"""Context fields that the engine keeps itself: no step updates them, and no branch brings them back."""

_MISSING: Any = object()
_MOST_REASONS = 3  # reasons that one message tells of


def changed_fields(before: BaseModel, after: BaseModel) -> dict[str, Any]:
    """Return the new values of the fields in which a context differs, by `same_value`.

    The values are those of `after`, not copies.
    Extra fields are included; one that `after` no longer has is not.
    """
    return dict(changes_between(before, after))


def changes_between(
    before: BaseModel,
    after: BaseModel,
    *,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> Iterator[tuple[str, Any]]:
    """Yield the fields in which a context differs, with their new values, as `changed_fields` has them.

    Args:
        before: The context as it was.
        after: The context now.
        only: The fields that count; `None` for all.
        exclude: Fields that do not count.
    """
    old, fields, extra = values_of(before), type(after).__pydantic_fields__, after.__pydantic_extra__
    for name, value in values_of(after).items():
        if value is (was := old.get(name, _MISSING)) or name in exclude:
            continue
        if only is not None and name not in only:
            continue
        is_field = name in fields or (extra is not None and name in extra)  # not a cached property
        if is_field and not same_value(was, value):
            yield name, value


def values_of(context: BaseModel) -> dict[str, Any]:
    """Return the fields of a context by name, extra ones included."""
    extra = context.__pydantic_extra__
    return {**vars(context), **extra} if extra else vars(context)


def update_context(context: BaseModel, changes: Mapping[str, Any]) -> None:
    """Set several fields of a context at once, each value validated by the context's model.

    It is all or nothing, and goes for frozen models too. Untouched fields keep their very objects.
    The values are not copied, except where validation does.

    Args:
        context: Any pydantic model.
        changes: The new values by field name; an alias is no name.

    Raises:
        ContextUpdateError: A field does not exist, and the model allows no extra ones, a value does not fit,
            or it is one that belongs to the run.
    """
    if not changes:
        return
    cls = type(context)
    _check_names(cls, changes)
    _check_owned(context, changes)
    try:
        changed = (
            _validate_together(context, changes)
            if _is_validated_together(cls, changes)
            else _validate_each(context, changes)
        )
    except ValidationError as error:
        raise _refusal(cls, changes, error) from error
    _take_over(context, changed)


def _check_names(cls: type[BaseModel], names: Collection[object]) -> None:
    known, takes_extra = cls.model_fields, cls.model_config.get("extra") == "allow"
    for name in names:
        if name not in known and not (takes_extra and isinstance(name, str)):
            raise _unknown_field(cls, name)


def _check_owned(context: BaseModel, changes: Mapping[str, Any]) -> None:
    """Refuse other values of what belongs to the run; a step may give back the context as it got it."""
    for name in sorted(OWNED_BY_THE_RUN & changes.keys()):
        if not same_value(values_of(context).get(name, _MISSING), changes[name]):
            raise ContextUpdateError(
                f"{type(context).__name__} keeps {name!r} for the run, and no step changes it; use another field",
                fields=(name,),
            )


def _is_validated_together(cls: type[BaseModel], names: Collection[str]) -> bool:
    """Tell whether pydantic cannot validate these fields one by one.

    It may refuse to assign to what is frozen. Validators of the whole model could refuse a state in between,
    and those that run around it expect the raw input, which only a whole validation gives them.
    """
    fields = cls.model_fields
    if cls.model_config.get("frozen") or any(fields[name].frozen for name in names if name in fields):
        return True
    validators = cls.__pydantic_decorators__.model_validators.values()
    return (len(names) > 1 and bool(validators)) or any(v.info.mode != "after" for v in validators)


def shallow_copy(context: ContextT) -> ContextT:
    """Return a context of its own that shares its values."""
    extra, private = context.__pydantic_extra__, context.__pydantic_private__
    return make_model(
        type(context),
        vars(context).copy(),
        context.__pydantic_fields_set__.copy(),
        extra if extra is None else extra.copy(),
        private if private is None else private.copy(),
    )


def _validate_each(context: ContextT, changes: Mapping[str, Any]) -> ContextT:
    """Return a shallow copy with the changes, validated one by one."""
    changed = shallow_copy(context)
    validator = type(context).__pydantic_validator__
    for name, value in changes.items():
        validator.validate_assignment(changed, name, value)
    return changed


def _validate_together(context: ContextT, changes: Mapping[str, Any]) -> ContextT:
    """Return a shallow copy with the changes, validated at once with everything the context holds.

    Validators of the model may set other fields too; apart from these, what was not changed stays as it was.
    """
    cls = type(context)
    validated = cls.model_validate({**_field_values(context), **changes}, by_alias=True, by_name=True)
    valid = values_of(validated)
    taken = {name: valid[name] for name in changes if name in valid}
    if cls.__pydantic_decorators__.model_validators:
        taken = {**dict(changes_between(context, validated)), **taken}
    changed = shallow_copy(context)
    assign_fields(changed, taken)
    return changed


def _field_values(context: BaseModel) -> dict[str, Any]:
    """Return what a context of the same state would be made of."""
    values, fields = vars(context), type(context).model_fields
    return {
        **{name: values[name] for name in fields if name in values},
        **(context.__pydantic_extra__ or {}),
    }


def assign_fields(context: BaseModel, values: Mapping[str, Any]) -> None:
    """Set fields of a context, frozen or not, without validation."""
    fields, extra = type(context).model_fields, context.__pydantic_extra__
    for name, value in values.items():
        target = vars(context) if name in fields or extra is None else extra
        target[name] = value
        context.__pydantic_fields_set__.add(name)


def _take_over(context: BaseModel, changed: BaseModel) -> None:
    """Give a context the whole state of another, which is not used any more."""
    for slot in BaseModel.__slots__:
        set_slot(context, slot, getattr(changed, slot))


def _unknown_field(cls: type[BaseModel], name: object) -> ContextUpdateError:
    known = list(cls.model_fields)
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"its fields are {', '.join(known)}"
    return ContextUpdateError(f"{cls.__name__} has no field {name!r}; {hint}", fields=(str(name),))


def _refusal(cls: type[BaseModel], changes: Mapping[str, Any], error: ValidationError) -> ContextUpdateError:
    """Return pydantic's error as one line: where, why, and the beginning of the value."""
    details = error.errors(include_url=False, include_context=False)
    reasons = list[str]()
    for detail in details[:_MOST_REASONS]:
        where = ".".join(map(str, detail["loc"])) or ", ".join(changes)
        value = f" (got {reprlib.repr(detail['input'])})" if detail["loc"] else ""
        reasons.append(f"{where}: {' '.join(detail['msg'].split())}{value}")
    more = f"; and {len(details) - _MOST_REASONS} more" if len(details) > _MOST_REASONS else ""
    named = dict.fromkeys(str(detail["loc"][0]) for detail in details if detail["loc"])
    return ContextUpdateError(f"{cls.__name__} refuses {'; '.join(reasons)}{more}", fields=tuple(named or changes))
