"""What a step changed in a context, as a value that can be stored and made again.

A change names no more than what is different: the keys of a dict, the fields of a model, what was appended to a list.
Comparing is cheap where nothing happened, because a snapshot shares every immutable value with the context.

A change is one of these lists, nested for dicts, lists and models within each other:
`["=", value]` another value, `["{", [[key, change] ...], [key ...]]` keys changed and removed,
`["[", [[position, change] ...], [item ...]]` items changed and appended, `["(", [item ...], [item ...]]` members
added to and removed from a set, `[".", [[field, change] ...]]` fields of a model.
"""

from typing import Any, TypeGuard

from pydantic import BaseModel

from flujo.utils.codec import DEEPEST
from flujo.utils.narrowing import is_dict, is_list
from flujo.utils.sameness import same_value

Change = list[Any]

_MISSING: Any = object()
_PRIVATE = "private:"


def context_change(before: BaseModel, after: BaseModel) -> Change | None:
    """Return what makes a context what it became, or `None` if nothing changed.

    Args:
        before: A copy of the context, made by `copy_context` before the step.
        after: The context now; the change shares its values.
    """
    change = _fields_changed(before, after, 0)
    return change[1] if change else None


def apply_context_change(context: BaseModel, changes: Change) -> None:
    """Make a context what it became, without validation: its values were valid when the change was recorded."""
    _apply_fields(context, changes)


def _changed(before: object, after: object, depth: int = 0) -> Change | None:
    if before is after:
        return None
    kind = type(after)
    if type(before) is not kind or depth > DEEPEST:  # what is deeper cannot be stored, and says so when it is written
        return ["=", after]
    if kind is dict and is_dict(before) and is_dict(after):
        return _dict_changed(before, after, depth)
    if kind is list and is_list(before) and is_list(after):
        return _list_changed(before, after, depth)
    if kind is set and _is_set(before) and _is_set(after):
        return _set_changed(before, after)
    if isinstance(before, BaseModel) and isinstance(after, BaseModel):
        return _fields_changed(before, after, depth)
    return None if same_value(before, after) else ["=", after]


def _dict_changed(before: dict[Any, Any], after: dict[Any, Any], depth: int) -> Change | None:
    """Return what changed under which keys; the dict as a whole if its keys come in another order or of other types."""
    kept = [key for key in before if key in after]
    if not _are_same(kept, list(after)[: len(kept)]):
        return ["=", after]
    changed: list[Any] = []
    for key, value in after.items():
        change = ["=", value] if key not in before else _changed(before[key], value, depth + 1)
        if change is not None:
            changed.append([key, change])
    removed = [key for key in before if key not in after]
    return ["{", changed, removed] if changed or removed else None


def _list_changed(before: list[Any], after: list[Any], depth: int) -> Change | None:
    if len(after) < len(before):
        return ["=", after]
    changed: list[Any] = []
    for position, (old, new) in enumerate(zip(before, after, strict=False)):
        change = _changed(old, new, depth + 1)
        if change is not None:
            changed.append([position, change])
            if 2 * len(changed) > len(before):
                return ["=", after]
    appended = after[len(before) :]
    return ["[", changed, appended] if changed or appended else None


def _set_changed(before: set[Any], after: set[Any]) -> Change | None:
    """Return the members that came and went; the set as a whole if one became an equal one of another type."""
    of_before = {member: member for member in before}
    if not all(same_value(of_before[member], member) for member in after if member in of_before):
        return ["=", after]
    added, removed = list(after - before), list(before - after)
    return ["(", added, removed] if added or removed else None


def _are_same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x is y or same_value(x, y) for x, y in zip(a, b, strict=True))


def _fields_changed(before: BaseModel, after: BaseModel, depth: int) -> Change | None:
    """Return what changed in which fields; an entry of three says that its field still counts as not set."""
    old, new = _state(before), _state(after)
    is_set, fields = after.__pydantic_fields_set__, type(after).model_fields
    changed: list[Any] = []
    for name, value in new.items():
        change = ["=", value] if name not in old else _changed(old[name], value, depth + 1)
        if change is not None:
            changed.append([name, change] if name in is_set or name not in fields else [name, change, "unset"])
    changed += [[name, ["-"]] for name in old if name not in new]
    return [".", changed] if changed else None


def _state(model: BaseModel) -> dict[str, Any]:
    """Return a model's fields and extra values, and its private ones under names that no field has."""
    fields = type(model).model_fields
    state = {name: value for name, value in vars(model).items() if name in fields}
    state.update(model.__pydantic_extra__ or {})
    state.update({f"{_PRIVATE}{name}": value for name, value in (model.__pydantic_private__ or {}).items()})
    return state


def _is_set(value: object) -> TypeGuard[set[Any]]:
    return isinstance(value, set)


def _applied(value: Any, change: Change) -> Any:
    """Return a value with a change made to it, in place where it can be changed."""
    match change:
        case ["=", new]:
            return new
        case ["{", changed, removed] if is_dict(value):
            for key, inner in changed:
                value[key] = _applied(value.get(key, _MISSING), inner)
            for key in removed:
                value.pop(key, None)
        case ["[", changed, appended] if is_list(value):
            for position, inner in changed:
                value[position] = _applied(value[position], inner)
            value.extend(appended)
        case ["(", added, removed] if _is_set(value):
            value.update(added)
            value.difference_update(removed)
        case [".", changed] if isinstance(value, BaseModel):
            _apply_fields(value, changed)
        case _:
            raise ValueError(f"a {type(value).__name__} cannot be changed by {change[:1]}")
    return value


def _apply_fields(model: BaseModel, changed: list[Any]) -> None:
    fields, extra, private = type(model).model_fields, model.__pydantic_extra__, model.__pydantic_private__
    for name, change, *unset in changed:
        target, key = vars(model), name
        if name.startswith(_PRIVATE) and name not in fields and private is not None:
            target, key = private, name.removeprefix(_PRIVATE)
        elif name not in fields and extra is not None:
            target = extra
        if change == ["-"]:
            target.pop(key, None)
            continue
        target[key] = _applied(target.get(key, _MISSING), change)
        if target is not private and not unset:
            model.__pydantic_fields_set__.add(key)
