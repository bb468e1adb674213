"""Copies share nothing that can change."""

from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
)

from flujo.utils.copying import copy_context, copy_value
from flujo.utils.sameness import same_value
from tests.application.core.contexts import Client, Color, Frozen, Note, Open, Point, make_context


def test_a_copy_shares_nothing_that_can_change() -> None:
    """Fields of every kind, extras and private attributes are the copy's own."""
    context = make_context(
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
    context = make_context(client=client, items=[client, client.peers], table={"c": {"client": client}})

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
    context = make_context()
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
