"""What a step changed in a context is found, and can be made again."""

from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from flujo.application.core.context_changes import apply_context_change, context_change
from flujo.utils.codec import Codec
from flujo.utils.copying import copy_context
from flujo.utils.declared_types import DeclaredTypes
from flujo.utils.sameness import same_value


class Inner(BaseModel):
    a: int = 0
    items: list[int] = Field(default_factory=list[int])
    _secret: int = PrivateAttr(default=0)
    _kept: list[int] = PrivateAttr(default_factory=list[int])

    def keep(self, secret: int) -> None:
        self._secret = secret
        self._kept.append(secret)


class Number(Enum):
    ONE = 1


class Notes(BaseModel):
    model_config = ConfigDict(extra="allow")

    words: list[Any] = Field(default_factory=lambda: ["a", "b"])
    table: dict[Any, Any] = Field(default_factory=lambda: {"x": {"y": [1, 2]}, "z": 0, 1: "one"})
    tags: set[Any] = Field(default_factory=lambda: {1, 2})
    inner: Inner = Field(default_factory=Inner)
    inners: list[Inner] = Field(default_factory=lambda: [Inner(), Inner(a=1)])
    number: Any = None
    _secret: int = PrivateAttr(default=0)

    def keep(self, secret: int) -> None:
        self._secret = secret


_codec = Codec(DeclaredTypes([Notes, Number]))


def _reorder(notes: Notes) -> None:
    notes.table["x"] = notes.table.pop("x")


def _retype_key(notes: Notes) -> None:
    del notes.table[1]
    notes.table[True] = "one"


def _retype_member(notes: Notes) -> None:
    notes.tags.remove(1)
    notes.tags |= {True}


def _loosen(notes: Notes) -> None:
    vars(notes)["number"] = 3.0
    notes.new = {"any": "thing"}  # type: ignore[attr-defined]  # an extra field


_CHANGES: dict[str, Callable[[Notes], object]] = {
    "nothing": lambda notes: None,
    "an append": lambda notes: notes.words.append({"c": 1}),
    "an insertion": lambda notes: notes.words.insert(0, "first"),
    "a removal": lambda notes: notes.words.pop(0),
    "an item": lambda notes: notes.words.__setitem__(1, ("t",)),
    "emptied": lambda notes: notes.words.clear(),
    "a nested append": lambda notes: notes.table["x"]["y"].append(3),
    "a new key": lambda notes: notes.table.update({(1, 2): {3}}),
    "a removed key": lambda notes: notes.table.pop("z"),
    "another order": _reorder,
    "a key of another type": _retype_key,
    "members": lambda notes: notes.tags.symmetric_difference_update({2, 3}),
    "a member of another type": _retype_member,
    "a field of a model": lambda notes: notes.inner.items.append(1),
    "a field of a model in a list": lambda notes: setattr(notes.inners[1], "a", 5),
    "a private attribute": lambda notes: notes.keep(1),
    "a private attribute of a model": lambda notes: notes.inner.keep(2),
    "a private attribute in a list": lambda notes: notes.inners[0].keep(3),
    "another model": lambda notes: setattr(notes, "inner", Inner(a=9)),
    "another type": lambda notes: setattr(notes, "number", True),
    "an enum": lambda notes: setattr(notes, "number", Number.ONE),
    "extra": _loosen,
}


def _state(notes: Notes) -> list[Any]:
    """Return all there is of a context, in order."""
    privates = [notes.__pydantic_private__, notes.inner.__pydantic_private__]
    return [
        *privates,
        [inner.__pydantic_private__ for inner in notes.inners],
        list(notes.table),
        notes.__pydantic_fields_set__,
        notes,
    ]


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
def test_a_change_can_be_made_again(change: Callable[[Notes], object]) -> None:
    """Written, read and applied to a copy from before, it gives the same context, private parts and orders included."""
    notes = Notes()
    before, again = copy_context(notes), copy_context(notes)
    change(notes)

    found = context_change(before, notes)
    if found is not None:
        apply_context_change(again, _codec.loads(_codec.dumps(found)))

    assert same_value(_state(again), _state(notes))
    assert (found is None) == same_value(_state(before), _state(notes))


@pytest.mark.parametrize("size", [10, 10_000])
def test_a_change_is_as_large_as_what_changed(size: int) -> None:
    """What is appended to a list and set in a dict does not depend on what was there before."""
    notes = Notes(words=list(range(size)), table={"rows": {str(i): [i] for i in range(size)}})
    before = copy_context(notes)
    notes.words.append("new")
    notes.table["rows"]["7"].append("new")

    assert len(_codec.dumps(context_change(before, notes))) < 150


def test_a_change_that_does_not_fit_is_refused() -> None:
    """A context of another shape is not changed half."""
    with pytest.raises(ValueError, match="a int cannot be changed by"):
        apply_context_change(Notes(), [["number", ["=", 1]], ["number", ["[", [], [1]]]])
