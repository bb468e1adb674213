"""Contexts are updated all or nothing, and what changed in them is found."""

from copy import deepcopy
from typing import Annotated, Any, Self

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)

from flujo.application.core.context import changed_fields, update_context
from flujo.exceptions import ContextUpdateError
from flujo.utils.copying import copy_context
from tests.application.core.contexts import Frozen, Open, Range, make_context


def test_changed_fields_are_named_with_their_new_values() -> None:
    """Only what differs is named, extras included, and what the model did not declare is not."""
    before = Open.model_validate({"count": 1, "x": [1], "y": 1})
    after = copy_context(before)
    after.count = 2
    after.__pydantic_extra__.update(x=[1, 2], z=3)  # type: ignore[union-attr]  # extras are allowed
    vars(after)["cached"] = 1

    assert changed_fields(before, after) == {"count": 2, "x": [1, 2], "z": 3}
    assert changed_fields(before, copy_context(before)) == {}


def test_an_update_is_validated_and_leaves_other_fields_alone() -> None:
    """Values are coerced as pydantic does, and an untouched field keeps its very object."""
    context = make_context(items=[1]).remember(3)
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
    context = make_context(items=[1]).remember(1)
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
        update_context(make_context(), {"tags": ["x"] * 10})

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
