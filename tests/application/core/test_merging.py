"""What branches changed in their contexts comes back as the strategy says."""

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from pydantic import (
    BaseModel,
)

from flujo.application.core.merging import merge_branches
from flujo.domain.models import MergeStrategy
from flujo.exceptions import ContextUpdateError
from flujo.utils.copying import copy_context
from flujo.utils.sameness import same_value
from tests.application.core.contexts import NAN, Array, Context, Frozen, Open, Thing, make_context, merged


def _set(**values: Any) -> Callable[[Any], object]:
    def write(context: Any) -> None:
        for name, value in values.items():
            setattr(context, name, value)

    return write


def _nothing(context: object) -> None:
    pass


def _put(*path: str, value: Any) -> Callable[[Any], object]:
    """Set a key below the table."""

    def write(context: Any) -> None:
        target = context.table
        for key in path[:-1]:
            target = target.setdefault(key, {})
        target[path[-1]] = value

    return write


def test_no_merge_brings_nothing_back() -> None:
    """The branches' changes stay in the branches."""
    context = merged(make_context(), MergeStrategy.NO_MERGE, _set(count=1))

    assert context == make_context()


@pytest.mark.parametrize(("strategy", "count"), [(MergeStrategy.OVERWRITE, 2), (MergeStrategy.KEEP_FIRST, 1)])
def test_one_branch_wins(strategy: MergeStrategy, count: int) -> None:
    """Of the branches that changed a field the last or first declared wins; whole fields come back."""
    context = merged(
        make_context(label="old", table={"x": 0}),
        strategy,
        _nothing,
        _set(count=1, table={"a": 1}),
        _set(count=2, table={"b": 2}),
        _set(label="new"),
        _nothing,
    )

    assert (context.count, context.label) == (count, "new")
    assert context.table == {"a": 1} if count == 1 else {"b": 2}


def test_a_copy_of_an_untouched_object_is_no_change() -> None:
    """An object that `==` cannot compare does not hide what a branch did to it."""
    context = merged(
        make_context(client=Thing([1]), items=[Array(1)]),
        MergeStrategy.KEEP_FIRST,
        _nothing,
        lambda branch: branch.client.x.append(2),
    )

    assert context.client.x == [1, 2]


def test_a_conflict_names_field_and_branches() -> None:
    """Two branches that changed a field differently are an error, and nothing comes back."""
    context = make_context()

    with pytest.raises(ContextUpdateError, match="branches 'b' and 'd' changed the field 'count'") as caught:
        merged(
            context,
            MergeStrategy.ERROR_ON_CONFLICT,
            _set(label="x"),
            _set(count=1),
            _set(count=1),
            _set(count=2),
        )

    assert caught.value.fields == ("count",)
    assert context == make_context()


def test_agreement_is_no_conflict() -> None:
    """Two branches that changed a field to the same value agree."""
    context = merged(
        make_context(), MergeStrategy.ERROR_ON_CONFLICT, _set(count=1, items=[NAN]), _set(count=1, items=[NAN])
    )

    assert context.count == 1


def test_scratchpads_merge_key_by_key() -> None:
    """Keys that were set or removed come back, other fields do not."""
    base = make_context(count=1)
    base.scratchpad.update(kept=[0], gone=1, changed=1)
    kept = base.scratchpad["kept"]

    def remove(branch: Context) -> None:
        del branch.scratchpad["gone"]
        branch.scratchpad["new"] = [1]

    context = merged(
        base,
        MergeStrategy.MERGE_SCRATCHPAD,
        remove,
        lambda branch: branch.scratchpad.update(changed=2, new=[1]),
        _set(count=5),
    )

    assert context.scratchpad == {"kept": [0], "changed": 2, "new": [1]}
    assert context.scratchpad["kept"] is kept
    assert context.count == 1


def _set_key(scratchpad: dict[str, Any]) -> None:
    scratchpad["k"] = 2


def _remove_key(scratchpad: dict[str, Any]) -> None:
    del scratchpad["k"]


def test_different_keys_of_a_scratchpad_are_no_conflict() -> None:
    """Branches that agree on the fields may each set keys of their own."""
    context = merged(
        make_context(scratchpad={"gone": 1}),
        MergeStrategy.ERROR_ON_CONFLICT,
        lambda branch: branch.scratchpad.update(a=1),
        lambda branch: branch.scratchpad.update(b=branch.scratchpad.pop("gone")),
        _set(count=1),
    )

    assert context.scratchpad == {"a": 1, "b": 1}
    assert context.count == 1


def test_a_scratchpad_that_is_no_dict_is_a_field_like_any_other() -> None:
    """Two branches that changed it differently are in conflict."""

    class Loose(BaseModel):
        scratchpad: Any = 0

    with pytest.raises(ContextUpdateError, match="branches 'a' and 'b' changed the field 'scratchpad'"):
        merged(Loose(), MergeStrategy.ERROR_ON_CONFLICT, _set(scratchpad=1), _set(scratchpad={}))


_BY_KEY = (MergeStrategy.MERGE_SCRATCHPAD, MergeStrategy.ERROR_ON_CONFLICT)


@pytest.mark.parametrize("strategy", _BY_KEY)
@pytest.mark.parametrize("other", [_set_key, _remove_key])
def test_a_scratchpad_conflict_names_key_and_branches(
    strategy: MergeStrategy, other: Callable[[dict[str, Any]], object]
) -> None:
    """A key that one branch set and another set differently or removed is an error."""
    context = make_context(scratchpad={"k": 0})

    with pytest.raises(ContextUpdateError, match="branches 'a' and 'b' changed the scratchpad key 'k'") as caught:
        merged(
            context,
            strategy,
            lambda branch: branch.scratchpad.update(k=1, more=1),
            lambda branch: other(branch.scratchpad),
        )

    assert caught.value.fields == ("scratchpad",)
    assert context == make_context(scratchpad={"k": 0})


def test_merging_scratchpads_needs_one() -> None:
    """A context without a scratchpad, or a branch that lost it, is an error."""

    class Loose(BaseModel):
        scratchpad: Any = {}

    with pytest.raises(ContextUpdateError, match="the context has no dict called scratchpad"):
        merged(Open(), MergeStrategy.MERGE_SCRATCHPAD, _nothing)
    with pytest.raises(ContextUpdateError, match="branch 'b' has no dict called scratchpad"):
        merged(Loose(), MergeStrategy.MERGE_SCRATCHPAD, _nothing, _set(scratchpad=3))


def test_no_append_is_lost() -> None:
    """A thousand branches that append one item each make a thousand items, in order of declaration."""
    context = make_context(items=["first"])
    branches: dict[str, Context] = {}
    for number in range(1000):
        branch = branches[f"b{number}"] = copy_context(context)
        branch.items.append(number)
        branch.table.setdefault("log", []).append(number)
        branch.scratchpad[f"key{number}"] = number
        branch.tags.add(number)

    merge_branches(context, branches, context, MergeStrategy.CONTEXT_UPDATE)

    assert context.items == ["first", *range(1000)]
    assert context.table == {"log": [*range(1000)]}
    assert context.scratchpad == {f"key{number}": number for number in range(1000)}
    assert context.tags == set(range(1000))


def test_context_updates_add_up() -> None:
    """Each kind of value adds up in its own way."""
    base = make_context(
        label="old",
        items=[1, 2],
        table={"gone": 1, "deep": {"a": 1, "b": 1, "list": [0]}, "kept": []},
        tags={1, 2},
        pair=(1,),
    )

    def first(branch: Context) -> None:
        branch.items.append(3)
        del branch.table["gone"]
        branch.table["deep"].update(a=2, list=[0, 1])
        branch.tags.remove(1)
        branch.pair = (1, 2)

    def second(branch: Context) -> None:
        branch.items.append(4)
        branch.table["deep"].update(b=2, list=[0, 2], new={"x": 1})
        branch.tags.add(3)
        branch.pair = (1, 3)
        branch.label = "second"

    context = merged(base, MergeStrategy.CONTEXT_UPDATE, first, second)

    assert context.items == [1, 2, 3, 4]
    assert context.table == {
        "deep": {"a": 2, "b": 2, "list": [0, 1, 2], "new": {"x": 1}},
        "kept": [],
    }
    assert context.tags == {2, 3}
    assert context.pair == (1, 3)
    assert context.label == "second"


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ([_set(items=[9]), _set(items=[1, 2, 3])], [9, 3]),
        ([_set(items=[1, 2, 3]), _set(items=[9])], [9]),
        ([_set(items=[1]), _set(items=[1, 2, 4])], [1, 4]),
        ([_set(items=[True, 2, 3]), _nothing], [True, 2, 3]),
    ],
)
def test_a_list_that_lost_its_beginning_wins_as_a_whole(
    writes: list[Callable[[Any], object]], expected: list[int]
) -> None:
    """A list that does not begin as it did replaces what came before, and later items come after it."""
    context = merged(make_context(items=[1, 2]), MergeStrategy.CONTEXT_UPDATE, *writes)

    assert same_value(context.items, expected)


def test_what_several_branches_made_anew_adds_up() -> None:
    """A dict or list under a new key adds up as if it had been there, empty."""
    context = merged(
        make_context(),
        MergeStrategy.CONTEXT_UPDATE,
        _put("stats", "a", value=[1]),
        _put("stats", "a", value=[2]),
        _put("stats", "b", value=3),
    )

    assert context.table == {"stats": {"a": [1, 2], "b": 3}}


def test_the_later_branch_wins_where_kinds_differ() -> None:
    """A value of another type is replaced whole, and so is one that an earlier branch removed."""
    context = merged(
        make_context(table={"x": {"a": 1}, "y": {"a": 1}, "z": {"a": 1}}),
        MergeStrategy.CONTEXT_UPDATE,
        lambda branch: branch.table.update(x=1),
        lambda branch: branch.table["x"].update(b=2),
        lambda branch: branch.table.pop("y"),
        lambda branch: branch.table["y"].update(b=2),
        lambda branch: branch.table.pop("z"),
        lambda branch: branch.table.pop("z"),
    )

    assert context.table == {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 2}}


def test_subclasses_of_containers_add_up_too() -> None:
    """A defaultdict stays one."""
    context = merged(
        make_context(client=defaultdict(list, a=[1])),
        MergeStrategy.CONTEXT_UPDATE,
        lambda branch: branch.client["a"].append(2),
        lambda branch: branch.client["b"].append(3),
    )

    assert same_value(context.client, defaultdict(list, a=[1, 2], b=[3]))


def test_a_context_update_is_validated() -> None:
    """A value that does not fit names the field, and nothing of any branch comes back."""
    context = make_context(items=[1], table={"a": {}})
    before = deepcopy(context)

    with pytest.raises(ContextUpdateError, match="count: Input should be a valid integer"):
        merged(
            context,
            MergeStrategy.CONTEXT_UPDATE,
            lambda branch: branch.items.append(2),
            lambda branch: branch.table["a"].update(b=1),
            lambda branch: branch.__dict__.update(count="many"),
        )

    assert context == before


def test_changes_are_measured_from_the_base() -> None:
    """A context that moved on after the branches began keeps what it gained."""
    base = make_context(items=[1], table={"a": 1})
    context, branch = copy_context(base), copy_context(base)
    context.items.append(2)
    context.table["b"] = 2
    branch.items.append(3)
    branch.table["c"] = 3

    merge_branches(context, {"x": branch}, base, MergeStrategy.CONTEXT_UPDATE)

    assert context.items == [1, 2, 3]
    assert context.table == {"a": 1, "b": 2, "c": 3}
    assert base == make_context(items=[1], table={"a": 1})


@pytest.mark.parametrize(
    "strategy",
    [MergeStrategy.OVERWRITE, MergeStrategy.KEEP_FIRST, MergeStrategy.ERROR_ON_CONFLICT, MergeStrategy.CONTEXT_UPDATE],
)
def test_a_mapping_limits_what_comes_back(strategy: MergeStrategy) -> None:
    """A named branch brings back its fields only, an unnamed one any, and excluded fields none does."""
    context = merged(
        make_context(),
        strategy,
        _set(count=1, label="a", run_id="other"),
        _set(tags={1}, initial_prompt="other"),
        field_mapping={"a": ["count", "run_id"]},
    )

    assert (context.count, context.label, context.tags) == (1, "", {1})
    assert (context.run_id, context.initial_prompt) == ("r1", "hello")


def test_frozen_and_open_contexts_merge() -> None:
    """Frozen fields and extra fields come back like others."""
    frozen = Frozen()
    merge_branches(frozen, {"a": Frozen(count=1), "b": Frozen(items=(2,))}, Frozen(), MergeStrategy.OVERWRITE)
    merge_branches(frozen, {"a": Frozen(log=["x"])}, Frozen(), MergeStrategy.CONTEXT_UPDATE)
    several = merged(Open(), MergeStrategy.CONTEXT_UPDATE, _set(x=[1]), _set(x=[2]))

    assert frozen == Frozen(count=1, items=(2,), log=["x"])
    assert several.model_dump() == {"count": 0, "x": [1, 2]}


def test_a_function_changes_the_context_it_is_given() -> None:
    """It sees the branches in order of declaration; what it changed is taken over, by value."""
    base = make_context(items=[0])
    table, seen = base.table, list[str]()
    branches = {"b": copy_context(base), "a": copy_context(base)}
    branches["a"].items.append(1)

    def merge(context: Context, contexts: dict[str, Context]) -> None:
        seen.extend(contexts)
        context.items = contexts["a"].items
        context.count += len(contexts)
        context.run_id = "other"

    merge_branches(base, branches, base, merge, exclude=frozenset({"run_id"}))

    assert seen == ["b", "a"]
    assert (base.items, base.count, base.run_id) == ([0, 1], 2, "r1")
    assert base.items is not branches["a"].items
    assert base.table is table


def _by_function(context: Context, contexts: dict[str, Context]) -> None:
    for branch in contexts.values():
        context.scratchpad["new"] = branch.scratchpad["new"]
        context.items = [branch.items[0]]
        context.client = branch.client


@pytest.mark.parametrize(
    "strategy", [_by_function, *(each for each in MergeStrategy if each is not MergeStrategy.NO_MERGE)]
)
def test_what_comes_back_is_the_contexts_own(strategy: Any) -> None:
    """A branch's context, which results show, does not change when the run goes on, nor the other way round."""
    base = Context(initial_prompt="")
    branch = copy_context(base)
    branch.scratchpad["new"] = [1]
    branch.items.append([1])
    branch.client = [[1]]

    merge_branches(base, {"a": branch}, base, strategy)
    branch.scratchpad["new"].append(2)
    branch.items[0].append(2)
    branch.client[0].append(2)

    if strategy is not MergeStrategy.MERGE_SCRATCHPAD:
        assert base.items == base.client == [[1]]
    assert base.scratchpad == {"new": [1]}
    assert "scratchpad" in base.model_fields_set


def test_a_function_that_fails_changes_nothing() -> None:
    """Its error comes through as it is."""
    base = make_context(items=[0])

    def merge(context: Context, contexts: dict[str, Context]) -> None:
        context.items.append(1)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        merge_branches(base, {"a": copy_context(base)}, base, merge)

    assert base == make_context(items=[0])
