"""`initial_prompt`: a run's input as text, readable and bounded."""

from collections import OrderedDict
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from itertools import count
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from flujo import Flujo, PipelineContext, Step
from flujo.application.initial_prompt import PROMPT_CHARACTERS, prompt_of


def prompt_after_run(data: Any) -> str:
    """Return the `initial_prompt` of a run with this input."""

    def ignore(data: Any) -> None: ...

    context = Flujo(Step("ignore", ignore)).run(data).final_pipeline_context
    assert isinstance(context, PipelineContext)
    return context.initial_prompt


class Order(BaseModel):
    model_config = ConfigDict(extra="allow")

    item: str
    count: int = 1
    token: SecretStr = SecretStr("hidden")
    blob: bytes = Field(default=b"big", repr=False)


@dataclass
class Point:
    x: int
    secret: str = field(default="hidden", repr=False)


@dataclass(init=False)
class Unset:
    x: int


class Pair(NamedTuple):
    a: int
    b: int


class Colour(Enum):
    RED = 1


class BadRepr:
    def __repr__(self) -> str:
        raise LookupError("no name")


class LongRepr:
    def __repr__(self) -> str:
        return "y" * 10**6


class NoText:
    def __repr__(self) -> Any:
        return 7


class Deep:
    def __repr__(self) -> str:
        return repr(self)


PLAIN: list[Any] = [
    *(None, True, 42, -1.5, Decimal("0.10"), b"raw", Colour.RED, range(3)),
    *([], [1, "two"], (), (1,), (1, 2), {}, set(), frozenset(), {1}, frozenset({1})),
    *({"question": "why", "answer": None}, {"b": 1, "a": [{"c": (2, 3)}]}, {(1, 2): "tuple key"}),
]

STRUCTURED: list[tuple[Any, str]] = [
    (Order(item="tea"), "{'item': 'tea', 'count': 1, 'token': SecretStr('**********')}"),
    (
        Order.model_validate({"item": "tea", "gift": True}),
        "{'item': 'tea', 'count': 1, 'token': SecretStr('**********'), 'gift': True}",
    ),
    ([Point(3)], "[{'x': 3}]"),
    (Unset(), "{'x': '...'}"),
    (Pair(1, 2), "(1, 2)"),
    (OrderedDict(b=1, a=2), "{'b': 1, 'a': 2}"),
    ({"b", "a", "c"}, "{'a', 'b', 'c'}"),
    (frozenset({2, 1}), "frozenset({1, 2})"),
    (Point, repr(Point)),
]


@pytest.mark.parametrize("text", ["", "hello", "  spaced\n", "\x00", "\ud800", "ü🙂", "long " * 10_000])
def test_a_string_is_kept_as_it_is(text: str) -> None:
    """A string of any length and content is its own prompt."""
    assert prompt_after_run(text) == text


@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_are_written_as_python_does(value: Any) -> None:
    """A small value is its own `repr`, in its own order."""
    assert prompt_after_run(value) == repr(value)


@pytest.mark.parametrize(("value", "text"), STRUCTURED)
def test_structured_values_are_written_as_their_parts(value: Any, text: str) -> None:
    """Models and dataclasses are the dict of the fields that their `repr` shows; sets are sorted."""
    assert prompt_after_run(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (BadRepr(), "<BadRepr whose repr raises LookupError>"),
        ([NoText()], "[<NoText whose repr raises TypeError>]"),
        (Deep(), "<Deep whose repr raises RecursionError>"),
        ([10**5000], "[<int whose repr raises ValueError>]"),
        (LongRepr(), "y" * 500 + "..."),
        ({"text": "z" * 501}, "{'text': '" + "z" * 500 + "'...}"),
        (b"z" * 501, "b'" + "z" * 500 + "'..."),
    ],
)
def test_odd_and_long_values_are_named_or_cut(value: Any, text: str) -> None:
    """A value whose `repr` fails or is long does not keep a run from starting."""
    assert prompt_after_run(value) == text


def test_a_container_that_contains_itself_ends() -> None:
    """`...` stands for a container within itself, however often it is in there."""
    loop: list[Any] = [1]
    loop.extend([loop] * 50)
    ring: dict[str, Any] = {}
    ring["self"] = ring

    assert prompt_of(loop).startswith("[1, [...], [...], ")
    assert prompt_of({"ring": ring, "pair": ([], [])}) == "{'ring': {'self': {...}}, 'pair': ([], [])}"


def test_deep_nesting_is_cut() -> None:
    """What is nested more than six deep is left out."""
    deep: list[Any] = []
    for _ in range(1000):
        deep = [deep]

    assert prompt_of(deep) == "[[[[[[[...]]]]]]]"


def test_only_the_first_items_are_shown() -> None:
    """A long list does not hide what comes after it."""
    prompt = prompt_of({"rows": list(range(1_000_000)), "question": "why?"})

    assert "48, 49, ...]" in prompt
    assert prompt.endswith("'question': 'why?'}")


def test_a_prompt_is_bounded() -> None:
    """A prompt that is made of data is never longer than `PROMPT_CHARACTERS`, and says that it was cut."""
    prompt = prompt_after_run([["x" * 400] * 50] * 50)

    assert len(prompt) == PROMPT_CHARACTERS
    assert prompt.endswith("...")


def test_a_prompt_may_be_as_long_as_the_bound() -> None:
    """What just fits is not cut."""
    overhead = len(repr(["x" * 400] * 4 + [""]))
    fitting = ["x" * 400] * 4 + ["x" * (PROMPT_CHARACTERS - overhead)]

    assert prompt_of(fitting) == repr(fitting)
    assert prompt_of([*fitting[:4], fitting[4] + "x"]).endswith("...")


def test_no_more_is_looked_at_than_is_written() -> None:
    """The work is bounded by the text, whatever the input's size."""
    shown = count()

    class Counted:
        def __repr__(self) -> str:
            next(shown)
            return "c" * 100

    shared = [Counted()] * 50
    for _ in range(4):
        shared = [shared] * 50  # type: ignore[list-item]  # nested on purpose

    prompt_of(shared)

    assert next(shown) <= PROMPT_CHARACTERS / 100 + 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=200,
)


@given(VALUES.filter(lambda value: not isinstance(value, str)))
def test_every_prompt_is_bounded(value: Any) -> None:
    """No input makes a prompt longer than the bound, and a small one is its `repr`."""
    prompt = prompt_of(value)

    assert len(prompt) <= PROMPT_CHARACTERS
    if "..." not in prompt:
        assert prompt == repr(value)
