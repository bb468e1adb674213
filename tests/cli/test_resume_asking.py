"""What a person at the terminal is asked, and what becomes of what they type."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from flujo.cli.asking import NobodyAnsweredError, ask, choose
from flujo.domain.results import Waiting

Captured = pytest.CaptureFixture[str]


class Tone(Enum):
    """How something sounds."""

    WARM = "warm"
    COLD = "cold"


class Place(BaseModel):
    """Something with fields within."""

    city: str


class Review(BaseModel):
    """An answer with fields of many kinds."""

    ok: bool
    stars: int = Field(ge=1, le=5, description="How good it is.")
    tone: Tone = Tone.WARM
    note: str | None = None
    place: Place = Place(city="Ulm")


@dataclass
class Size:
    """An answer that is no model."""

    width: float
    unit: Literal["cm", "in"] = "cm"


def question(schema: Any, path: tuple[str, ...] = ("1",)) -> Waiting:
    """Return a step that waits for an answer of a type."""
    return Waiting(path=path, step_name="ask", message="Which?\nSay it.", input_schema=schema)


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect what is asked for."""
    return []


def typing(monkeypatch: pytest.MonkeyPatch, prompts: list[str], lines: Sequence[str]) -> None:
    """Let a person type these lines, and then nothing more."""
    rest = iter(lines)

    def read(prompt: str) -> str:
        prompts.append(prompt)
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)


@pytest.mark.parametrize(
    ("schema", "prompt", "typed", "answer"),
    [
        (None, "Answer: ", " 3 ", "3"),
        (str, "Answer (text): ", "3", "3"),
        (int, "Answer (a whole number): ", "3", 3),
        (bool, "Answer (yes or no): ", "yes", True),
        (int | str, "Answer (a whole number or text): ", "3", "3"),
        (date, "Answer (a date, such as 2026-01-31): ", "2026-02-01", date(2026, 2, 1)),
        (Tone, "Answer (one of warm, cold): ", "cold", Tone.COLD),
        (Literal["a", "b"], "Answer (one of a, b): ", "b", "b"),
        (list[int], "Answer (a list, as JSON): ", "[1, 2]", [1, 2]),
        (dict[str, int], "Answer (an object, as JSON): ", '{"a": 1}', {"a": 1}),
    ],
    ids=str,
)
def test_an_answer_is_asked_for_by_its_type(
    schema: Any, prompt: str, typed: str, answer: Any, monkeypatch: pytest.MonkeyPatch, prompts: list[str]
) -> None:
    """The prompt says what it may be; text is taken as it is where it is welcome."""
    typing(monkeypatch, prompts, [typed])

    given = ask(question(schema))

    assert (given, type(given)) == (answer, type(answer))
    assert prompts == [prompt]


def test_a_model_is_asked_for_field_by_field(
    monkeypatch: pytest.MonkeyPatch, prompts: list[str], capsys: Captured
) -> None:
    """Each field says what it takes and its default; only what does not fit is asked again."""
    typing(monkeypatch, prompts, ["yes", "9", "", "", '{"city": "Bonn"}', "4"])

    answer = ask(question(Review))

    assert answer == Review(ok=True, stars=4, place=Place(city="Bonn"))
    assert prompts == [
        "ok (yes or no): ",
        "stars (a whole number, at least 1, at most 5): ",
        "tone (one of warm, cold; Enter for warm): ",
        "note (text; Enter for nothing): ",
        'place (an object, as JSON; Enter for {"city": "Ulm"}): ',
        "stars (a whole number, at least 1, at most 5): ",
    ]
    assert capsys.readouterr().err.splitlines() == [
        "Step 'ask' at 1 asks:",
        "",
        "  Which?",
        "  Say it.",
        "",
        "  How good it is.",
        "  stars: Input should be less than or equal to 5",
        "  How good it is.",
    ]


def test_a_dataclass_is_asked_for_like_a_model(monkeypatch: pytest.MonkeyPatch, prompts: list[str]) -> None:
    """Whatever class has fields is asked for by them."""
    typing(monkeypatch, prompts, ["2.5", "in"])

    assert ask(question(Size)) == Size(2.5, "in")
    assert prompts == ["width (a number): ", "unit (one of cm, in; Enter for cm): "]


def test_a_wrong_answer_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, prompts: list[str], capsys: Captured
) -> None:
    """What does not fit is explained, as often as it takes."""
    typing(monkeypatch, prompts, ["many", "1.5", "2"])

    assert ask(question(int)) == 2
    assert len(prompts) == 3
    assert "unable to parse string as an integer" in capsys.readouterr().err


def test_one_of_several_steps_is_chosen_by_number(
    monkeypatch: pytest.MonkeyPatch, prompts: list[str], capsys: Captured
) -> None:
    """All that wait are listed with what they ask."""
    waiting = [question(None, ("1", "branch:a", "0")), question(None, ("1", "branch:b", "0"))]
    typing(monkeypatch, prompts, ["0", "b", "2"])

    assert choose(waiting) is waiting[1]
    assert prompts == ["Which one do you answer (1-2)? "] * 3
    assert capsys.readouterr().err.splitlines() == [
        "1. step 'ask' at 1/branch:a/0 asks: Which? Say it.",
        "2. step 'ask' at 1/branch:b/0 asks: Which? Say it.",
        "  '0' is none of them",
        "  'b' is none of them",
    ]


@pytest.mark.parametrize("schema", [None, int, Review])
def test_whoever_stops_typing_has_not_answered(
    schema: Any, monkeypatch: pytest.MonkeyPatch, prompts: list[str]
) -> None:
    """The end of the input leaves the question open."""
    typing(monkeypatch, prompts, [])

    with pytest.raises(NobodyAnsweredError, match="the run still waits"):
        ask(question(schema))
