"""Contexts, limits and the other values that a workflow is given."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from flujo import (
    AppResources,
    BranchFailureStrategy,
    HumanInteraction,
    MergeStrategy,
    PipelineContext,
    RefinementCheck,
    UsageLimits,
)
from flujo.domain.models import brief, new_run_id


class Notes(PipelineContext):
    words: int = 0
    titles: list[str] = Field(default_factory=list[str])


def test_a_context_needs_a_prompt_only() -> None:
    """A context has an identity of its own and empty space for the steps."""
    context = PipelineContext(initial_prompt="text")

    assert len(context.run_id) == 32
    assert context.run_id != PipelineContext(initial_prompt="text").run_id
    assert (context.scratchpad, context.hitl_history, context.command_log) == ({}, [], [])


def test_contexts_share_nothing() -> None:
    """Lists and dicts of one context are not those of another, the defaults of a subclass included."""
    one, other = Notes(initial_prompt="a"), Notes(initial_prompt="b")

    one.scratchpad["k"] = 1
    one.titles.append("t")

    assert (other.scratchpad, other.titles) == ({}, [])


def test_a_context_is_checked_when_it_is_changed() -> None:
    """A value that does not fit and a field that does not exist are refused, and the context stays as it was."""
    context: Any = Notes(initial_prompt="text")

    with pytest.raises(ValidationError, match="words"):
        context.words = "many"
    with pytest.raises((ValidationError, ValueError), match="wrods"):
        context.wrods = 1

    assert context.words == 0


@pytest.mark.parametrize("given", [{}, {"initial_prompt": None}, {"initial_prompt": "a", "wrods": 1}])
def test_a_wrong_context_is_refused(given: dict[str, Any]) -> None:
    """A context has a prompt, and no unknown fields."""
    with pytest.raises(ValidationError):
        Notes(**given)


class Endless:
    """Whatever shows it in full is refused."""

    def __repr__(self) -> str:
        return "line\n" * 100_000


def test_a_context_is_shown_in_one_short_line() -> None:
    """The repr of a context names its fields, and stays short however much they hold."""
    context = Notes(
        run_id="r",
        initial_prompt="text\n" * 1000,
        scratchpad={"k": Endless()} | {str(i): [["x" * 1000] * 1000] for i in range(20)},
        command_log=[Endless()] * 1000,
        words=7,
    )

    shown = repr(context)

    assert shown.startswith("Notes(run_id='r', initial_prompt='text")
    assert "words=7" in shown
    assert "\n" not in shown
    assert len(shown) < 1500
    assert str(context) == shown


def test_an_unfinished_context_can_be_shown() -> None:
    """A context that was made without some of its fields shows those it has."""
    assert repr(Notes.model_construct(words=1)).startswith("Notes(")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ([1, 2], "[1, 2]"),
        (None, "None"),
        ("x" * 500, None),
        (Endless(), None),
        ([["x" * 99] * 9] * 9, None),
    ],
)
def test_a_brief_is_short(value: object, text: str | None) -> None:
    """A small value is shown as it is, a large one in one line of bounded length."""
    shown = brief(value)

    assert text is None or shown == text
    assert "\n" not in shown
    assert len(shown) <= 200


def test_run_ids_do_not_repeat() -> None:
    """Identities are hexadecimal and all different."""
    made = {new_run_id() for _ in range(100)}

    assert len(made) == 100
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in made)


@pytest.mark.parametrize(("limit", "exact"), [(0.1, "0.1"), (0, "0"), (Decimal("0.10"), "0.1"), (5, "5"), (None, None)])
def test_a_cost_limit_is_exact(limit: Any, exact: str | None) -> None:
    """A limit given as a float is the decimal it prints as."""
    read = UsageLimits(total_cost_usd_limit=limit).total_cost_usd_limit

    assert read == (None if exact is None else Decimal(exact))


@pytest.mark.parametrize(
    "given",
    [
        *({"total_cost_usd_limit": wrong} for wrong in (-0.01, float("nan"), float("inf"), "0.1", True)),
        *({"total_tokens_limit": wrong} for wrong in (-1, 1.5, "many")),
        {"total_requests_limit": 1},
    ],
    ids=str,
)
def test_a_wrong_limit_is_refused(given: dict[str, Any]) -> None:
    """A limit is an amount or a count, 0 or more, and a limit of an unknown kind is an error."""
    with pytest.raises(ValidationError):
        UsageLimits(**given)


def test_limits_do_not_change() -> None:
    """Limits are declared once; they may be shared, compared and read from JSON."""
    limits = UsageLimits(total_cost_usd_limit=0.1, total_tokens_limit=5)

    with pytest.raises(ValidationError, match="frozen"):
        limits.total_tokens_limit = 6
    assert limits == UsageLimits.model_validate({"total_cost_usd_limit": Decimal("0.1"), "total_tokens_limit": 5})
    assert hash(limits) == hash(UsageLimits(total_cost_usd_limit=0.1, total_tokens_limit=5))


def test_an_interaction_is_a_record() -> None:
    """What a person was asked and answered is kept as it was, and written as JSON."""
    said = HumanInteraction(message_to_human="Go on?", human_response=True, timestamp=datetime(2026, 1, 1, tzinfo=UTC))

    with pytest.raises(ValidationError, match="frozen"):
        said.human_response = False
    assert json.loads(said.model_dump_json()) == {
        "message_to_human": "Go on?",
        "human_response": True,
        "timestamp": "2026-01-01T00:00:00Z",
    }


def test_resources_hold_anything() -> None:
    """Resources may be clients that pydantic knows nothing about, and are not copied."""
    client = object()

    class Clients(AppResources):
        client: object

    assert Clients(client=client).client is client


def test_a_refinement_check_needs_a_verdict() -> None:
    """A critic says whether the draft is accepted; feedback is optional."""
    assert RefinementCheck(is_complete=True).feedback is None
    with pytest.raises(ValidationError, match="is_complete"):
        RefinementCheck.model_validate({"feedback": "longer"})
    with pytest.raises(ValidationError, match="complete"):
        RefinementCheck.model_validate({"is_complete": True, "complete": True})


@pytest.mark.parametrize(
    ("enum", "names"),
    [
        (
            MergeStrategy,
            "NO_MERGE OVERWRITE KEEP_FIRST MERGE_SCRATCHPAD CONTEXT_UPDATE ERROR_ON_CONFLICT",
        ),
        (BranchFailureStrategy, "PROPAGATE IGNORE"),
    ],
)
def test_strategies_have_their_names(enum: Any, names: str) -> None:
    """Strategies are found by the names users know and by the same in small letters."""
    assert [each.name for each in enum] == names.split()
    assert all(enum(each.name.lower()) is each for each in enum)


def test_any_model_may_be_resources_or_context() -> None:
    """The values here are plain pydantic models."""
    assert all(issubclass(each, BaseModel) for each in (PipelineContext, AppResources, UsageLimits, RefinementCheck))
