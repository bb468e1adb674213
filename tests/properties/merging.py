"""The reference model's contexts: plain dicts, copied deeply and merged by the letter of the documentation."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from tests.properties.programs import Fanout

Context = dict[str, Any]

FIELDS = ("a", "b", "notes", "tally", "scratchpad", "items")
"""The context fields that programs read and write."""

_MISSING = object()


class MergeConflictError(Exception):
    """Two branches changed the same thing differently."""


def fresh_context(items: Iterable[int] = ()) -> Context:
    """Return a context as a run starts with it."""
    return {"a": 0, "b": 0, "notes": [], "tally": {}, "scratchpad": {}, "items": list(items)}


def narrowed(context: Context, include: Iterable[str] | None) -> Context:
    """Return a branch's own context: a copy, with the defaults of what is not included."""
    if include is None:
        return copy.deepcopy(context)
    return fresh_context() | {name: copy.deepcopy(context[name]) for name in include}


def merge(context: Context, branches: Mapping[str, Context], fanout: Fanout) -> None:
    """Bring back what the branches that completed have changed, in order of declaration.

    Raises:
        MergeConflictError: The strategy allows no conflict, and there is one; the context is as it was.
    """
    included, mapped = set(FIELDS if fanout.include is None else fanout.include), dict(fanout.mapping or ())
    allowed = {branch: included & set(mapped.get(branch, FIELDS)) for branch in branches}
    base = copy.deepcopy(context)
    if fanout.merge == "custom":
        shown = {
            branch: {name: after[name] if name in allowed[branch] else base[name] for name in FIELDS}
            for branch, after in branches.items()
        }
        custom_merge(context, shown)
        return
    merged = copy.deepcopy(context)
    brought: dict[str, Any] = {}
    for branch, after in branches.items():
        for name in FIELDS:
            if name not in allowed[branch] or after[name] == base[name]:
                continue
            _bring(fanout.merge, name, base, merged, copy.deepcopy(after[name]), brought)
    context.update(merged)


def _bring(strategy: str, name: str, base: Context, merged: Context, value: Any, brought: dict[str, Any]) -> None:
    """Take over the value that one branch has left in one field."""
    if name == "scratchpad" and strategy in ("error_on_conflict", "merge_scratchpad"):
        _bring_keys(base[name], merged[name], value, brought)
        return
    match strategy:
        case "overwrite":
            merged[name] = value
        case "keep_first":
            if name not in brought:
                merged[name] = value
        case "error_on_conflict":
            if brought.get(name, value) != value:
                raise MergeConflictError(name)
            merged[name] = value
        case "context_update":
            merged[name] = _added_up(base[name], merged[name], value)
        case _:
            return
    brought[name] = value


def _bring_keys(base: Context, merged: Context, after: Context, brought: dict[str, Any]) -> None:
    for key, value in after.items():
        if base.get(key, _MISSING) == value:
            continue
        if brought.setdefault(f"scratchpad {key}", value) != value:
            raise MergeConflictError(key)
        merged[key] = value


def _added_up(base: Any, merged: Any, after: Any) -> Any:
    if isinstance(after, dict):
        set_here: dict[str, Any] = {key: value for key, value in after.items() if base.get(key, _MISSING) != value}  # pyright: ignore[reportUnknownVariableType]  # a dict of anything
        return {key: value for key, value in merged.items() if key in after or key not in base} | set_here
    appended: list[Any] = after[len(base) :] if isinstance(after, list) else []  # pyright: ignore[reportUnknownVariableType]  # a list of anything
    return [*merged, *appended] if isinstance(after, list) and after[: len(base)] == base else after  # pyright: ignore[reportUnknownVariableType]  # likewise


def custom_merge(context: Context, branches: Mapping[str, Context]) -> None:
    """Do what the user's own merge function of `building.py` does, to dicts."""
    context["a"] += sum(branch["a"] for branch in branches.values())
    context["notes"] = [*context["notes"], *([len(branch["notes"]) for branch in branches.values()])]
    context["tally"] |= {name: branch["b"] for name, branch in branches.items()}
