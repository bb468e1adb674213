"""Contexts are copied for branches, compared, updated and merged."""

import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Annotated, Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    RootModel,
    ValidationInfo,
    field_validator,
    model_validator,
)

from flujo.application.core.context import (
    changed_fields,
    copy_context,
    copy_value,
    merge_branches,
    same_value,
    update_context,
)
from flujo.domain.models import MergeStrategy, PipelineContext
from flujo.exceptions import ContextUpdateError

NAN = float("nan")


class Color(Enum):
    RED = 1


@dataclass
class Point:
    x: Any
    tags: list[str] = field(default_factory=list[str])


@dataclass(eq=False)
class Thing:
    """Equal only to itself, as far as `==` knows."""

    x: Any


class Array:
    """Compares as arrays of numbers do: element by element."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def __eq__(self, other: object) -> Any:
        return [True]

    __hash__ = None  # type: ignore[assignment]  # as for arrays


class Closed:
    """Cannot be taken apart, and `==` answers whatever it is told to."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self.answer = answer

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("closed")

    def __eq__(self, other: object) -> Any:
        return self.answer()

    __hash__ = None  # type: ignore[assignment]  # not needed


class Client:
    """Holds a lock, so that there is no copy of it."""

    def __init__(self) -> None:
        self.peers: list[object] = [self]
        self.lock = threading.Lock()


class Note(BaseModel):
    text: str
    marks: list[int] = []


class Context(PipelineContext):
    count: int = 0
    label: str = ""
    items: list[Any] = Field(default_factory=list[Any])
    table: dict[str, Any] = Field(default_factory=dict[str, Any])
    tags: set[int] = Field(default_factory=set[int])
    pair: tuple[Any, ...] = ()
    note: Note | None = None
    client: Any = None

    _secret: list[int] = PrivateAttr(default_factory=list[int])

    def remember(self, number: int) -> Self:
        """Add to a private attribute."""
        self._secret.append(number)
        return self

    @property
    def remembered(self) -> list[int]:
        """What is in the private attribute."""
        return self._secret


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    count: int = 0


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)

    count: int = 0
    items: tuple[int, ...] = ()
    log: list[str] = []


class Range(BaseModel):
    low: int = 0
    high: int = 10
    width: int = 10
    log: list[str] = []

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse a range that ends before it begins."""
        if self.low > self.high:
            raise ValueError("low is above\nhigh")
        vars(self)["width"] = self.high - self.low
        return self


def _context(**values: Any) -> Context:
    return Context(initial_prompt="hello", run_id="r1", **values)


def _merged(
    base: Any,
    strategy: Any,
    *writes: Callable[[Any], object],
    exclude: frozenset[str] = frozenset({"run_id", "initial_prompt", "hitl_history"}),
    field_mapping: dict[str, list[str]] | None = None,
) -> Any:
    """Run each write on a branch called a, b, c, ..., merge the branches and return the context."""
    branches = {chr(ord("a") + number): copy_context(base) for number in range(len(writes))}
    for write, branch in zip(writes, branches.values(), strict=True):
        write(branch)
    merge_branches(base, branches, base, strategy, field_mapping, exclude)
    return base


# Copying


def test_a_copy_shares_nothing_that_can_change() -> None:
    """Fields of every kind, extras and private attributes are the copy's own."""
    context = _context(
        items=[[1], {2}, ({"deep": []},)],
        table={"point": Point(1), "note": Note(text="n")},
        tags={1},
        note=Note(text="a"),
    ).remember(1)
    before = deepcopy(context)

    copied = copy_context(context)
    copied.items[0].append(2)
    copied.items[1].add(3)
    copied.items[2][0]["deep"].append(4)
    copied.table["point"].tags.append("x")
    copied.table["note"].marks.append(1)
    copied.tags.add(2)
    assert copied.note is not None
    copied.note.marks.append(5)
    copied.scratchpad["key"] = 1
    copied.remember(2)

    assert context == before
    assert context.remembered == [1]
    assert copied.remembered == [1, 2]


def test_a_copy_of_a_model_with_extras_has_its_own() -> None:
    """Extra fields are copied like declared ones, and remain set."""
    context = Open.model_validate({"count": 1, "more": [1]})

    copied = copy_context(context)
    copied.__pydantic_extra__["more"].append(2)  # type: ignore[index]  # extras are allowed
    copied.count = 2

    assert context.model_dump() == {"count": 1, "more": [1]}
    assert copied.model_fields_set == {"count", "more"}


@pytest.mark.parametrize("model", [Frozen(items=(1,), log=["a"]), RootModel[list[int]]([1])])
def test_any_model_can_be_copied(model: BaseModel) -> None:
    """Frozen models and root models are copied like others."""
    copied = copy_context(model)

    assert copied == model
    assert copied is not model
    assert copied.model_dump() == model.model_dump()


def test_a_copy_remembers_which_fields_were_set() -> None:
    """What is set on a copy is not set on the original."""
    context = Note(text="x")

    copied = copy_context(context)
    copied.marks = [1]

    assert context.model_fields_set == {"text"}
    assert copied.model_fields_set == {"text", "marks"}


def test_immutable_values_are_shared() -> None:
    """A value that cannot change is not copied, nor is a tuple of such values."""
    values: list[Any] = [Color.RED, Decimal("1.5"), datetime.now(UTC), (1, ("a",)), frozenset({1})]

    assert all(copy_value(value) is value for value in values)


def test_what_cannot_be_copied_is_shared_as_a_whole() -> None:
    """A client with a lock stays itself everywhere, and no half-made copy of it is left."""
    client = Client()
    context = _context(client=client, items=[client, client.peers], table={"c": {"client": client}})

    copied = copy_context(context)

    assert copied.client is client
    assert copied.items[0] is client
    assert copied.items[1] == [client]
    assert copied.items[1] is not client.peers
    assert copied.table["c"]["client"] is client


def test_shared_parts_and_cycles_keep_their_shape() -> None:
    """A list that two fields share is one list in the copy too, and a cycle leads back into the copy."""
    shared: list[Any] = []
    loop: list[Any] = [shared]
    loop += [loop, (loop,), Point(loop)]
    context = _context()
    context.scratchpad.update(one=shared, two={"inner": shared}, loop=loop, self=context)

    copied = copy_context(context)
    pad = copied.scratchpad

    assert pad["one"] is pad["two"]["inner"] is pad["loop"][0]
    assert pad["one"] is not shared
    assert pad["loop"][1] is pad["loop"][2][0] is pad["loop"][3].x is pad["loop"]
    assert pad["self"] is copied


def test_a_tuple_in_a_cycle_is_copied_once() -> None:
    """A tuple that contains itself through a list is one tuple in the copy."""
    inner: list[Any] = []
    outer = (inner,)
    inner.append(outer)

    copied = copy_value(outer)

    assert copied is not outer
    assert copied[0][0] is copied


def test_nesting_of_shared_parts_is_copied_in_linear_time() -> None:
    """A value in which every level holds the next one twice is not unfolded."""
    value: list[Any] = []
    for _ in range(200):
        value = [value, value]

    copied = copy_value(value)

    assert copied[0] is copied[1]
    assert same_value(copied, value)


def test_nesting_that_is_too_deep_is_an_error() -> None:
    """A value too deep to copy is refused, not shared between branches."""
    point = Point(None)
    for _ in range(5000):
        point = Point(point)

    with pytest.raises(RecursionError):
        copy_value(point)


def test_a_nested_model_may_copy_itself() -> None:
    """A model with a `__deepcopy__` of its own decides how it is copied."""

    class Singleton(BaseModel):
        def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
            return self

    single = Singleton()

    assert copy_value([single])[0] is single


def _count_of(data: dict[str, Any]) -> list[int]:
    return [data["count"]]


class Partial(BaseModel):
    model_config = ConfigDict(extra="allow")

    run_id: str = "fresh"
    initial_prompt: str = "fresh"
    required: list[int]
    count: int = 1
    kept: list[int] = []
    left: list[int] = [0]
    derived: list[int] = Field(default_factory=_count_of)
    made: list[int] = Field(default_factory=lambda: [7])

    _private: list[int] = PrivateAttr(default=[1])


def test_only_included_fields_are_copied() -> None:
    """The other fields have their defaults, except those without which a branch could not be."""
    context = Partial.model_validate(
        {
            "run_id": "r",
            "initial_prompt": "p",
            "required": [1],
            "count": 2,
            "kept": [3],
            "left": [4],
            "derived": [5],
            "made": [6],
            "x": [7],
            "y": [8],
        }
    )

    copied = copy_context(context, include=["kept", "x"])

    assert copied.model_dump() == {
        "run_id": "r",
        "initial_prompt": "p",
        "required": [1],
        "count": 1,
        "kept": [3],
        "left": [0],
        "derived": [1],
        "made": [7],
        "x": [7],
    }
    assert copied.model_fields_set == {"run_id", "initial_prompt", "required", "kept", "x"}
    assert copied.required is not context.required
    assert copied.left is not Partial.model_fields["left"].default
    assert copied._private is not context._private  # pyright: ignore[reportPrivateUsage]  # the test is about it


# Comparing

_SAME: list[tuple[Any, Any]] = [
    (NAN, float("nan")),
    ([1, {"a": (NAN,)}], [1, {"a": (float("nan"),)}]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1, 2}, {2, 1}),
    (frozenset({"a"}), frozenset({"a"})),
    (Note(text="a"), Note(text="a", marks=[])),
    (Point(1), Point(1)),
    (Thing([1]), Thing([1])),
    (Array(1), Array(1)),
    (OrderedDict(a=1), OrderedDict(a=1)),
    (defaultdict(list, a=[1]), defaultdict(list, a=[1])),
    (Decimal("NaN"), Decimal("NaN")),
    (partial(max, 1), partial(max, 1)),
    (Closed(lambda: True), Closed(lambda: True)),
    (Open.model_validate({"x": 1}), Open.model_validate({"x": 1})),
]

_DIFFERENT: list[tuple[Any, Any]] = [
    (True, 1),
    (1, 1.0),
    (0.0, -0.0),
    (None, False),
    ([1], [True]),
    ([1], (1,)),
    ([1], [1, 2]),
    ([], [1]),
    ([1], []),
    ({"a": 1}, {"a": True}),
    ({1: "a"}, {True: "a"}),
    ({"a": None}, {"b": None}),
    ({1}, {True}),
    ({1}, {2}),
    (Point(x=1), Point(x=True)),
    (Thing([1]), Thing([2])),
    (Array(1), Array(2)),
    (OrderedDict(a=1), OrderedDict(a=True)),
    (deque([1]), deque([True])),
    (Decimal("1.0"), Decimal("1.00")),
    (complex(0.0, 0.0), complex(0.0, -0.0)),
    (
        datetime(2025, 1, 1, 1, tzinfo=UTC),
        datetime(2025, 1, 1, 2, tzinfo=timezone(timedelta(hours=1))),
    ),
    (Note(text="a"), Note(text="b")),
    (Open.model_validate({"x": 1}), Open.model_validate({"x": True})),
    (Closed(lambda: False), Closed(lambda: False)),
    (Closed(lambda: [True]), Closed(lambda: [True])),
    (Closed(lambda: 1 / 0), Closed(lambda: 1 / 0)),
    (int, str),
    (lambda: 1, lambda: 1),
]


@pytest.mark.parametrize(("a", "b"), _SAME)
def test_values_that_cannot_be_told_apart_are_the_same(a: object, b: object) -> None:
    """Equality in all parts makes two values the same, both ways."""
    assert same_value(a, b)
    assert same_value(b, a)


@pytest.mark.parametrize(("a", "b"), _DIFFERENT)
def test_values_that_differ_anywhere_are_different(a: object, b: object) -> None:
    """A difference in type, sign or precision counts at any depth, and inside any container."""
    assert not same_value(a, b)
    assert not same_value([{"k": (b,)}], [{"k": (a,)}])
    assert same_value([a], [a])


def test_cycles_are_compared() -> None:
    """Two cycles of one shape are the same until something in them differs."""
    one: list[Any] = [{}]
    one[0]["up"] = one
    other = copy_value(one)

    assert same_value(one, other)

    other[0]["more"] = 1

    assert not same_value(one, other)


_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(width=16),
    st.sampled_from(["", "a", "b"]),
    st.decimals(places=1, min_value=0, max_value=1),
    st.sampled_from([Color.RED, b"x"]),
)
_values = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
        st.sets(st.integers(0, 3), max_size=3),
        st.lists(inner, max_size=2).map(tuple),
        st.builds(Point, inner),
        st.builds(Thing, inner),
        st.builds(Note, text=st.just("n"), marks=st.lists(st.integers(0, 2), max_size=2)),
    ),
    max_leaves=8,
)


def _mutable_parts(value: Any) -> set[int]:
    """Return the identities of all mutable objects in a value."""
    if isinstance(value, BaseModel | Point | Thing):
        return {id(value)}.union(*map(_mutable_parts, vars(value).values()))
    if isinstance(value, dict):
        return {id(value)}.union(*map(_mutable_parts, value.values()))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # of anything
    if isinstance(value, list | set):
        return {id(value)}.union(*map(_mutable_parts, value))  # pyright: ignore[reportUnknownArgumentType]  # of anything
    if isinstance(value, tuple):
        return set[int]().union(*map(_mutable_parts, value))  # pyright: ignore[reportUnknownArgumentType]  # of anything
    return set()


@given(_values)
def test_a_copy_is_the_same_and_shares_nothing(value: object) -> None:
    """Whatever a value is made of, its copy is the same and has no mutable part in common."""
    copied = copy_value(value)

    assert same_value(copied, value)
    assert not _mutable_parts(copied) & _mutable_parts(value)


@given(_values, _values)
def test_being_the_same_holds_both_ways(a: object, b: object) -> None:
    """Which of two values comes first does not matter."""
    assert same_value(a, b) == same_value(b, a)


def test_changed_fields_are_named_with_their_new_values() -> None:
    """Only what differs is named, extras included, and what the model did not declare is not."""
    before = Open.model_validate({"count": 1, "x": [1], "y": 1})
    after = copy_context(before)
    after.count = 2
    after.__pydantic_extra__.update(x=[1, 2], z=3)  # type: ignore[union-attr]  # extras are allowed
    vars(after)["cached"] = 1

    assert changed_fields(before, after) == {"count": 2, "x": [1, 2], "z": 3}
    assert changed_fields(before, copy_context(before)) == {}


# Updating


def test_an_update_is_validated_and_leaves_other_fields_alone() -> None:
    """Values are coerced as pydantic does, and an untouched field keeps its very object."""
    context = _context(items=[1]).remember(3)
    items, secret = context.items, context.remembered

    update_context(context, {"count": "3", "label": "x"})

    assert (context.count, context.label) == (3, "x")
    assert context.items is items
    assert context.remembered == secret == [3]
    assert {"count", "label"} <= context.model_fields_set


@pytest.mark.parametrize(
    ("changes", "message", "fields"),
    [
        ({"label": "x", "cuont": 1}, "Context has no field 'cuont'; did you mean 'count'?", ("cuont",)),
        ({"label": "x", 7: 1}, "Context has no field 7; its fields are run_id, ", ("7",)),
        ({"_secret": [1]}, "Context has no field '_secret'", ("_secret",)),
        (
            {"label": "x", "count": "many"},
            "Context refuses count: Input should be a valid integer, unable to parse string as an integer (got 'many')",
            ("count",),
        ),
        ({"label": "x", "note": {"text": 1}}, "note.text: Input should be a valid string", ("note",)),
        ({"count": "x" * 10_000}, "(got 'xxxxxxxxxxxx", ("count",)),
        ({"count": "x\ny", "tags": "z"}, "count: ", ("count",)),
    ],
)
def test_what_does_not_fit_changes_nothing(changes: dict[Any, Any], message: str, fields: tuple[str, ...]) -> None:
    """The error names field and reason in one short line, and the context is as it was."""
    context = _context(items=[1]).remember(1)
    before, state = deepcopy(context), dict(vars(context))

    with pytest.raises(ContextUpdateError) as caught:
        update_context(context, changes)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert caught.value.fields == fields
    assert context == before
    assert all(vars(context)[name] is value for name, value in state.items())


def test_an_open_model_takes_new_fields() -> None:
    """A model that allows extra fields is updated with any name, but names are strings."""
    context = Open(count=1)

    update_context(context, {"count": "2", "more": [1]})

    assert context.model_dump() == {"count": 2, "more": [1]}
    with pytest.raises(ContextUpdateError, match="no field 5"):
        update_context(context, {5: 1})  # type: ignore[dict-item]  # the mistake under test


def test_a_frozen_model_can_be_updated() -> None:
    """The engine may set what a step may not, validated all the same."""
    context = Frozen(log=["a"])
    log = context.log

    update_context(context, {"count": "2", "items": [1, 2]})

    assert (context.count, context.items) == (2, (1, 2))
    assert context.log is log
    with pytest.raises(ContextUpdateError, match="count: Input should be a valid integer"):
        update_context(context, {"items": (), "count": "x"})
    assert (context.count, context.items) == (2, (1, 2))


def test_a_frozen_field_can_be_updated() -> None:
    """A single frozen field is no obstacle either."""

    class Half(BaseModel):
        fixed: int = Field(default=0, frozen=True)

    context = Half()
    update_context(context, {"fixed": 1})

    assert context.fixed == 1
    assert context.model_fields_set == {"fixed"}


@pytest.mark.parametrize("names", [("low", "high"), ("high", "low")])
def test_no_state_in_between_is_refused(names: tuple[str, str]) -> None:
    """Fields that only fit together are set together, in whatever order they come."""
    context = Range(log=["a"])
    log, new = context.log, {"low": 20, "high": "35"}

    update_context(context, {name: new[name] for name in names})

    assert (context.low, context.high, context.width) == (20, 35, 15)
    assert context.log is log


@pytest.mark.parametrize("changes", [{"low": 20}, {"low": 5, "high": 1}])
def test_a_model_that_refuses_the_result_changes_nothing(changes: dict[str, int]) -> None:
    """A validator of the whole model is obeyed; its message is one line, and all changed fields are named."""
    context = Range()

    with pytest.raises(ContextUpdateError, match="low is above high") as caught:
        update_context(context, changes)

    assert caught.value.fields == tuple(changes)
    assert context == Range()


def test_a_validator_of_the_model_may_set_other_fields() -> None:
    """What a model derives from its fields follows an update of one of them."""
    context = Range()

    update_context(context, {"low": 4})

    assert context.width == 6


def test_a_validator_around_the_model_sees_the_raw_input() -> None:
    """Such a validator gets a dict of all fields by name, as when the model was made."""
    seen: list[Any] = []

    class Raw(BaseModel):
        count: int = 0
        other: int = Field(default=1, validation_alias="theOther")

        @model_validator(mode="wrap")
        @classmethod
        def look(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
            seen.append(data)
            return handler(data)

    context = Raw()
    seen.clear()
    update_context(context, {"count": "5"})

    assert seen == [{"count": "5", "other": 1}]
    assert (context.count, context.other) == (5, 1)


def test_untouched_fields_are_not_validated_again() -> None:
    """A validator that changes its value sees only the fields that are updated."""

    class Loud(BaseModel):
        name: Annotated[str, AfterValidator(lambda text: text + "!")] = ""
        count: int = 0
        both: int = 0

        @field_validator("both")
        @classmethod
        def use(cls, value: int, info: ValidationInfo) -> int:
            return value + int(info.data["count"])

    context = Loud(name="a")
    update_context(context, {"count": 2, "both": 1})

    assert (context.name, context.both) == ("a!", 3)


def test_fields_of_a_frozen_model_stay_as_they_are() -> None:
    """A frozen model is validated as a whole, but only what was changed is taken from that."""

    class Loud(BaseModel):
        model_config = ConfigDict(frozen=True)

        name: Annotated[str, AfterValidator(lambda text: text + "!")] = ""
        count: int = Field(default=0, frozen=True)

    context = Loud(name="a")
    update_context(context, {"count": 2})

    assert (context.name, context.count) == ("a!", 2)


def test_many_reasons_are_cut_short() -> None:
    """The message tells of the first reasons and says how many more there are."""
    with pytest.raises(ContextUpdateError, match=r"tags\.2: .*; and 7 more$") as caught:
        update_context(_context(), {"tags": ["x"] * 10})

    assert "tags.3" not in str(caught.value)


def test_an_error_in_a_validator_is_not_hidden() -> None:
    """A bug in the user's validator comes through, and the context is as it was."""

    class Buggy(BaseModel):
        label: str = ""
        count: int = 0

        @field_validator("count")
        @classmethod
        def fail(cls, value: int) -> int:
            raise RuntimeError("bug")

    context = Buggy()

    with pytest.raises(RuntimeError, match="bug"):
        update_context(context, {"label": "x", "count": 1})

    assert context.label == ""


# Merging


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
    context = _merged(_context(), MergeStrategy.NO_MERGE, _set(count=1))

    assert context == _context()


@pytest.mark.parametrize(("strategy", "count"), [(MergeStrategy.OVERWRITE, 2), (MergeStrategy.KEEP_FIRST, 1)])
def test_one_branch_wins(strategy: MergeStrategy, count: int) -> None:
    """Of the branches that changed a field the last or first declared wins; whole fields come back."""
    context = _merged(
        _context(label="old", table={"x": 0}),
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
    context = _merged(
        _context(client=Thing([1]), items=[Array(1)]),
        MergeStrategy.KEEP_FIRST,
        _nothing,
        lambda branch: branch.client.x.append(2),
    )

    assert context.client.x == [1, 2]


def test_a_conflict_names_field_and_branches() -> None:
    """Two branches that changed a field differently are an error, and nothing comes back."""
    context = _context()

    with pytest.raises(ContextUpdateError, match="branches 'b' and 'd' changed the field 'count'") as caught:
        _merged(
            context,
            MergeStrategy.ERROR_ON_CONFLICT,
            _set(label="x"),
            _set(count=1),
            _set(count=1),
            _set(count=2),
        )

    assert caught.value.fields == ("count",)
    assert context == _context()


def test_agreement_is_no_conflict() -> None:
    """Two branches that changed a field to the same value agree."""
    context = _merged(
        _context(), MergeStrategy.ERROR_ON_CONFLICT, _set(count=1, items=[NAN]), _set(count=1, items=[NAN])
    )

    assert context.count == 1


def test_scratchpads_merge_key_by_key() -> None:
    """Keys that were set or removed come back, other fields do not."""
    base = _context(count=1)
    base.scratchpad.update(kept=[0], gone=1, changed=1)
    kept = base.scratchpad["kept"]

    def remove(branch: Context) -> None:
        del branch.scratchpad["gone"]
        branch.scratchpad["new"] = [1]

    context = _merged(
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
    context = _merged(
        _context(scratchpad={"gone": 1}),
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
        _merged(Loose(), MergeStrategy.ERROR_ON_CONFLICT, _set(scratchpad=1), _set(scratchpad={}))


_BY_KEY = (MergeStrategy.MERGE_SCRATCHPAD, MergeStrategy.ERROR_ON_CONFLICT)


@pytest.mark.parametrize("strategy", _BY_KEY)
@pytest.mark.parametrize("other", [_set_key, _remove_key])
def test_a_scratchpad_conflict_names_key_and_branches(
    strategy: MergeStrategy, other: Callable[[dict[str, Any]], object]
) -> None:
    """A key that one branch set and another set differently or removed is an error."""
    context = _context(scratchpad={"k": 0})

    with pytest.raises(ContextUpdateError, match="branches 'a' and 'b' changed the scratchpad key 'k'") as caught:
        _merged(
            context,
            strategy,
            lambda branch: branch.scratchpad.update(k=1, more=1),
            lambda branch: other(branch.scratchpad),
        )

    assert caught.value.fields == ("scratchpad",)
    assert context == _context(scratchpad={"k": 0})


def test_merging_scratchpads_needs_one() -> None:
    """A context without a scratchpad, or a branch that lost it, is an error."""

    class Loose(BaseModel):
        scratchpad: Any = {}

    with pytest.raises(ContextUpdateError, match="the context has no dict called scratchpad"):
        _merged(Open(), MergeStrategy.MERGE_SCRATCHPAD, _nothing)
    with pytest.raises(ContextUpdateError, match="branch 'b' has no dict called scratchpad"):
        _merged(Loose(), MergeStrategy.MERGE_SCRATCHPAD, _nothing, _set(scratchpad=3))


def test_no_append_is_lost() -> None:
    """A thousand branches that append one item each make a thousand items, in order of declaration."""
    context = _context(items=["first"])
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
    base = _context(
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

    context = _merged(base, MergeStrategy.CONTEXT_UPDATE, first, second)

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
    context = _merged(_context(items=[1, 2]), MergeStrategy.CONTEXT_UPDATE, *writes)

    assert same_value(context.items, expected)


def test_what_several_branches_made_anew_adds_up() -> None:
    """A dict or list under a new key adds up as if it had been there, empty."""
    context = _merged(
        _context(),
        MergeStrategy.CONTEXT_UPDATE,
        _put("stats", "a", value=[1]),
        _put("stats", "a", value=[2]),
        _put("stats", "b", value=3),
    )

    assert context.table == {"stats": {"a": [1, 2], "b": 3}}


def test_the_later_branch_wins_where_kinds_differ() -> None:
    """A value of another type is replaced whole, and so is one that an earlier branch removed."""
    context = _merged(
        _context(table={"x": {"a": 1}, "y": {"a": 1}, "z": {"a": 1}}),
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
    context = _merged(
        _context(client=defaultdict(list, a=[1])),
        MergeStrategy.CONTEXT_UPDATE,
        lambda branch: branch.client["a"].append(2),
        lambda branch: branch.client["b"].append(3),
    )

    assert same_value(context.client, defaultdict(list, a=[1, 2], b=[3]))


def test_a_context_update_is_validated() -> None:
    """A value that does not fit names the field, and nothing of any branch comes back."""
    context = _context(items=[1], table={"a": {}})
    before = deepcopy(context)

    with pytest.raises(ContextUpdateError, match="count: Input should be a valid integer"):
        _merged(
            context,
            MergeStrategy.CONTEXT_UPDATE,
            lambda branch: branch.items.append(2),
            lambda branch: branch.table["a"].update(b=1),
            lambda branch: branch.__dict__.update(count="many"),
        )

    assert context == before


def test_changes_are_measured_from_the_base() -> None:
    """A context that moved on after the branches began keeps what it gained."""
    base = _context(items=[1], table={"a": 1})
    context, branch = copy_context(base), copy_context(base)
    context.items.append(2)
    context.table["b"] = 2
    branch.items.append(3)
    branch.table["c"] = 3

    merge_branches(context, {"x": branch}, base, MergeStrategy.CONTEXT_UPDATE)

    assert context.items == [1, 2, 3]
    assert context.table == {"a": 1, "b": 2, "c": 3}
    assert base == _context(items=[1], table={"a": 1})


@pytest.mark.parametrize(
    "strategy",
    [MergeStrategy.OVERWRITE, MergeStrategy.KEEP_FIRST, MergeStrategy.ERROR_ON_CONFLICT, MergeStrategy.CONTEXT_UPDATE],
)
def test_a_mapping_limits_what_comes_back(strategy: MergeStrategy) -> None:
    """A named branch brings back its fields only, an unnamed one any, and excluded fields none does."""
    context = _merged(
        _context(),
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
    several = _merged(Open(), MergeStrategy.CONTEXT_UPDATE, _set(x=[1]), _set(x=[2]))

    assert frozen == Frozen(count=1, items=(2,), log=["x"])
    assert several.model_dump() == {"count": 0, "x": [1, 2]}


def test_a_function_changes_the_context_it_is_given() -> None:
    """It sees the branches in order of declaration; what it changed is taken over, by value."""
    base = _context(items=[0])
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
    base = _context(items=[0])

    def merge(context: Context, contexts: dict[str, Context]) -> None:
        context.items.append(1)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        merge_branches(base, {"a": copy_context(base)}, base, merge)

    assert base == _context(items=[0])


class Small(BaseModel):
    scratchpad: dict[str, Any] = {}
    items: list[Any] = []
    tags: set[int] = set()
    label: Any = None


_FIELDS = tuple(Small.model_fields)
_dicts = st.dictionaries(st.sampled_from("abc"), _values, max_size=3)
_small = st.builds(
    Small,
    scratchpad=_dicts,
    items=st.lists(_values, max_size=3),
    tags=st.sets(st.integers(0, 4)),
    label=_values,
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
        return draw(_values)
    if draw(st.booleans()):
        return draw(_others[kind])
    if kind is list:
        return [*value, draw(_values)]
    if kind is set:
        return value ^ {draw(st.integers(0, 4))}
    keys = draw(st.sets(st.sampled_from("abc")))
    return {**value, **{key: _changed(draw, value.get(key)) for key in keys}}


_others: dict[type, st.SearchStrategy[Any]] = {
    list: st.lists(_values, max_size=3),
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
    theirs = set[int]().union(*map(_mutable_parts, branches.values()))
    assert not _mutable_parts(context) & theirs


@given(_drawn)
def test_a_merge_may_start_from_the_context_itself(drawn: tuple[Small, dict[str, Small]]) -> None:
    """The result is the same whether the base is the context or a copy of it."""
    base, branches = drawn
    context = copy_context(base)

    merge_branches(context, branches, copy_context(base), MergeStrategy.CONTEXT_UPDATE)
    merge_branches(base, branches, base, MergeStrategy.CONTEXT_UPDATE)

    assert same_value(context, base)
