"""Steps are composed into pipelines, and what does not go together is found before a run."""

# ruff: noqa: D103 - the steps say with their names and types what they are

import copy
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import Field

from flujo import (
    BaseStep,
    ConfigurationError,
    Flujo,
    ImproperStepInvocationError,
    InfiniteFallbackError,
    MissingAgentError,
    Pipeline,
    PipelineContext,
    Step,
    TypeMismatchError,
    UsageLimits,
    ValidationReport,
)


def count(text: str) -> int:
    return len(text)


def double(number: int) -> int:
    return 2 * number


def describe(number: int) -> str:
    return f"the number {number}"


def anything(value: Any) -> Any:
    return value


def _count(name: str = "count") -> Step[str, int]:
    return Step(name, count)


def _double(name: str = "double") -> Step[int, int]:
    return Step(name, double)


def _describe(name: str = "describe") -> Step[int, str]:
    return Step(name, describe)


UNTYPED_STEP: Any = Step
UNTYPED_PIPELINE: Any = Pipeline
UNTYPED_RUNNER: Any = Flujo


def _names(pipeline: Pipeline[Any, Any]) -> list[str]:
    return [step.name for step in pipeline.steps]


def test_steps_are_chained_in_order() -> None:
    """`>>` gives a pipeline of both sides, which runs them in order."""
    pipeline = _count() >> _double() >> _describe()

    assert _names(pipeline) == ["count", "double", "describe"]
    assert Flujo(pipeline).run("abc").output == "the number 6"


def test_pipelines_become_one_flat_pipeline() -> None:
    """Chaining pipelines, from either side, gives the steps of both; neither side is changed."""
    front, back = _count() >> _double(), _double("again") >> _describe()

    assert _names(front >> back) == ["count", "double", "again", "describe"]
    assert _names(front >> _describe()) == ["count", "double", "describe"]
    assert _names(_count() >> back) == ["count", "again", "describe"]
    assert (_names(front), _names(back)) == (["count", "double"], ["again", "describe"])


@pytest.mark.parametrize("guard", ["limits", "fallback", "input"])
def test_a_guarded_pipeline_stays_one_step(guard: str) -> None:
    """A pipeline with limits, a fallback or an input key of its own keeps them when it is chained."""
    guarded: BaseStep[Any, Any] = Pipeline(
        steps=[Step("first", anything), Step("second", anything)],
        name="guarded",
        usage_limits=UsageLimits() if guard == "limits" else None,
    )
    if guard == "fallback":
        guarded.fallback(Step("other", anything))
    if guard == "input":
        guarded = guarded.use_input("key")

    assert _names(Step("start", anything) >> guarded) == ["start", "guarded"]
    assert _names(guarded >> Step("end", anything)) == ["guarded", "end"]
    assert _names(Pipeline.from_step(guarded)) == ["guarded"]


def test_a_pipeline_in_a_pipeline_runs_as_one_step() -> None:
    """A pipeline listed among the steps is a step, with a result of its own."""
    inner = Pipeline(steps=[_count(), _double()], name="inner")
    result = Flujo(Pipeline(steps=[inner, _describe()])).run("abc")

    assert result.output == "the number 6"
    assert [step.name for step in result.step_history] == ["inner", "describe"]
    assert [step.output for step in result.step_history[0].step_history] == [3, 6]


def test_from_step_makes_a_pipeline_of_one() -> None:
    """A step becomes a pipeline, and a pipeline stays as it is."""
    step = _count()
    pipeline = step >> _double()

    assert _names(Pipeline.from_step(step)) == ["count"]
    assert Pipeline.from_step(step).steps[0] is step
    assert Pipeline.from_step(pipeline) is pipeline


def test_a_pipeline_has_the_types_of_its_ends() -> None:
    """A pipeline takes what its first step takes, and gives what its last one gives."""
    pipeline = _count() >> _describe()

    assert (pipeline.input_type, pipeline.output_type) == (str, str)
    assert (Pipeline.from_step(_count().use_input("key")).input_type) is Any


def test_a_step_may_stand_in_many_pipelines() -> None:
    """A step is a value; running it in one pipeline changes nothing for another."""
    step = _count()
    first, second = Flujo(step >> _double()), Flujo(step >> _describe())

    assert (first.run("abc").output, second.run("abc").output) == (6, "the number 3")
    assert first.run("ab").output == 4


def test_a_step_is_no_function() -> None:
    """Calling a step is refused, and the error says how it is run."""
    with pytest.raises(ImproperStepInvocationError, match=r"step 'count' was called.*Flujo\(count\)\.run"):
        _count()("abc")
    with pytest.raises(ImproperStepInvocationError):
        (_count() >> _double())("abc")


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: UNTYPED_PIPELINE(steps=[]), "at least one step"),
        (lambda: UNTYPED_PIPELINE(steps=[count]), "made of steps, not of <function count"),
        (lambda: UNTYPED_PIPELINE(steps=_count()), "steps of a pipeline are Step('count'); give a list"),
        (lambda: UNTYPED_PIPELINE(steps=[_count()], name=""), "needs a name"),
        (lambda: UNTYPED_PIPELINE(steps=[_count()], name=7), "needs a name, a string that is not empty; got 7"),
        (lambda: UNTYPED_PIPELINE.from_step(count), "made of steps"),
        (lambda: UNTYPED_STEP("count", count) >> len, "not a step; wrap a function with Step.from_callable"),
        (lambda: UNTYPED_STEP(count), "needs a name"),
        (lambda: UNTYPED_STEP("count", count, fallback_step=len), "step 'count': the fallback is <built-in"),
        (lambda: UNTYPED_STEP("count", count).fallback(len), "step 'count': the fallback is <built-in"),
        (lambda: UNTYPED_STEP("count", count, usage_limits=0.5), "step 'count': usage_limits is 0.5"),
        (lambda: UNTYPED_RUNNER(_count(), usage_limits=0.5), "the runner: usage_limits is 0.5; give UsageLimits(...)"),
        (lambda: UNTYPED_RUNNER(count), "Flujo runs a pipeline or a step, not <function count"),
    ],
)
def test_what_is_no_step_is_refused_at_once(declare: Callable[[], object], said: str) -> None:
    """A composition that cannot work is an error where it is written, in one line."""
    with pytest.raises(ConfigurationError) as raised:
        declare()

    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_walking_finds_every_step() -> None:
    """A walk gives the step itself and all within it, outer ones first, fallbacks included."""
    inner = Step.loop_until("loop", _double().fallback(_double("spare")), lambda number, context: True)
    pipeline = _count() >> inner

    assert [step.name for step in pipeline.walk()] == ["pipeline", "count", "loop", "pipeline", "double", "spare"]


# use_input


def test_a_step_works_on_one_key_of_its_input() -> None:
    """The step gets the value of the key; the step it was made from still gets all."""
    whole = Step("show", anything)
    part = whole.use_input("b")

    assert Flujo(part).run({"a": 1, "b": 2}).output == 2
    assert Flujo(whole).run({"a": 1}).output == {"a": 1}
    assert part.name == "show"


def test_a_pipeline_works_on_one_key_of_its_input() -> None:
    """A whole pipeline may be fed with one branch of a parallel step."""
    both = Step.parallel("both", {"length": _count(), "text": Step("text", anything)})

    result = Flujo(both >> (_double() >> _describe()).use_input("length")).run("abc")

    assert result.output == "the number 6"


def test_a_fallback_works_on_the_same_key() -> None:
    """What runs instead of a step on one key gets the value of that key too."""

    def fail(value: int) -> int:
        raise ValueError(value)

    part = Step("fail", fail, max_retries=0).fallback(_double("spare")).use_input("b")

    assert Flujo(part).run({"a": 1, "b": 2}).output == 4


@pytest.mark.parametrize("data", [{"a": 1}, {}, "text", None])
def test_a_missing_key_fails_the_step(data: Any) -> None:
    """The feedback names the key; nothing is called."""
    called: list[Any] = []
    result = Flujo(Step("show", called.append).use_input("b")).run(data)

    assert result.status == "failed"
    assert "'b'" in (result.step_history[0].feedback or "")
    assert called == []


# Fallbacks


def test_a_fallback_is_set_while_declaring() -> None:
    """`fallback` sets it on the step itself and returns the step; so does the constructor's argument."""
    spare, step = _count("spare"), _count()

    assert step.fallback(spare) is step
    assert step.fallback_step is spare
    assert Step("count", count, fallback_step=spare).fallback_step is spare


def _itself(step: Step[str, int]) -> BaseStep[str, int]:
    return step


def _a_chain_of_fallbacks(step: Step[str, int]) -> BaseStep[str, int]:
    return _count("spare").fallback(_count("last").fallback(step))


def _a_pipeline(step: Step[str, int]) -> BaseStep[str, int]:
    return step >> _double()


def _a_branch(step: Step[str, int]) -> BaseStep[str, int]:
    return Step.branch_on("which", lambda text, context: text, {"a": step})


def _a_sub_pipeline(step: Step[str, int]) -> BaseStep[str, Any]:
    return Pipeline.from_step(step).as_step("inner")


@pytest.mark.parametrize("lead_back", [_itself, _a_chain_of_fallbacks, _a_pipeline, _a_branch, _a_sub_pipeline])
def test_a_cycle_of_fallbacks_is_refused(lead_back: Callable[[Step[str, int]], BaseStep[str, Any]]) -> None:
    """A fallback that leads back to its step is an error where it is declared, and is not set."""
    step = _count()

    with pytest.raises(InfiniteFallbackError, match="step 'count' cannot fall back"):
        step.fallback(lead_back(step))

    assert step.fallback_step is None


# validate_graph


def _gives(step: BaseStep[Any, Any], following: BaseStep[Any, Any]) -> Pipeline[Any, Any]:
    return Pipeline(steps=[step, following])


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        (_gives(_count(), _count("next")), "step 'count' gives int, but step 'next' takes str"),
        (_gives(_describe(), _double()), "step 'describe' gives str, but step 'double' takes int"),
        (
            _gives(_count(), Pipeline(steps=[_count("inner"), _double()], name="rest")),
            "step 'count' gives int, but step 'rest' takes str",
        ),
        (
            _gives(Step("any", anything).fallback(_describe("spare")), _double()),
            "step 'spare' gives str, but step 'double' takes int",
        ),
        (
            _gives(_describe(), Step("any", anything).fallback(_double("spare"))),
            "step 'describe' gives str, but step 'spare' takes int",
        ),
        (
            _gives(Step.map_over("each", _count()), _count("next")),
            "step 'each' gives list[int], but step 'next' takes str",
        ),
        (
            Pipeline.from_step(Step.parallel("both", {"a": _gives(_count(), _count("next"))})),
            "step 'count' gives int, but step 'next' takes str",
        ),
        (
            Pipeline.from_step(Step("any", anything).fallback(_gives(_count(), _count("next")))),
            "step 'count' gives int, but step 'next' takes str",
        ),
    ],
)
def test_a_mismatch_is_found_and_refused_before_a_run(pipeline: Pipeline[Any, Any], said: str) -> None:
    """The report names both steps and both types, and a run raises the same before anything is called."""
    report = pipeline.validate_graph()

    assert not report.is_valid
    assert [str(finding) for finding in report.errors] == [said]
    with pytest.raises(TypeMismatchError) as raised:
        Flujo(pipeline).run("text")
    assert str(raised.value) == said


@pytest.mark.parametrize(
    "pipeline",
    [
        _count() >> _double() >> _describe(),
        _gives(_count(), Step("any", anything)),
        _gives(Step("any", anything), _count()),
        _gives(Step.parallel("both", {"a": _count()}), _double().use_input("a")),
        _gives(Step.parallel("both", {"a": _count()}), _double().fallback(_double("spare")).use_input("a")),
        _gives(_count(), _double().fallback(_double("spare"))),
    ],
)
def test_what_fits_is_valid(pipeline: Pipeline[Any, Any]) -> None:
    """A pipeline whose steps fit has no findings."""
    report = pipeline.validate_graph()

    assert (report.is_valid, report.errors, report.warnings) == (True, [], [])


def test_all_errors_are_reported_at_once() -> None:
    """A report has everything that is wrong, with the step it was found at and the error a run would raise."""
    report = Pipeline(steps=[_count(), _count("second"), Step("third"), _describe("last")]).validate_graph()

    assert [finding.step_name for finding in report.errors] == ["second", "third"]
    assert [type(finding.error) for finding in report.errors] == [TypeMismatchError, MissingAgentError]
    with pytest.raises(TypeMismatchError):
        report.raise_first()


def test_a_single_step_is_validated_too() -> None:
    """Every step can be asked what a run would refuse."""
    report = Step[Any, Any]("later").validate_graph()

    assert [str(finding) for finding in report.errors] == [
        "step 'later' has no agent; give it one with Step(name, agent)"
    ]


def test_names_that_stand_twice_are_a_warning() -> None:
    """Two steps of one name are allowed, and probably not meant."""
    pipeline = _count() >> _double("same") >> _double("same")
    report = pipeline.validate_graph()

    assert report.is_valid
    assert [str(finding) for finding in report.warnings] == ["two steps of one pipeline are named 'same'"]
    assert report.warnings[0].error is None
    assert Flujo(pipeline).run("a").success


def test_a_context_is_checked_against_its_model() -> None:
    """With the context's model, the report has the fields that steps name but the model lacks."""
    pipeline = Pipeline.from_step(Step.map_over("each", _count(), iterable_input="titels"))

    class Notes(PipelineContext):
        titles: list[str] = Field(default_factory=list[str])

    assert pipeline.validate_graph().is_valid
    (finding,) = pipeline.validate_graph(Notes).errors
    assert "'titels'" in finding.message
    assert "did you mean 'titles'?" in finding.message


def test_an_empty_report_raises_nothing() -> None:
    """A report without errors is valid, whatever it warns of."""
    report = ValidationReport()
    report.warn("odd", "a")
    report.raise_first()

    assert report.is_valid


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        (_count(), "Step('count')"),
        (_count() >> _double(), "Pipeline('pipeline')"),
        (_count().use_input("a"), "Step('count')"),
        ((_count() >> _double()).as_step("inner"), "SubPipelineStep('inner')"),
        (Step.cached(_count()), "CachedStep('count')"),
    ],
)
def test_a_step_is_shown_by_kind_and_name(step: BaseStep[Any, Any], shown: str) -> None:
    """The repr of a step is one short line."""
    assert repr(step) == shown


def test_a_pipeline_can_be_copied() -> None:
    """A copy of a pipeline runs as the original does."""
    pipeline = _count() >> Step.loop_until("loop", _double(), _is_large)

    assert Flujo(copy.deepcopy(pipeline)).run("abc").output == Flujo(pipeline).run("abc").output == 12


def _is_large(number: int, context: PipelineContext) -> bool:
    return number > 10
