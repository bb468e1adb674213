"""A context is copied for a branch, and what branches changed is merged back.

A context is any pydantic model; nothing here knows what it holds, apart from the two fields that every copy carries.

Copies are structural: containers and models are rebuilt and immutable values are shared, without validation and,
for the usual types, without `copy.deepcopy`, because ten thousand branches mean ten thousand copies.
A memo from identities to copies, the same that `copy.deepcopy` keeps, makes cycles end and shared parts stay shared.

A merge asks of every branch what differs from the base, decides on the side, and touches the context last:
an error leaves it as it was.
"""

import copy
import copyreg
import difflib
import logging
import re
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import BuiltinFunctionType, EllipsisType, FunctionType, NoneType
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flujo.domain.models import MergeStrategy
from flujo.exceptions import ContextUpdateError
from flujo.utils.narrowing import is_dict

_logger = logging.getLogger(__name__)

ContextT = TypeVar("ContextT", bound=BaseModel)
ValueT = TypeVar("ValueT")
MergeFunction = Callable[[ContextT, dict[str, ContextT]], object]
"""A merge of the user's own: changes the context it is given, with the branch contexts by branch name."""

_Memo = dict[int, Any]

_COMPARED_BY_EQ: frozenset[type] = frozenset(
    {NoneType, EllipsisType, bool, int, str, bytes, UUID, type, FunctionType, BuiltinFunctionType}
)
"""Immutable types of which two equal values cannot be told apart."""

_IMMUTABLE: frozenset[type] = _COMPARED_BY_EQ | {
    *(float, complex, Decimal, Fraction, range, frozenset, re.Pattern),
    *(datetime, date, time, timedelta, timezone),
    *(PosixPath, PurePosixPath, WindowsPath, PureWindowsPath),
}
"""Types whose values every copy shares; what is in a set or a key of a dict counts as immutable too."""

OWNED_BY_THE_RUN = frozenset({"run_id", "initial_prompt", "hitl_history"})
"""Context fields that the engine keeps itself: no step updates them, and no branch brings them back."""

_CARRIED = ("run_id", "initial_prompt")  # a branch works for the same run, whatever else it gets
_MISSING: Any = object()
_SCRATCHPAD = "scratchpad"
_MOST_REASONS = 3  # reasons that one message tells of

_set_slot = object.__setattr__  # reaches the slots of a model past its validation, frozen or not


# Copying


def copy_context(context: ContextT, *, include: Collection[str] | None = None) -> ContextT:
    """Return an independent copy of a context, for a branch.

    What cannot be copied, such as a client or a lock, is shared; so are the elements of sets and the keys of dicts.
    Parts that are shared within the context are shared within the copy.

    Args:
        context: Any pydantic model; private attributes are copied as well.
        include: The fields to copy; the others have their defaults.
            Required fields, `run_id` and `initial_prompt` are copied in any case. `None` for all fields.
    """
    if include is None:
        return _copy_model(context, {})
    return _copy_included(context, include)


def copy_value(value: ValueT) -> ValueT:
    """Return an independent copy of a value, by the rules of `copy_context`."""
    return _copy(value, {})


def _copy(value: ValueT, memo: _Memo) -> ValueT:
    copier = _COPIERS.get(type(value), _copy_other)
    return value if copier is None else copier(value, memo)


# A copier is given a value that is not immutable, and a memo to look it up in.
# The loops below are `_copy` written out, which halves the time that a context takes.


def _copy_dict(values: dict[Any, object], memo: _Memo) -> dict[Any, Any]:
    known: dict[Any, Any] | None = memo.get(id(values))
    if known is not None:
        return known
    copied: dict[Any, Any] = {}
    memo[id(values)] = copied
    for key, value in values.items():
        copier = _COPIERS.get(type(value), _copy_other)
        copied[key] = value if copier is None else copier(value, memo)
    return copied


def _copy_list(values: list[object], memo: _Memo) -> list[Any]:
    known: list[Any] | None = memo.get(id(values))
    if known is not None:
        return known
    copied: list[Any] = []
    memo[id(values)] = copied
    for value in values:
        copier = _COPIERS.get(type(value), _copy_other)
        copied.append(value if copier is None else copier(value, memo))
    return copied


def _copy_set(values: set[Any], memo: _Memo) -> set[Any]:
    known: set[Any] | None = memo.get(id(values))
    if known is None:
        known = memo[id(values)] = values.copy()
    return known


def _copy_tuple(values: tuple[Any, ...], memo: _Memo) -> tuple[Any, ...]:
    known: tuple[Any, ...] | None = memo.get(id(values))
    if known is not None:
        return known
    copied = tuple([_copy(value, memo) for value in values])
    if all(new is old for new, old in zip(copied, values, strict=True)):
        copied = values
    # A tuple that contains itself through a list was copied on the way, and that copy is the one in use.
    return memo.setdefault(id(values), copied)  # type: ignore[no-any-return]  # the memo has no type for it


def _copy_other(value: ValueT, memo: _Memo) -> ValueT:
    known: ValueT | None = memo.get(id(value))
    if known is not None:
        return known
    if isinstance(value, BaseModel) and type(value).__deepcopy__ is BaseModel.__deepcopy__:
        return _copy_model(value, memo)
    return _copy_object(value, memo)


_Copier = Callable[[Any, _Memo], Any]

_COPIERS: dict[type, _Copier | None] = {
    **dict.fromkeys(_IMMUTABLE),
    dict: _copy_dict,
    list: _copy_list,
    set: _copy_set,
    tuple: _copy_tuple,
}
"""How each exact type is copied; `None` for the immutable ones."""


def _copy_model(model: ContextT, memo: _Memo) -> ContextT:
    cls = type(model)
    copied = cls.__new__(cls)
    memo[id(model)] = copied
    values: dict[str, object] = vars(model).copy()
    for name, value in values.items():
        if (copier := _COPIERS.get(type(value), _copy_other)) is not None:
            values[name] = copier(value, memo)
    extra, private = model.__pydantic_extra__, model.__pydantic_private__
    _set_slot(copied, "__dict__", values)
    _set_slot(copied, "__pydantic_fields_set__", model.__pydantic_fields_set__.copy())
    _set_slot(copied, "__pydantic_extra__", extra if extra is None else _copy_dict(extra, memo))
    _set_slot(copied, "__pydantic_private__", private if private is None else _copy_dict(private, memo))
    return copied


def _copy_object(value: ValueT, memo: _Memo) -> ValueT:
    """Return a deep copy, or the object itself where there can be none."""
    known = len(memo)
    try:
        return copy.deepcopy(value, memo)
    except RecursionError:
        raise  # it could be copied, and sharing it would let branches write to each other
    except Exception as error:  # copying runs code of the user's; a lock or a socket has no copy
        _logger.debug("branches share a %s: %s", type(value).__name__, error)
        while len(memo) > known:  # half-made copies, in the order they were begun
            memo.popitem()
        memo[id(value)] = value
        return value


def _copy_included(context: ContextT, include: Collection[str]) -> ContextT:
    """Return a copy with the defaults of the fields that are not included."""
    held, memo = vars(context), _Memo()
    values: dict[str, Any] = {}
    kept = {*include, *_CARRIED}
    for name, make_default in _default_makers(type(context)).items():
        if make_default is not None and name not in kept:
            values[name] = make_default(values)
        elif name in held:
            kept.add(name)
            values[name] = _copy(held[name], memo)
    extra, private = context.__pydantic_extra__, context.__pydantic_private__
    if extra is not None:
        extra = {name: _copy(value, memo) for name, value in extra.items() if name in kept}
    if private is not None:
        private = _copy_dict(private, memo)
    return _make(type(context), values, context.__pydantic_fields_set__ & kept, extra, private)


@lru_cache
def _default_makers(
    cls: type[BaseModel],
) -> dict[str, Callable[[dict[str, Any]], Any] | None]:
    """Return by field what makes its default of the fields before it; `None` for a required field."""
    return {name: None if field.is_required() else _default_maker(field) for name, field in cls.model_fields.items()}


def _default_maker(field: FieldInfo) -> Callable[[dict[str, Any]], Any]:
    factory: Any = field.default_factory
    if factory is None:
        return lambda values: copy_value(field.default)
    return factory if field.default_factory_takes_validated_data else lambda values: factory()


def _make(
    cls: type[ContextT],
    values: dict[str, Any],
    fields_set: set[str],
    extra: dict[str, Any] | None,
    private: dict[str, Any] | None,
) -> ContextT:
    """Return a model of these parts, without validation."""
    made = cls.__new__(cls)
    _set_slot(made, "__dict__", values)
    _set_slot(made, "__pydantic_fields_set__", fields_set)
    _set_slot(made, "__pydantic_extra__", extra)
    _set_slot(made, "__pydantic_private__", private)
    return made


# Comparing


def same_value(a: object, b: object) -> bool:
    """Tell whether two values cannot be told apart, which is stricter than `==`.

    Types count at every depth, so `True`, `1` and `1.0` all differ, as do `0.0` and `-0.0`; NaN is the same as NaN.
    The order of a dict's keys does not count, and of models only the fields do.
    Any other object is the same as one that is made of the same parts, those that `copy.deepcopy` would make it of;
    an object that cannot be taken apart is asked by `==`, and differs if that fails or gives no bool.
    """
    return a is b or _same(a, b, {})


_Seen = dict[tuple[int, int], tuple[object, object]]
"""The pairs whose comparison has begun, which ends cycles: the first difference ends everything anyway.

The values are kept, so that no other object gets their identity meanwhile.
"""


def _same(a: object, b: object, seen: _Seen) -> bool:
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b):
        return False
    if kind in _COMPARED_BY_EQ:
        return bool(a == b)
    if kind is float:
        return repr(a) == repr(b)
    comparer = _COMPARERS.get(kind)
    if comparer is not None and not a:
        return not b
    pair = (id(a), id(b))
    if pair in seen:
        return True
    seen[pair] = (a, b)
    if comparer is not None:
        return comparer(a, b, seen)
    if isinstance(a, BaseModel) and isinstance(b, BaseModel):
        return _same_model(a, b, seen)
    return _same_object(a, b, seen)


def _same_items(a: Sequence[object], b: Sequence[object], seen: _Seen) -> bool:
    return len(a) == len(b) and all(_same(x, y, seen) for x, y in zip(a, b, strict=True))


def _same_keys(a: Collection[object], b: Collection[object], seen: _Seen) -> bool:
    others = {key: key for key in b}
    return len(a) == len(others) and all(key in others and _same(key, others[key], seen) for key in a)


def _same_dict(a: dict[Any, Any], b: dict[Any, Any], seen: _Seen) -> bool:
    return _same_keys(a, b, seen) and all(_same(value, b[key], seen) for key, value in a.items())


def _same_model(a: BaseModel, b: BaseModel, seen: _Seen) -> bool:
    ours, theirs = vars(a), vars(b)
    return all(
        _same(ours.get(name, _MISSING), theirs.get(name, _MISSING), seen) for name in type(a).model_fields
    ) and _same(a.__pydantic_extra__, b.__pydantic_extra__, seen)


def _same_object(a: Any, b: Any, seen: _Seen) -> bool:
    if isinstance(a, Enum | type):
        return False
    if issubclass(type(a), set | frozenset):
        return _same_keys(a, b, seen)
    parts, other_parts = _parts_of(a), _parts_of(b)
    if parts is None or other_parts is None:
        return _equal(a, b)
    return _same_items(parts, other_parts, seen)


_COMPARERS: dict[type, Callable[[Any, Any, _Seen], bool]] = {
    dict: _same_dict,
    list: _same_items,
    tuple: _same_items,
    set: _same_keys,
    frozenset: _same_keys,
}


def _parts_of(value: object) -> list[object] | None:
    """Return what `copy.deepcopy` would make an object of, or `None` if it makes none.

    Source: `object.__reduce__` in the pickle protocol: a function, its arguments, a state, list items, dict items.
    """
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        recipe: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
    except Exception as error:  # this runs code of the user's, and not every object can be taken apart
        _logger.debug("a %s is compared by ==: %s", type(value).__name__, error)
        return None
    if isinstance(recipe, str):
        return None
    state, items, pairs, setter = [*recipe[2:], None, None, None, None][:4]
    return [recipe[0], recipe[1], state, list(items or ()), dict(pairs or ()), setter]


def _equal(a: Any, b: Any) -> bool:
    try:
        return (a == b) is True
    except Exception as error:  # == is code of the user's
        _logger.debug("two values of %s count as different: %s", type(a).__name__, error)
        return False


def changed_fields(before: BaseModel, after: BaseModel) -> dict[str, Any]:
    """Return the new values of the fields in which a context differs, by `same_value`.

    The values are those of `after`, not copies.
    Extra fields are included; one that `after` no longer has is not.
    """
    return dict(_changes(before, after))


def _changes(
    before: BaseModel,
    after: BaseModel,
    *,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> Iterator[tuple[str, Any]]:
    old, fields, extra = _values_of(before), type(after).__pydantic_fields__, after.__pydantic_extra__
    for name, value in _values_of(after).items():
        if value is (was := old.get(name, _MISSING)) or name in exclude:
            continue
        if only is not None and name not in only:
            continue
        is_field = name in fields or (extra is not None and name in extra)  # not a cached property
        if is_field and not same_value(was, value):
            yield name, value


def _values_of(context: BaseModel) -> dict[str, Any]:
    """Return the fields of a context by name, extra ones included."""
    extra = context.__pydantic_extra__
    return {**vars(context), **extra} if extra else vars(context)


# Updating


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
        if not same_value(_values_of(context).get(name, _MISSING), changes[name]):
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


def _shallow_copy(context: ContextT) -> ContextT:
    """Return a context of its own that shares its values."""
    extra, private = context.__pydantic_extra__, context.__pydantic_private__
    return _make(
        type(context),
        vars(context).copy(),
        context.__pydantic_fields_set__.copy(),
        extra if extra is None else extra.copy(),
        private if private is None else private.copy(),
    )


def _validate_each(context: ContextT, changes: Mapping[str, Any]) -> ContextT:
    """Return a shallow copy with the changes, validated one by one."""
    changed = _shallow_copy(context)
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
    valid = _values_of(validated)
    taken = {name: valid[name] for name in changes if name in valid}
    if cls.__pydantic_decorators__.model_validators:
        taken = {**dict(_changes(context, validated)), **taken}
    changed = _shallow_copy(context)
    _assign(changed, taken)
    return changed


def _field_values(context: BaseModel) -> dict[str, Any]:
    """Return what a context of the same state would be made of."""
    values, fields = vars(context), type(context).model_fields
    return {
        **{name: values[name] for name in fields if name in values},
        **(context.__pydantic_extra__ or {}),
    }


def _assign(context: BaseModel, values: Mapping[str, Any]) -> None:
    """Set fields of a context, frozen or not, without validation."""
    fields, extra = type(context).model_fields, context.__pydantic_extra__
    for name, value in values.items():
        target = vars(context) if name in fields or extra is None else extra
        target[name] = value
        context.__pydantic_fields_set__.add(name)


def _take_over(context: BaseModel, changed: BaseModel) -> None:
    """Give a context the whole state of another, which is not used any more."""
    for slot in BaseModel.__slots__:
        _set_slot(context, slot, getattr(changed, slot))


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


# Merging


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
        (name, _changes(base, branch, only=allowed.get(name), exclude=exclude)) for name, branch in branches.items()
    )
    _MERGES[strategy](context, base, changes)


_BranchChanges = Iterator[tuple[str, Iterator[tuple[str, Any]]]]
"""By branch, the fields it changed with their new values."""


def _as_mapped(base: ContextT, branch: ContextT, only: Collection[str] | None) -> ContextT:
    """Return a branch's context, with the fields that it may not bring back as they were before."""
    if only is None:
        return branch
    shown, before = _shallow_copy(branch), _values_of(base)
    for name in (shown.__pydantic_extra__ or {}).keys() - before.keys() - set(only):
        del (shown.__pydantic_extra__ or {})[name]
    _assign(shown, copy_value({name: value for name, value in before.items() if name not in only}))
    return shown


def _merge_by_function(
    context: ContextT,
    branches: Mapping[str, ContextT],
    function: MergeFunction[ContextT],
    exclude: Collection[str],
) -> None:
    merged = copy_context(context)
    function(merged, dict(branches))
    _assign(context, copy_value(dict(_changes(context, merged, exclude=exclude))))


def _overwrite(context: BaseModel, base: BaseModel, changes: _BranchChanges) -> None:
    merged = dict[str, Any]()
    for _, changed in changes:
        merged.update(changed)
    _assign(context, copy_value(merged))


def _keep_first(context: BaseModel, base: BaseModel, changes: _BranchChanges) -> None:
    merged = dict[str, Any]()
    for _, changed in changes:
        for field, value in changed:
            merged.setdefault(field, value)
    _assign(context, copy_value(merged))


def _agree(context: BaseModel, base: BaseModel, changes: _BranchChanges) -> None:
    before, now = _values_of(base).get(_SCRATCHPAD), _values_of(context).get(_SCRATCHPAD)
    fields, keys = _Agreement(), _Agreement()
    for branch, changed in changes:
        for field, value in changed:
            if field == _SCRATCHPAD and is_dict(before) and is_dict(now) and is_dict(value):
                keys.add_scratchpad(branch, before, value)
            else:
                fields.add(branch, field, value, what=f"the field {field!r}", field=field)
    _assign(context, copy_value(fields.values))
    if is_dict(now):
        _write_scratchpad(context, now, keys.values)


def _merge_scratchpad(context: BaseModel, base: BaseModel, changes: _BranchChanges) -> None:
    now = _scratchpad_in(_values_of(context), "the context")
    before = _scratchpad_in(_values_of(base), "the context")
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
    _assign(context, {_SCRATCHPAD: scratchpad})


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
    before, now = _values_of(base), _values_of(context)
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
