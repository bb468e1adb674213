"""What was wrong with an answer reaches the next attempt, or a warning says that it cannot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypedDict

import pytest
from pydantic import BaseModel, ConfigDict

from flujo import Flujo, PluginOutcome, Step, validator
from flujo.testing import DummyPlugin


@validator
def _never(output: Any) -> tuple[bool, str | None]:
    return False, "wrong"


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True)

    number: int = 1
    feedback: str | None = None


@dataclass(frozen=True, slots=True)
class _Ticket:
    number: int = 1
    feedback: str | None = None


class _Rated(BaseModel):
    feedback: int = 5


@dataclass
class _Line:
    number: int = 1


class _Typed(TypedDict):
    number: int


class _Numbered(Protocol):
    number: int


class _Text(str):
    __slots__ = ()


@pytest.mark.parametrize("order", [_Order(), _Ticket()])
async def test_feedback_goes_into_the_field_that_an_input_has_for_it(order: Any) -> None:
    """The agent gets a copy of the model or dataclass with the feedback; the input itself is left as it was."""
    seen: list[Any] = []

    async def ask(data: Any) -> str:
        seen.append(data)
        return "x"

    await Flujo(Step("ask", ask, validators=[_never])).run_async(order)

    assert [(type(data), data.number, data.feedback) for data in seen] == [
        (type(order), 1, None),
        (type(order), 1, "_never: wrong"),
    ]
    assert order.feedback is None


@pytest.mark.parametrize("data", [_Rated(), _Line(), 5, [1], None, _Order])
async def test_an_input_without_room_for_feedback_stays_as_it_is(data: Any) -> None:
    """No field for text, no feedback: the attempt gets the very input."""
    seen: list[Any] = []

    async def ask(data: Any) -> str:
        seen.append(data)
        return "x"

    await Flujo(Step("ask", ask, validators=[_never])).run_async(data)

    assert [each is data for each in seen] == [True, True]


def _agent(input_type: Any) -> Any:
    async def ask(data: Any) -> str:
        return "x"

    ask.__annotations__["data"] = input_type
    return ask


def _judged(agent: Any, **options: Any) -> list[str]:
    options.setdefault("validators", [_never])
    step: Step[Any, Any] = Step("ask", agent, **options)
    return [str(warning) for warning in step.validate_graph().warnings]


@pytest.mark.parametrize("input_type", [_Rated, _Line, int, list[int], None, int | _Line, Annotated[int, "count"]])
def test_an_agent_that_cannot_hear_feedback_is_warned_of(input_type: Any) -> None:
    """A step that would ask again without saying why is warned of, and told what to add."""
    (warning,) = _judged(_agent(input_type))

    assert warning == (
        "step 'ask' tries again what was refused, but its agent cannot learn why: "
        "give it a keyword argument `feedback`, or its input a field `feedback: str | None`"
    )
    assert _judged(_agent(input_type), validators=[], plugins=[(DummyPlugin([PluginOutcome(success=True)]), 1)])


@pytest.mark.parametrize(
    "input_type",
    [
        *(Any, object, str, _Text, dict, dict[str, int], Mapping[str, Any], _Typed, _Numbered, _Order, _Ticket),
        *(int | str, Annotated[str, "prompt"], Annotated[int | str, "prompt"], "NowhereDefined"),
    ],
)
def test_an_agent_that_may_hear_feedback_is_not_warned_of(input_type: Any) -> None:
    """Text, dicts, fields named `feedback`, and types that nobody can be sure of are let pass."""
    assert _judged(_agent(input_type)) == []


def test_only_steps_that_try_again_are_warned_of() -> None:
    """An agent that asks for feedback by keyword, no retries, no judge and `strict=False` are fine."""

    async def ask(data: int, *, feedback: str | None = None) -> str:
        return "x"

    deaf = _agent(int)

    assert _judged(ask) == []
    assert _judged(deaf, max_retries=0) == []
    assert _judged(deaf, validators=[]) == []
    assert _judged(deaf, strict=False) == []
