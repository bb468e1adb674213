"""How a step that calls an agent is declared: its options, its types, and what is refused at once."""

# ruff: noqa: D103 - the functions say with their names and types what they are

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from flujo import (
    AgentProcessors,
    BaseValidator,
    ConfigurationError,
    Flujo,
    MissingAgentError,
    PipelineContext,
    Step,
    StepConfig,
    TypeMismatchError,
    UsageLimits,
    adapter_step,
    step,
    validator,
)
from flujo.domain.step import AgentStep, StepOptions
from flujo.testing import DummyPlugin, StubAgent, assert_context_updated

UNTYPED_STEP: Any = Step
"""`Step` for programs that no type checker has seen."""
UNTYPED_DECORATOR: Any = step


async def count(text: str) -> int:
    return len(text)


@validator
def polite(output: int) -> tuple[bool, str | None]:
    return output > 0, None


class Notes(PipelineContext):
    words: int = 0
    log: list[str] = []  # noqa: RUF012 - pydantic copies it


class Words(BaseModel):
    words: int


class Wrods(BaseModel):
    wrods: int


class Titles(BaseModel):
    words: str


# Options


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Step("count", count, max_retries=3, timeout_s=2.5),
        lambda: Step("count", count, config=StepConfig(max_retries=3, timeout_s=2.5)),
        lambda: Step("count", count, config=StepConfig(max_retries=9, timeout_s=2.5), max_retries=3),
        lambda: Step(name="count", agent=count, max_retries=3, timeout_s=2.5),
        lambda: Step.from_callable(count, max_retries=3, timeout_s=2.5),
        lambda: Step.from_callable(count, config=StepConfig(max_retries=3, timeout_s=2.5)),
        lambda: step(max_retries=3, timeout_s=2.5)(count),
        lambda: adapter_step(max_retries=3, timeout_s=2.5)(count),
    ],
)
def test_config_values_may_be_given_directly(declare: Callable[[], Step[str, int]]) -> None:
    """Values of the config are options of a step, beside or instead of a whole config, which they override."""
    declared = declare()

    assert declared.config == StepConfig(max_retries=3, timeout_s=2.5)
    assert declared.name == "count"


def test_a_shared_config_is_not_changed() -> None:
    """A config used for many steps stays as it is when one of them overrides a value."""
    shared = StepConfig(max_retries=5)

    Step("count", count, config=shared, max_retries=1)

    assert shared == StepConfig(max_retries=5)
    assert Step("other", count, config=shared).config is shared


def test_options_are_those_of_the_declaration() -> None:
    """The options that type checkers offer are the keywords that a step takes, besides the fallback."""
    taken = inspect.signature(AgentStep.__init__).parameters
    direct = {name for name, each in taken.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}

    assert direct | set(StepConfig.model_fields) == set(StepOptions.__annotations__) | {"fallback_step"}


def test_a_step_keeps_what_it_was_declared_with() -> None:
    """Every option is an attribute, in a form that later changes of the given lists do not reach."""
    validators: list[Any] = [polite]
    low, high = DummyPlugin([]), DummyPlugin([])
    declared = Step(
        "count",
        count,
        plugins=[(low, 1), (high, 9)],
        validators=validators,
        usage_limits=UsageLimits(total_tokens_limit=5),
        updates_context=True,
        strict=False,
        meta={"owner": "me"},
    )
    validators.clear()

    assert [plugin for plugin, _ in declared.plugins] == [high, low]
    assert declared.validators == (polite,)
    assert declared.usage_limits == UsageLimits(total_tokens_limit=5)
    assert (declared.updates_context, declared.is_strict, declared.meta) == (True, False, {"owner": "me"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_retries": -1}, "max_retries is -1: input should be greater than or equal to 0"),
        ({"max_retries": 1.5}, "max_retries is 1.5: input should be a valid integer"),
        ({"max_retries": "x" * 1000}, "max_retries is 'xxxx"),
        ({"timeout_s": 0}, "timeout_s is 0: input should be greater than 0"),
        ({"timeout_s": float("inf")}, "timeout_s is inf: input should be a finite number"),
        ({"config": StepConfig(), "top_k": "many"}, "top_k is 'many': input should be a valid integer"),
        ({"config": {"max_retries": 2}}, "config is {'max_retries': 2}; give a StepConfig(...)"),
        ({"usage_limits": 0.5}, "usage_limits is 0.5; give UsageLimits(...)"),
        ({"plugins": [DummyPlugin([])]}, "is not a plugin with its priority; give (plugin, 0)"),
        ({"plugins": [(count, 0)]}, "is not a plugin with its priority"),
        ({"plugins": [(DummyPlugin([]), "high")]}, "is not a plugin with its priority"),
        ({"validators": [count]}, "is not a validator; decorate a function with @validator"),
        ({"validators": [BaseValidator]}, "is not a validator"),
        ({"processors": [count]}, "give AgentProcessors(...)"),
        ({"failure_handlers": ["alarm"]}, "the failure handler 'alarm' cannot be called"),
        ({"agent": 7}, "7 is not an agent"),
        ({"agent": Step("inner", count)}, "the agent is the step 'inner'; compose steps with >> or as_step"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_option_that_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    """The error is one line that names the step, the option and the value."""
    with pytest.raises(ConfigurationError) as raised:
        UNTYPED_STEP("ask", **{"agent": count, **options})

    assert str(raised.value).startswith("step 'ask': ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: UNTYPED_STEP("ask", count, retries=2), "'retries'; did you mean 'max_retries'?"),
        (lambda: UNTYPED_STEP("ask", count, timeout=2), "'timeout'; did you mean 'timeout_s'?"),
        (lambda: UNTYPED_STEP("ask", count, updates_contxt=True), "'updates_contxt'; did you mean 'updates_context'?"),
        (lambda: UNTYPED_STEP("ask", count, validator=[]), "'validator'; did you mean 'validators'?"),
        (lambda: UNTYPED_STEP("ask", count, zzz=2), "step 'ask' got an unexpected keyword argument 'zzz'"),
        (lambda: UNTYPED_STEP.from_callable(count, retries=2), "did you mean 'max_retries'?"),
        (lambda: UNTYPED_DECORATOR(retries=2)(count), "did you mean 'max_retries'?"),
    ],
)
def test_an_unknown_option_is_refused(declare: Callable[[], object], said: str) -> None:
    """The error names the nearest option there is."""
    with pytest.raises(TypeError) as raised:
        declare()

    assert said in str(raised.value)


def test_options_are_never_positional() -> None:
    """Whatever follows the agent has a name."""
    with pytest.raises(TypeError, match="positional"):
        UNTYPED_STEP("ask", count, True)  # noqa: FBT003 - the mistake
    with pytest.raises(TypeError, match="positional"):
        UNTYPED_STEP("ask", count, StepConfig())


# Names


class Model:
    """An agent."""

    async def run(self, data: str) -> int:
        return len(data)

    async def ask(self, data: str) -> int:
        return len(data)


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        (Step.from_callable(count), "count"),
        (Step.from_callable(count, name="other"), "other"),
        (Step.from_callable(count, "other"), "other"),
        (Step.from_mapper(count), "count"),
        (Step.from_callable(Model().ask), "ask"),
        (Step.from_callable(Model()), "Model"),
        (Step.from_callable(functools.partial(functools.partial(count))), "count"),
        (Step.from_callable(str.upper), "upper"),
        (step(count), "count"),
        (step(name="other")(count), "other"),
        (step()(count), "count"),
        (adapter_step(count), "count"),
        (Step.solution(Model()), "solution"),
        (Step.review(Model()), "review"),
        (Step.validate_step(Model()), "validate"),
    ],
)
def test_a_step_has_the_name_of_its_function(declared: Step[Any, Any], name: str) -> None:
    """A name that is not given is that of the function, of the class, or of the factory."""
    assert declared.name == name


# Types


def test_a_step_has_the_types_of_its_agent() -> None:
    """The declared types are the annotations, and they follow another agent."""
    declared = Step[Any, Any]("ask")
    assert (declared.agent, declared.input_type, declared.output_type) == (None, Any, Any)

    declared.bind(count)

    assert (declared.agent, declared.input_type, declared.output_type) == (count, str, int)


def test_an_agent_that_is_refused_changes_nothing() -> None:
    """A step keeps its agent and its types when it is given what is none."""
    declared = Step("ask", count)

    with pytest.raises(ConfigurationError, match="not an agent"):
        declared.bind(7)

    assert (declared.agent, declared.input_type, declared.output_type) == (count, str, int)


def test_a_step_without_an_agent_is_refused_before_the_run() -> None:
    """A step may be declared first and get its agent later, but not run without one."""
    later = Step[Any, Any]("later")

    with pytest.raises(MissingAgentError, match="step 'later' has no agent"):
        Flujo(later).run("text")
    later.bind(StubAgent(["a"]))

    assert Flujo(later).run("text").output == "a"


# What goes with the context


async def with_notes(text: str, *, context: Notes) -> int:
    return context.words


async def gives_words(text: str) -> Words:
    return Words(words=len(text))


async def gives_wrods(text: str) -> Wrods:
    return Wrods(wrods=len(text))


async def gives_titles(text: str) -> Titles:
    return Titles(words=text)


@pytest.mark.parametrize(
    ("declared", "error", "said"),
    [
        (Step("ask", with_notes), TypeMismatchError, "context of step 'ask' takes Notes"),
        (Step("ask", count, persist_feedback_to_context="log"), ConfigurationError, "'log', which PipelineContext"),
        (Step("ask", count, persist_validation_results_to="log"), ConfigurationError, "field 'log'"),
    ],
)
def test_a_context_that_does_not_suit_is_refused(
    declared: Step[Any, Any], error: type[ConfigurationError], said: str
) -> None:
    """A step that needs a field or a model which the run's context is not is refused before the run."""
    with pytest.raises(error, match=said):
        Flujo(declared).run("text")

    assert Flujo(declared, context_model=Notes).run("text").success


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (gives_wrods, "'wrods', which the context does not have; did you mean 'words'?"),
        (gives_titles, "step 'ask' gives str, but context field 'words' takes int"),
    ],
)
def test_declared_fields_are_validated(agent: Any, said: str) -> None:
    """`validate_fields` compares the fields of the declared output with those of the context."""
    declared = Step[Any, Any]("ask", agent, updates_context=True, validate_fields=True)

    with pytest.raises(ConfigurationError) as raised:
        Flujo(declared, context_model=Notes).run("text")

    assert said in str(raised.value)


def test_declared_fields_that_fit_are_valid() -> None:
    """An output whose fields the context has is merged into it."""
    declared = Step("ask", gives_words, updates_context=True, validate_fields=True)

    result = Flujo(declared, context_model=Notes).run("text")

    assert_context_updated(result, words=4)


def test_a_context_of_another_model_says_what_to_do() -> None:
    """The error names the model that the runner, or the command line, should be given."""

    def read(data: str, context: Notes) -> str:
        return data

    with pytest.raises(TypeMismatchError) as raised:
        Flujo(Step("read", read)).run("text")

    assert str(raised.value) == (
        "the run gives PipelineContext, but context of step 'read' takes Notes; "
        "give the runner context_model=Notes, or the command line --context-model Notes"
    )


def test_processors_of_a_step_are_its_own() -> None:
    """A step without processors has empty ones."""
    assert Step("ask", count).processors == AgentProcessors()
