"""A run's context is made by `Flujo`, once, before anything else happens."""

import ast
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

import flujo
from flujo import ConfigurationError, Flujo, PipelineContext, PipelineContextInitializationError, Step
from flujo.domain.results import PipelineResult
from flujo.testing import StubAgent

CORE = Path(flujo.__file__).parent


class Draft(PipelineContext):
    topic: str
    words: int = 0


class Plain(BaseModel):
    tags: list[str] = []
    notes: dict[str, list[int]] = Field(default_factory=dict)


def _append_tag(tag: str, context: Plain) -> str:
    context.tags.append(tag)
    context.notes.setdefault("seen", []).append(len(tag))
    return tag


def _echo() -> Step[Any, Any]:
    return Step.from_callable(_same, name="_echo")


def _same(data: Any) -> Any:
    return data


def _context_of(result: PipelineResult[Any]) -> Any:
    return result.final_pipeline_context


@pytest.mark.parametrize("part", ["application/core", "steps", "domain"])
def test_nothing_below_the_runner_constructs_a_context(part: str) -> None:
    """Neither ExecutionManager nor ExecutorCore nor any handler calls `PipelineContext`, or any context model."""
    called = {
        ast.unparse(node.func).rpartition(".")[2]
        for file in (CORE / part).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    }

    assert "StepResult" in called or part == "domain"
    assert called & {"PipelineContext", "context_model", "make_context", "inherit_context"} == set()


async def test_run_async_makes_a_context_with_the_prompt() -> None:
    """The context of a run has the run's identity and its input."""
    result = await Flujo(_echo()).run_async("Write a haiku.", run_id="r1")

    context = result.final_pipeline_context
    assert type(context) is PipelineContext
    assert (context.initial_prompt, context.run_id, result.run_id) == ("Write a haiku.", "r1", "r1")


def test_run_makes_the_same_context() -> None:
    """`run` makes a context as `run_async` does."""
    result = Flujo(_echo()).run("Write a haiku.", run_id="r1")

    assert (_context_of(result).initial_prompt, _context_of(result).run_id) == ("Write a haiku.", "r1")


def test_the_first_step_sees_the_context() -> None:
    """The context is complete before the first step starts."""

    def prompt(data: str, context: PipelineContext) -> tuple[str, str]:
        return context.initial_prompt, context.run_id

    result = Flujo(Step("prompt", prompt)).run("hello")

    assert result.output == ("hello", result.run_id)


def test_no_context_model_means_a_pipeline_context() -> None:
    """`context_model=None` is the default."""
    result = Flujo(_echo(), context_model=None).run("x")

    assert type(result.final_pipeline_context) is PipelineContext


@pytest.mark.parametrize("model", [dict, "Draft", Draft(initial_prompt="", topic="t")])
def test_only_a_model_class_is_a_context_model(model: Any) -> None:
    """Anything else is refused when the runner is made."""
    with pytest.raises(ConfigurationError, match=r"context_model is .*; give the class of a pydantic model"):
        Flujo(_echo(), context_model=model)


def test_any_model_may_be_a_context() -> None:
    """A model without `run_id` and `initial_prompt` gets neither."""
    result = Flujo(Step("tag", _append_tag), context_model=Plain).run("a")

    assert result.final_pipeline_context == Plain(tags=["a"], notes={"seen": [1]})


def test_one_of_the_two_fields_is_filled_alone() -> None:
    """A model that has only `initial_prompt` gets that."""

    class Asked(BaseModel):
        initial_prompt: str

    assert Flujo(_echo(), context_model=Asked).run("why?").final_pipeline_context == Asked(initial_prompt="why?")


def test_given_values_win_over_filled_ones() -> None:
    """`initial_prompt` and `run_id` from `initial_context_data` are kept, and name the run."""
    runner = Flujo(_echo(), initial_context_data={"initial_prompt": "given", "run_id": "mine"})

    result = runner.run("input")

    assert (_context_of(result).initial_prompt, _context_of(result).run_id, result.run_id) == ("given", "mine", "mine")


def test_a_given_run_id_may_differ_from_that_of_the_context() -> None:
    """`run_id=` names the run, and the context keeps what it was given."""
    result = Flujo(_echo(), initial_context_data={"run_id": "mine"}).run("input", run_id="the run's")

    assert (_context_of(result).run_id, result.run_id) == ("mine", "the run's")


def test_missing_fields_are_named_before_the_first_step() -> None:
    """Required fields that nobody gives are all named, and nothing runs."""

    class Strict(PipelineContext):
        topic: str
        audience: str
        words: int = 0

    agent = StubAgent(["never"])

    missing = "Strict lacks the required fields topic, audience"
    with pytest.raises(PipelineContextInitializationError, match=missing) as error:
        Flujo(Step("write", agent), context_model=Strict).run("x")
    assert error.value.fields == ("topic", "audience")
    assert agent.call_count == 0


async def test_missing_fields_are_named_by_run_async_before_resources_are_entered() -> None:
    """A run that cannot start enters nothing and tells no hook."""
    seen: list[object] = []

    class Resources:
        async def __aenter__(self) -> None:
            seen.append(self)

        async def __aexit__(self, *_: object) -> None: ...

    async def hook(payload: object) -> None:
        seen.append(payload)

    runner = Flujo(_echo(), context_model=Draft, resources=Resources(), hooks=[hook])

    with pytest.raises(PipelineContextInitializationError):
        await runner.run_async("x")
    assert seen == []


def test_fields_come_from_the_runner_and_from_the_run() -> None:
    """Fields given for a run win over those of the runner, field by field."""
    runner = Flujo(_echo(), context_model=Draft, initial_context_data={"topic": "cats", "words": 3})

    first = runner.run("x")
    second = runner.run("x", initial_context_data={"words": 4})
    third = runner.run("x")

    assert [(_context_of(each).topic, _context_of(each).words) for each in (first, second, third)] == [
        ("cats", 3),
        ("cats", 4),
        ("cats", 3),
    ]


@pytest.mark.parametrize(
    ("given", "problem", "fields"),
    [
        ({"topic": "t", "wrods": 1}, "Draft has no field 'wrods'; did you mean 'words'?", ("wrods",)),
        ({"topic": "t", "x1": 1}, "Draft has no field 'x1'; it has run_id, initial_prompt", ("x1",)),
        ({"topic": "t", "words": "many"}, r"words: Input should be a valid integer", ("words",)),
    ],
)
def test_fields_that_do_not_fit_are_named(given: dict[str, Any], problem: str, fields: tuple[str, ...]) -> None:
    """Unknown fields and values of the wrong type are refused, with the field's name."""
    with pytest.raises(PipelineContextInitializationError, match=problem) as error:
        Flujo(_echo(), context_model=Draft, initial_context_data=given).run("x")
    assert error.value.fields == fields


def test_a_validator_of_the_whole_model_may_refuse() -> None:
    """What a model's own validator says is in the message, and no field is blamed."""

    class Odd(BaseModel):
        a: int = 1

        @model_validator(mode="after")
        def never(self) -> "Odd":
            raise ValueError("no odd days")

    with pytest.raises(PipelineContextInitializationError, match=r"\(Value error, no odd days\)") as error:
        Flujo(_echo(), context_model=Odd).run("x")
    assert error.value.fields == ()


def test_a_part_that_a_nested_model_lacks_is_named_by_its_field() -> None:
    """A nested model that lacks a field does not fit; its field is not missing."""

    class Inner(BaseModel):
        x: int

    class Outer(BaseModel):
        inner: Inner

    with pytest.raises(
        PipelineContextInitializationError, match=r"what it was given \(inner: Field required\)$"
    ) as error:
        Flujo(_echo(), context_model=Outer, initial_context_data={"inner": {}}).run("x")
    assert error.value.fields == ("inner",)


def test_a_field_with_an_alias_goes_by_its_name() -> None:
    """Fields are given and missed by name, whatever a model's constructor calls them."""

    class Aliased(BaseModel):
        initial_prompt: str = Field(alias="initialPrompt")
        topic: str = Field(validation_alias="theTopic")

    result = Flujo(_echo(), context_model=Aliased, initial_context_data={"topic": "t"}).run("p")

    assert (_context_of(result).initial_prompt, _context_of(result).topic) == ("p", "t")
    with pytest.raises(PipelineContextInitializationError, match="lacks the required fields topic;"):
        Flujo(_echo(), context_model=Aliased).run("p")


@pytest.mark.parametrize("by_alias", [True, False])
def test_a_model_may_take_its_names_besides_or_instead_of_its_aliases(*, by_alias: bool) -> None:
    """A model that is configured to be made by name is."""

    class ByName(BaseModel):
        model_config = ConfigDict(validate_by_name=True, validate_by_alias=by_alias)
        topic: str = Field(alias="theTopic")

    result = Flujo(_echo(), context_model=ByName, initial_context_data={"topic": "t"}).run("p")

    assert _context_of(result).topic == "t"


def test_a_model_may_allow_extra_fields() -> None:
    """A model with `extra="allow"` takes fields that it does not declare."""

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    result = Flujo(_echo(), context_model=Open, initial_context_data={"anything": 1}).run("x")

    assert _context_of(result).anything == 1


def test_a_frozen_model_may_be_a_context() -> None:
    """A run does not need to write to its context."""

    class Frozen(BaseModel):
        model_config = ConfigDict(frozen=True)
        topic: str = "t"

    assert Flujo(_echo(), context_model=Frozen).run("x").success


def test_a_root_model_may_be_a_context() -> None:
    """A model of one value is made of `root`."""
    model = RootModel[list[int]]

    result = Flujo(_echo(), context_model=model, initial_context_data={"root": [1]}).run("x")

    assert result.final_pipeline_context == model([1])


def test_defaults_are_not_shared_between_runs() -> None:
    """A run that changes a default of its context in place changes it for itself only."""
    runner = Flujo(Step("tag", _append_tag), context_model=Plain)

    first, second = runner.run("a"), runner.run("bc")

    assert (_context_of(first).tags, _context_of(second).tags) == (["a"], ["bc"])
    assert _context_of(second).notes == {"seen": [2]}
    assert Plain().tags == []


def test_given_values_are_not_shared_between_runs() -> None:
    """A run that changes a given value in place changes neither the runner's value nor the caller's."""
    tags, notes = ["start"], {"seen": [0]}
    runner = Flujo(Step("tag", _append_tag), context_model=Plain, initial_context_data={"tags": tags, "notes": notes})

    first, second = runner.run("a"), runner.run("b", initial_context_data={"tags": tags})

    assert (_context_of(first).tags, _context_of(second).tags) == (["start", "a"], ["start", "b"])
    assert (tags, notes) == (["start"], {"seen": [0]})


def test_values_that_no_model_validates_are_not_shared_either() -> None:
    """What is deep in a field of any type belongs to one run."""

    def note(data: Any, context: PipelineContext) -> Any:
        context.scratchpad["notes"].append(data)
        return list(context.scratchpad["notes"])

    given: dict[str, Any] = {"scratchpad": {"notes": []}}
    runner = Flujo(Step("note", note), initial_context_data=given)

    assert [runner.run("a").output, runner.run("b", initial_context_data=given).output] == [["a"], ["b"]]
    assert given == {"scratchpad": {"notes": []}}


def test_the_mapping_of_initial_data_is_read_when_the_runner_is_made() -> None:
    """Fields that are added to the caller's mapping later do not reach the runner."""
    given: dict[str, Any] = {"topic": "t"}
    runner = Flujo(_echo(), context_model=Draft, initial_context_data=given)

    given["words"] = 9

    assert _context_of(runner.run("x")).words == 0
