"""Brings back what branches changed in their copies of a context.

A merge asks of every branch what differs from the base, decides on the side, and touches the context last:
an error leaves it as it was.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from flujo.application.core.context import assign_fields, changes_between, shallow_copy, update_context, values_of
from flujo.domain.models import MergeStrategy
from flujo.exceptions import ContextUpdateError
from flujo.utils.copying import copy_context, copy_value
from flujo.utils.narrowing import is_dict
from flujo.utils.sameness import same_value

ContextT = TypeVar("ContextT", bound=BaseModel)
MergeFunction = Callable[[ContextT, dict[str, ContextT]], object]
"""A merge of the user's own: changes the context it is given, with the branch contexts by branch name."""

_MISSING: Any = object()
_SCRATCHPAD = "scratchpad"


def merge_branches(
    context: ContextT,
    branches: Mapping[str, ContextT],
    base: ContextT,
    strategy: MergeStrategy | MergeFunction[ContextT],
    field_mapping: Mapping[str, Collection[str]] | None = None,
    exclude: Collection[str] = frozenset(),
) -> None:
    """Bring what branches changed back into a context; on an error the context stays as it was.

    What is taken over is copied, so that the branches' contexts share nothing with it.
    Only `CONTEXT_UPDATE` validates; the other strategies take fields as the branches left them.

    Under `CONTEXT_UPDATE` the branches' changes add up: of a dict, the keys that a branch set or removed,
    and so on within nested dicts; of a list, the items a branch appended; of a set, what it added and removed.
    A dict, list or set that several branches made anew under one key of a dict adds up as if it had been empty before.
    For any other value the later branch wins: a tuple, and a list that a branch changed otherwise than by appending,
    as when it removed or inserted items, count as a whole.

    Args:
        context: Where the changes go.
        branches: The contexts of the branches that succeeded, in order of declaration.
        base: What the branches started from; it may be `context` itself.
        strategy: How changes come together. A function is given a copy of the context and the branches' contexts,
            changes the copy, and the fields it changed are taken over.
        field_mapping: The fields that a branch may bring back; a branch that is not named may bring back any.
            A function finds the other fields of a named branch as they were before.
        exclude: Fields that are never taken over.

    Raises:
        ContextUpdateError: Two branches are in conflict, a value does not fit, or there is no scratchpad to merge.
    """
    if strategy is MergeStrategy.NO_MERGE or not branches:
        return
    allowed = field_mapping or {}
    if not isinstance(strategy, MergeStrategy):
        shown = {name: _as_mapped(base, branch, allowed.get(name)) for name, branch in branches.items()}
        _merge_by_function(context, shown, strategy, exclude)
        return
    changes = (
        (name, changes_between(base, branch, only=allowed.get(name), exclude=exclude))
        for name, branch in branches.items()
    )
    _MERGES[strategy](context, base, changes)


_BranchChanges = Iterator[tuple[str, Iterator[tuple[str, Any]]]]
"""By branch, the fields it changed with their new values."""


def _as_mapped(base: ContextT, branch: ContextT, only: Collection[str] | None) -> ContextT:
    """Return a branch's context, with the fields that it may not bring back as they were before."""
    if only is None:
        return branch
    shown, before = shallow_copy(branch), values_of(base)
    for name in (shown.__pydantic_extra__ or {}).keys() - before.keys() - set(only):
        del (shown.__pydantic_extra__ or {})[name]
    assign_fields(shown, copy_value({name: value for name, value in before.items() if name not in only}))
    return shown


def _merge_by_function(
    context: ContextT,
    branches: Mapping[str, ContextT],
    function: MergeFunction[ContextT],
    exclude: Collection[str],
) -> None:
    merged = copy_context(context)
    function(merged, dict(branches))
    assign_fields(context, copy_value(dict(changes_between(context, merged, exclude=exclude))))


def _overwrite(context: BaseModel, base: BaseModel, changes: _BranchChanges) -> None:
    merged = dict[str, Any]()
    for _, changed in changes:
        merged.update(changed)
    assign_fields(context, copy_value(merged))


def _keep_first(context: BaseModel, base: BaseModel, changes: _BranchChanges) -> None:
    merged = dict[str, Any]()
    for _, changed in changes:
        for field, value in changed:
            merged.setdefault(field, value)
    assign_fields(context, copy_value(merged))


def _agree(context: BaseModel, base: BaseModel, changes: _BranchChanges) -> None:
    before, now = values_of(base).get(_SCRATCHPAD), values_of(context).get(_SCRATCHPAD)
    fields, keys = _Agreement(), _Agreement()
    for branch, changed in changes:
        for field, value in changed:
            if field == _SCRATCHPAD and is_dict(before) and is_dict(now) and is_dict(value):
                keys.add_scratchpad(branch, before, value)
            else:
                fields.add(branch, field, value, what=f"the field {field!r}", field=field)
    assign_fields(context, copy_value(fields.values))
    if is_dict(now):
        _write_scratchpad(context, now, keys.values)


def _merge_scratchpad(context: BaseModel, base: BaseModel, changes: _BranchChanges) -> None:
    now = _scratchpad_in(values_of(context), "the context")
    before = _scratchpad_in(values_of(base), "the context")
    agreed = _Agreement()
    for branch, changed in changes:
        values = dict(changed)
        if _SCRATCHPAD in values:
            agreed.add_scratchpad(branch, before, _scratchpad_in(values, f"branch {branch!r}"))
    _write_scratchpad(context, now, agreed.values)


def _write_scratchpad(context: BaseModel, scratchpad: dict[Any, Any], values: Mapping[Any, Any]) -> None:
    """Set keys of a context's scratchpad, and remove those whose value is `_MISSING`."""
    if not values:
        return
    kept = {key: value for key, value in values.items() if value is not _MISSING}
    for key in values.keys() - kept.keys():
        scratchpad.pop(key, None)
    scratchpad.update(copy_value(kept))
    assign_fields(context, {_SCRATCHPAD: scratchpad})


def _scratchpad_in(values: Mapping[str, object], holder: str) -> dict[Any, Any]:
    scratchpad = values.get(_SCRATCHPAD)
    if not is_dict(scratchpad):
        raise ContextUpdateError(
            f"{holder} has no dict called scratchpad to merge; use another merge strategy",
            fields=(_SCRATCHPAD,),
        )
    return scratchpad


def _changed_keys(before: dict[Any, Any], after: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the keys that were set, with their new values, and those that were removed, with `_MISSING`."""
    for key, value in after.items():
        if not same_value(before.get(key, _MISSING), value):
            yield key, value
    for key in before:
        if key not in after:
            yield key, _MISSING


def _add_up(context: BaseModel, base: BaseModel, changes: _BranchChanges) -> None:
    before, now = values_of(base), values_of(context)
    merged, sums = dict[str, Any](), _Sums()
    for _, changed in changes:
        for field, value in changed:
            so_far = merged.get(field, now.get(field, _MISSING))
            merged[field] = sums.add(before.get(field, _MISSING), so_far, value)
    update_context(context, merged)


_MERGES: dict[MergeStrategy, Callable[[BaseModel, BaseModel, _BranchChanges], None]] = {
    MergeStrategy.OVERWRITE: _overwrite,
    MergeStrategy.KEEP_FIRST: _keep_first,
    MergeStrategy.ERROR_ON_CONFLICT: _agree,
    MergeStrategy.MERGE_SCRATCHPAD: _merge_scratchpad,
    MergeStrategy.CONTEXT_UPDATE: _add_up,
}


class _Agreement:
    """What branches set, as long as no two of them set the same thing differently.

    Attributes:
        values: What was set, by field or by key.
    """

    def __init__(self) -> None:
        self.values = dict[Any, Any]()
        self._setters = dict[Any, str]()

    def add(self, branch: str, key: object, value: object, *, what: str, field: str) -> None:
        if key not in self.values:
            self.values[key] = value
            self._setters[key] = branch
        elif not same_value(self.values[key], value):
            raise ContextUpdateError(
                f"branches {self._setters[key]!r} and {branch!r} changed {what} differently; let only "
                "one of them bring it back with field_mapping, or use another merge strategy",
                fields=(field,),
            )

    def add_scratchpad(self, branch: str, before: dict[Any, Any], after: dict[Any, Any]) -> None:
        """Add the keys of the scratchpad that a branch set, and those that it removed as `_MISSING`."""
        for key, value in _changed_keys(before, after):
            self.add(branch, key, value, what=f"the scratchpad key {key!r}", field=_SCRATCHPAD)


class _Sums:
    """Adds up changes of dicts, lists and sets without writing to what others hold.

    A container is copied, one level of it, before it is first written to; from then on it is our own,
    so that many branches cost no more than what each of them changed.
    """

    def __init__(self) -> None:
        self._own = dict[int, Any]()  # by identity, and kept, so that the identity stays theirs

    def add(self, before: object, so_far: object, after: object) -> Any:
        """Return the sum so far with what a branch changed, `_MISSING` standing for no value."""
        kind = type(after)
        if type(so_far) is kind and (before is _MISSING or type(before) is kind):
            if issubclass(kind, dict):
                return self._add_dict({} if before is _MISSING else before, so_far, after)
            if issubclass(kind, set):
                return self._add_set(set() if before is _MISSING else before, so_far, after)
            if issubclass(kind, list):
                return self._add_list([] if before is _MISSING else before, so_far, after)
        return copy_value(after)

    def _add_dict(self, before: Any, so_far: Any, after: Any) -> Any:
        total = self._made_own(so_far)
        for key, value in _changed_keys(before, after):
            if value is _MISSING:
                total.pop(key, None)
            else:
                was = before.get(key, _MISSING)
                total[key] = self.add(was, total.get(key, _MISSING), value)
        return total

    def _add_set(self, before: Any, so_far: Any, after: Any) -> Any:
        total = self._made_own(so_far)
        total -= before - after
        total |= after - before
        return total

    def _add_list(self, before: Any, so_far: Any, after: Any) -> Any:
        if not same_value(before[:], after[: len(before)]):
            return copy_value(after)
        total = self._made_own(so_far)
        total += copy_value(after[len(before) :])
        return total

    def _made_own(self, container: Any) -> Any:
        if id(container) not in self._own:
            container = copy.copy(container)
            self._own[id(container)] = container
        return container
