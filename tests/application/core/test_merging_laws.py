"""Merging does what the plainest merge does, whatever the branches did."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
)

from flujo.application.core.merging import merge_branches
from flujo.domain.models import MergeStrategy
from flujo.exceptions import ContextUpdateError
from flujo.utils.copying import copy_context, copy_value
from flujo.utils.sameness import same_value
from tests.application.core.contexts import mutable_parts, values


class Small(BaseModel):
    scratchpad: dict[str, Any] = {}
    items: list[Any] = []
    tags: set[int] = set()
    label: Any = None


_FIELDS = tuple(Small.model_fields)
_dicts = st.dictionaries(st.sampled_from("abc"), values, max_size=3)
_small = st.builds(
    Small,
    scratchpad=_dicts,
    items=st.lists(values, max_size=3),
    tags=st.sets(st.integers(0, 4)),
    label=values,
)


@st.composite
def _bases_and_branches(draw: st.DrawFn) -> tuple[Small, dict[str, Small]]:
    """Draw a context, and branches that changed some of it."""
    base = draw(_small)
    branches: dict[str, Small] = {}
    for number in range(draw(st.integers(0, 4))):
        branch = branches[f"b{number}"] = deepcopy(base)
        for name in draw(st.sets(st.sampled_from(_FIELDS))):
            setattr(branch, name, _changed(draw, getattr(branch, name)))
    return base, branches


def _kind(value: object) -> type:
    return type(value)


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """Draw a small change of a value, or another value."""
    kind = _kind(value)
    if kind not in {list, dict, set}:
        return draw(values)
    if draw(st.booleans()):
        return draw(_others[kind])
    if kind is list:
        return [*value, draw(values)]
    if kind is set:
        return value ^ {draw(st.integers(0, 4))}
    keys = draw(st.sets(st.sampled_from("abc")))
    return {**value, **{key: _changed(draw, value.get(key)) for key in keys}}


_others: dict[type, st.SearchStrategy[Any]] = {
    list: st.lists(values, max_size=3),
    dict: _dicts,
    set: st.sets(st.integers(0, 4)),
}
_drawn = _bases_and_branches()
_GONE: Any = object()
_EMPTY: dict[type, Any] = {list: [], dict: {}, set: set()}


def _reference(base: Small, branches: dict[str, Small], strategy: MergeStrategy) -> Small | None:
    """Merge in the plainest way there is: all values copied at every turn; `None` for an error."""
    result = deepcopy(base)
    for name in _FIELDS:
        values = [deepcopy(getattr(branch, name)) for branch in branches.values()]
        start = getattr(base, name)
        changed = [value for value in values if not same_value(value, start)]
        match strategy:
            case MergeStrategy.OVERWRITE if changed:
                setattr(result, name, changed[-1])
            case MergeStrategy.KEEP_FIRST if changed:
                setattr(result, name, changed[0])
            case MergeStrategy.ERROR_ON_CONFLICT if changed and name != "scratchpad":
                if any(not same_value(changed[0], value) for value in changed):
                    return None
                setattr(result, name, changed[0])
            case MergeStrategy.CONTEXT_UPDATE:
                for value in changed:
                    setattr(result, name, _sum(start, getattr(result, name), value))
            case MergeStrategy.MERGE_SCRATCHPAD | MergeStrategy.ERROR_ON_CONFLICT if name == "scratchpad":
                for key in "abc":
                    was = start.get(key, _GONE)
                    new = [v for v in (value.get(key, _GONE) for value in values) if not same_value(v, was)]
                    if any(not same_value(new[0], value) for value in new):
                        return None
                    if new and new[0] is _GONE:
                        del result.scratchpad[key]
                    elif new:
                        result.scratchpad[key] = new[0]
            case _:
                pass
    return result


def _sum(start: Any, total: Any, value: Any) -> Any:
    kind = _kind(value)
    if start is _GONE and kind in _EMPTY:
        start = copy_value(_EMPTY[kind])
    kinds: set[type] = {type(start), type(total), kind}
    if kinds == {dict}:
        added = {
            key: _sum(start.get(key, _GONE), total.get(key, _GONE), value[key])
            for key in value
            if not same_value(value[key], start.get(key, _GONE))
        }
        removed = start.keys() - value.keys()
        return {key: each for key, each in {**total, **added}.items() if key not in removed}
    if kinds == {set}:
        return (total - (start - value)) | (value - start)
    if kinds == {list} and same_value(start, value[: len(start)]):
        return total + value[len(start) :]
    return value


@given(_drawn, st.sampled_from(MergeStrategy))
def test_merging_does_what_the_plainest_merge_does(
    drawn: tuple[Small, dict[str, Small]], strategy: MergeStrategy
) -> None:
    """Every strategy gives what the reference gives; an error leaves the context as it was.

    The branches stay as they were, and share nothing with the context.
    """
    base, branches = drawn
    context, before, kept = copy_context(base), deepcopy(base), deepcopy(branches)
    expected = _reference(base, branches, strategy)

    if expected is None:
        with pytest.raises(ContextUpdateError):
            merge_branches(context, branches, base, strategy)
        expected = base
    else:
        merge_branches(context, branches, base, strategy)

    assert same_value(context, expected)
    assert same_value(base, before)
    assert same_value(branches, kept)
    theirs = set[int]().union(*map(mutable_parts, branches.values()))
    assert not mutable_parts(context) & theirs


@given(_drawn)
def test_a_merge_may_start_from_the_context_itself(drawn: tuple[Small, dict[str, Small]]) -> None:
    """The result is the same whether the base is the context or a copy of it."""
    base, branches = drawn
    context = copy_context(base)

    merge_branches(context, branches, copy_context(base), MergeStrategy.CONTEXT_UPDATE)
    merge_branches(base, branches, base, MergeStrategy.CONTEXT_UPDATE)

    assert same_value(context, base)
