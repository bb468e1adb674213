"""A step that updates the context merges its output into it, validated, or fails."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from pydantic import BaseModel, ConfigDict, Field

from flujo import ConfigurationError, Flujo, PausedException, PipelineContext, Step, StepResult, step
from flujo.domain.results import PipelineResult
from flujo.testing import StubAgent, assert_context_updated
from tests.application.core.agent_answers import Paid


class _Draft(PipelineContext):
    title: str = "untitled"
    words: int = 0
    tags: list[str] = Field(default_factory=list[str])


class _Update(BaseModel):
    title: str
    words: int = 7


class _OpenUpdate(BaseModel):
    model_config = ConfigDict(extra="allow")

    title: str


async def _run(output: Any, **options: Any) -> PipelineResult[Any]:
    agent = StubAgent([output, output, output])
    return await Flujo(Step("write", agent, updates_context=True, **options), context_model=_Draft).run_async("go")


_OPEN = _OpenUpdate.model_validate({"title": "T", "words": 8})


@pytest.mark.parametrize(
    ("output", "fields"),
    [
        ({"title": "T"}, {"title": "T", "words": 0}),
        ({"words": "12"}, {"words": 12}),
        ({}, {"title": "untitled"}),
        (_Update(title="T"), {"title": "T", "words": 7}),
        (_OPEN, {"title": "T", "words": 8}),
        (Paid({"tags": ["a"]}, 0.1), {"tags": ["a"]}),
    ],
)
async def test_a_dict_or_a_model_is_merged(output: Any, fields: dict[str, Any]) -> None:
    """The named fields are set, validated as the context declares them, and the others stay."""
    result = await _run(output)

    assert_context_updated(result, **fields)


_UNFIT: list[tuple[Any, str]] = [
    ({"title": "T", "words": "many"}, "_Draft refuses words: "),
    ({"title": "T", "wrods": 3}, "_Draft has no field 'wrods'; did you mean 'words'?"),
    ({"title": "T", 3: 3}, "_Draft has no field 3"),
    ("T", "step 'write' updates the context, but gave str; give a dict, a model or a dataclass"),
    (None, "step 'write' updates the context, but gave NoneType; give a dict, a model or a dataclass"),
]


@pytest.mark.parametrize(("output", "feedback"), _UNFIT)
async def test_what_does_not_fit_fails_the_step_and_changes_nothing(output: Any, feedback: str) -> None:
    """The step names the field, the agent is not paid for again, and the context is left as it was."""
    told: list[str] = []

    result = await _run(Paid(output, 0.5), failure_handlers=[lambda: told.append("failed")])

    failed: StepResult = result.step_history[0]
    assert (failed.status, failed.attempts, failed.cost_usd, told) == ("failed", 1, 0.5, ["failed"])
    assert failed.feedback is not None
    assert failed.feedback.startswith(feedback)
    assert_context_updated(result, title="untitled", words=0)


async def test_an_update_that_does_not_fit_can_be_rescued() -> None:
    """The fallback runs, and its own output is merged if it says so."""
    rescue = Step("rescue", StubAgent([{"words": 5}]), updates_context=True)

    result = await _run({"words": "many"}, fallback_step=rescue)

    assert result.success
    assert_context_updated(result, words=5)


async def test_a_later_step_sees_the_update() -> None:
    """The context is updated before the next step starts."""

    @step(updates_context=True)
    async def write(data: str) -> dict[str, Any]:
        return {"title": data}

    @step
    async def read(data: dict[str, Any], context: _Draft) -> str:
        return context.title

    result = await Flujo(write >> read, context_model=_Draft).run_async("T")

    assert result.output == "T"


async def test_an_answer_of_a_person_is_merged_too() -> None:
    """A step that waited merges the answer, and fails if it does not fit."""
    pausing = Step("ask", StubAgent([PausedException("how many?")]), updates_context=True)
    runner = Flujo(pausing, context_model=_Draft)
    paused = await runner.run_async("go")

    fits = await runner.resume_async(paused, {"words": 3})
    fails = await runner.resume_async(paused, {"words": "many"})

    assert_context_updated(fits, words=3)
    assert fails.status == "failed"


class _Right(TypedDict):
    words: int


class _WrongType(TypedDict):
    words: list[str]


class _Unknown(BaseModel):
    wrods: int


async def _right(data: str) -> _Right:
    return {"words": 1}


async def _wrong_type(data: str) -> _WrongType:
    return {"words": []}


async def _unknown(data: str) -> _Unknown:
    return _Unknown(wrods=1)


async def test_declared_fields_that_fit_pass_the_check() -> None:
    """`validate_fields` lets a return type pass whose fields the context has."""
    checked = Step("write", _right, updates_context=True, validate_fields=True)

    result = await Flujo(checked, context_model=_Draft).run_async("go")

    assert_context_updated(result, words=1)


@pytest.mark.parametrize(("agent", "complaint"), [(_wrong_type, "words"), (_unknown, "'wrods'.*did you mean 'words'")])
async def test_declared_fields_that_do_not_fit_are_refused_before_the_run(
    agent: Callable[[str], Any], complaint: str
) -> None:
    """`validate_fields` compares the declared return type with the context when the run starts."""
    checked = Step("write", agent, updates_context=True, validate_fields=True)

    with pytest.raises(ConfigurationError, match=f"step 'write'.*{complaint}"):
        await Flujo(checked, context_model=_Draft).run_async("go")


@dataclass
class _Counted:
    words: int
    title: str


@dataclass
class _Mistyped:
    wrods: int


async def test_a_dataclass_is_merged_like_a_model() -> None:
    """Its fields become those of the context, whether the return type is checked or not."""

    async def write(data: str) -> _Counted:
        return _Counted(len(data), data)

    for checked in (True, False):
        agent = Step("write", write, updates_context=True, validate_fields=checked)
        result = await Flujo(agent, context_model=_Draft).run_async("go")

        assert_context_updated(result, words=2, title="go")


@pytest.mark.parametrize(
    ("gives", "complaint"),
    [
        (str, "gives str; give a dict, a model or a dataclass"),
        (list[int], r"gives list\[int\]"),
        (int | str, r"gives int \| str"),
        (type(None), "gives None"),
        (_Mistyped, "'wrods'.*did you mean 'words'"),
    ],
)
async def test_a_return_type_that_can_never_update_the_context_is_refused_before_the_run(
    gives: Any, complaint: str
) -> None:
    """The agent is not called for what could not be kept."""
    calls: list[str] = []

    async def write(data: str) -> Any:
        calls.append(data)

    write.__annotations__["return"] = gives
    checked = Step("write", write, updates_context=True, validate_fields=True)

    with pytest.raises(ConfigurationError, match=f"step 'write'.*{complaint}"):
        await Flujo(checked, context_model=_Draft).run_async("go")
    assert calls == []


@pytest.mark.parametrize("gives", [Any, dict[str, Any], _Right, _Counted, _Counted | None, object])
def test_a_return_type_that_may_update_the_context_passes(gives: Any) -> None:
    """Only what surely cannot be merged is refused."""

    async def write(data: str) -> Any: ...

    write.__annotations__["return"] = gives

    Flujo(Step("write", write, updates_context=True, validate_fields=True), context_model=_Draft).check()


async def test_fields_are_not_checked_unless_asked_for() -> None:
    """Without `validate_fields` the mismatch shows when the step runs."""
    result = await Flujo(Step("write", _unknown, updates_context=True), context_model=_Draft).run_async("go")

    assert result.status == "failed"
