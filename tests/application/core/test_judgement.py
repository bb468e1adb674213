"""An output passes processors, plugins and validators before it is the step's."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import Field

from flujo import (
    AgentProcessors,
    BaseValidator,
    ConfigurationError,
    Flujo,
    InfiniteRedirectError,
    NonRetryableError,
    PausedException,
    PipelineAbortSignal,
    PipelineContext,
    PluginOutcome,
    Step,
    StepResult,
    ValidationResult,
    validator,
)
from flujo.testing import DummyPlugin, StubAgent, assert_validator_failed
from tests.application.core.agent_answers import Paid


@validator
def _long(output: str) -> tuple[bool, str | None]:
    return len(output) > 3, "too short"


@validator
def _lower(output: str) -> tuple[bool, str | None]:
    return output.islower(), "not in lower case"


@validator
def _picky(output: str) -> tuple[bool, str | None]:
    return False, None


class _Says:
    """A validator without a name of its own, or a plugin, that says or raises what it is given."""

    def __init__(self, said: Any) -> None:
        self.said = said

    async def validate(self, output: Any, *, context: Any = None) -> Any:
        if isinstance(self.said, BaseException):
            raise self.said
        return self.said


class _Append:
    def __init__(self, text: str) -> None:
        self.text = text

    async def process(self, data: str, context: Any) -> str:
        return data + self.text


async def _run(step: Step[Any, Any], data: Any = "go") -> StepResult:
    return (await Flujo(step).run_async(data)).step_history[0]


async def test_all_validators_are_asked_and_their_feedback_is_joined() -> None:
    """One attempt hears everything that is wrong, in the order of the validators, with their names."""
    agent = StubAgent(["NO", "fine"])

    result = await _run(Step("ask", agent, validators=[_long, _lower]))

    assert result.output == "fine"
    assert agent.inputs[1].endswith("_long: too short; _lower: not in lower case")


async def test_a_refused_output_fails_the_step() -> None:
    """The last refused output is kept, and the feedback names the validators, with or without a reason."""
    result = await Flujo(Step("ask", StubAgent(["no", "No"]), validators=[_long, _picky])).run_async("go")

    step = result.step_history[0]
    assert (step.success, step.output, step.attempts) == (False, "No", 2)
    assert step.feedback == "_long: too short; _picky: refused the output"
    assert_validator_failed(result, "_long", "too short")


_DUCK = ValidationResult(is_valid=False, feedback="no")
_NAMED = ValidationResult(is_valid=False, feedback="no", validator_name="own name")


@pytest.mark.parametrize(
    ("said", "feedback"),
    [(_DUCK, "_Says: no"), (_NAMED, "own name: no"), (ValueError("bug"), "_Says: ValueError: bug")],
)
async def test_anything_that_validates_is_a_validator(said: Any, feedback: str) -> None:
    """An object with `validate` needs no base class; in feedback it has the name it gives, or that of its class."""
    result = await _run(Step("ask", StubAgent(["x"]), validators=[_Says(said)], max_retries=0))

    assert result.feedback == feedback


async def test_a_validator_that_raises_hides_no_other() -> None:
    """Its error is its verdict; the other validators are asked, and the agent hears of both."""
    agent = StubAgent(["no", "fine"])
    result = await _run(Step("ask", agent, validators=[_Says(ValueError("bug")), _long]))

    assert not result.success
    assert agent.inputs[1].endswith("_Says: ValueError: bug; _long: too short")


async def test_validators_see_the_context_of_the_run() -> None:
    """A validator gets the output and, by keyword, the context."""
    seen: list[Any] = []

    class Look(BaseValidator):
        async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
            seen.append((output, context.initial_prompt))
            return ValidationResult(is_valid=True)

    await _run(Step("ask", StubAgent(["x"]), validators=[Look()]), "prompt")

    assert seen == [("x", "prompt")]


@pytest.mark.parametrize("judge", [_long, _Says(_DUCK), _Says(ValueError("bug"))])
async def test_a_step_that_is_not_strict_passes_and_records_what_was_refused(judge: Any) -> None:
    """With `strict=False` there is one attempt, and `metadata_` has the failed validations, raised ones included."""
    agent = StubAgent(["no"])

    result = await _run(Step.validate_step(agent, validators=[judge, _lower], strict=False))

    assert (result.name, result.success, result.output, result.attempts) == ("validate", True, "no", 1)
    (failed,) = result.metadata_["failed_validations"]
    assert not failed.is_valid
    assert failed.validator_name in {"_long", "_Says"}


async def test_a_step_that_is_not_strict_records_refusing_plugins_too() -> None:
    """The plugin's feedback is among the failed validations, under the name of its class."""
    plugin = DummyPlugin([PluginOutcome(success=False, feedback="rude")])

    result = await _run(Step.validate_step(StubAgent(["no"]), plugins=[(plugin, 1)], strict=False))

    assert result.success
    assert result.metadata_["failed_validations"] == [
        ValidationResult(is_valid=False, feedback="rude", validator_name="DummyPlugin")
    ]


async def test_a_passed_validation_leaves_no_metadata() -> None:
    """Only what was refused is recorded."""
    result = await _run(Step.validate_step(StubAgent(["fine"]), validators=[_long], strict=False))

    assert (result.success, result.metadata_) == (True, {})


async def test_output_processors_come_before_judgement() -> None:
    """They change the output of every attempt, in order; what they leave is judged and is the step's output."""
    processors = AgentProcessors(output_processors=[_Append("!"), _Append("?")])
    agent = StubAgent(["a", "ab"])

    result = await _run(Step("ask", agent, processors=processors, validators=[_long]))

    assert (result.output, agent.call_count) == ("ab!?", 2)


@pytest.mark.parametrize("strict", [True, False])
async def test_an_output_processor_that_raises_fails_the_attempt(strict: bool) -> None:  # noqa: FBT001  # a case
    """It is an error, not a verdict: the retry gets the same input, and a step that is not strict fails too."""

    class Broken:
        async def process(self, data: Any, context: Any) -> Any:
            raise KeyError("x")

    agent = StubAgent(["a", "b"])
    processors = AgentProcessors(output_processors=[Broken()])
    result = await _run(Step("ask", agent, processors=processors, strict=strict))

    assert (result.success, result.feedback) == (False, "KeyError: 'x'")
    assert agent.inputs == ["go", "go"]


async def test_plugins_are_asked_by_priority_until_one_refuses() -> None:
    """The higher priority comes first, equal ones in order of declaration; validators come after all of them."""
    asked: list[str] = []

    class Plugin:
        def __init__(self, name: str, outcomes: Sequence[bool]) -> None:
            self.name, self.outcomes = name, iter(outcomes)

        async def validate(self, data: dict[str, Any]) -> PluginOutcome:
            asked.append(self.name)
            return PluginOutcome(success=next(self.outcomes))

    @validator
    def last(output: str) -> tuple[bool, str | None]:
        asked.append("validator")
        return True, None

    plugins = [(Plugin("low", [True]), 1), (Plugin("a", [True, True]), 5), (Plugin("b", [False, True]), 5)]
    result = await _run(Step("ask", StubAgent(["x", "y"]), plugins=plugins, validators=[last]))

    assert result.success
    assert asked == ["a", "b", "a", "b", "low", "validator"]


async def test_a_plugin_sees_the_output_and_the_feedback_before_it() -> None:
    """`output` and `solution` are the same; `feedback` is what was wrong with the attempt before."""
    plugin = DummyPlugin([PluginOutcome(success=False, feedback="rude"), PluginOutcome(success=True)])
    agent = StubAgent(["a", "b"])

    await _run(Step("ask", agent, plugins=[(plugin, 1)]))

    assert plugin.seen == [
        {"output": "a", "solution": "a", "feedback": None},
        {"output": "b", "solution": "b", "feedback": "rude"},
    ]
    assert agent.inputs[1] == "go\n\nFeedback on the previous answer:\nrude"


async def test_a_plugin_may_replace_the_output() -> None:
    """`new_solution` is what the next plugin and the validators see, and the step's output."""
    first = DummyPlugin([PluginOutcome(success=True, new_solution="better")])
    second = DummyPlugin([PluginOutcome(success=True)])

    result = await _run(Step("ask", StubAgent(["x"]), plugins=[(first, 2), (second, 1)], validators=[_long]))

    assert (result.output, second.seen[0]["output"]) == ("better", "better")


@pytest.mark.parametrize(
    ("plugin", "feedback"),
    [
        (_Says(PluginOutcome(success=False)), "_Says refused the output"),
        (_Says(ValueError("bug")), "_Says: ValueError: bug"),
    ],
)
async def test_a_plugin_that_fails_refuses(plugin: Any, feedback: str) -> None:
    """A refusal without a reason and an error refuse the output under the plugin's name."""
    result = await _run(Step("ask", StubAgent(["x"]), plugins=[(plugin, 1)], max_retries=0))

    assert (result.success, result.feedback) == (False, feedback)


async def test_a_plugin_redirects_the_next_attempt() -> None:
    """The agent it names answers with the feedback, and counts as an attempt of the step."""
    other = StubAgent([Paid("from the other", 0.5)])
    plugin = DummyPlugin([PluginOutcome(success=False, feedback="ask the other", redirect_to=other)])

    result = await _run(Step("ask", StubAgent([Paid("x", 0.25)]), plugins=[(plugin, 1)]))

    assert (result.output, result.attempts, result.cost_usd) == ("from the other", 2, 0.75)
    assert "ask the other" in other.inputs[0]


async def test_a_redirect_lasts_for_one_execution() -> None:
    """The next run starts with the step's own agent again."""
    own, other = StubAgent(["a", "b"]), StubAgent(["c"])
    plugin = DummyPlugin([PluginOutcome(success=False, redirect_to=other)])
    runner = Flujo(Step("ask", own, plugins=[(plugin, 1)]))

    first = await runner.run_async("go")
    second = await runner.run_async("go")

    assert (first.output, second.output) == ("c", "b")


class _Answers:
    async def ask(self, data: Any) -> Any:
        return "x"


@pytest.mark.parametrize("is_method", [False, True])
async def test_a_redirect_cycle_raises(is_method: bool) -> None:  # noqa: FBT001  # a case
    """An agent that had its turn does not get another one, whether it is an object or a bound method."""
    objects = _Answers(), _Answers()
    stubs = StubAgent(["a", "b"]), StubAgent(["c"])

    def agent(number: int) -> Any:
        return objects[number].ask if is_method else stubs[number]

    outcomes = [PluginOutcome(success=False, redirect_to=agent(1)), PluginOutcome(success=False, redirect_to=agent(0))]
    step: Step[Any, Any] = Step("ask", agent(0), plugins=[(DummyPlugin(outcomes), 1)], max_retries=5)
    with pytest.raises(InfiniteRedirectError, match="step 'ask': a plugin redirects to"):
        await Flujo(step).run_async("go")


@pytest.mark.parametrize("where", ["plugins", "validators"])
async def test_signals_from_a_judge_are_heeded(where: str) -> None:
    """A judge may abort the run, wait for a person, or rule out another attempt; what was paid is kept."""

    def step(signal: Exception) -> Step[Any, Any]:
        judge: Any = [_Says(signal)] if where == "validators" else [(_Says(signal), 1)]
        return Step("ask", StubAgent([Paid("x", 0.5), "never"]), max_retries=5, **{where: judge})

    aborted = await Flujo(step(PipelineAbortSignal("stop"))).run_async("go")
    paused = await Flujo(step(PausedException("really?"))).run_async("go")
    failed = await Flujo(step(NonRetryableError("hopeless"))).run_async("go")

    assert [result.status for result in (aborted, paused, failed)] == ["aborted", "paused", "failed"]
    assert [result.total_cost_usd for result in (aborted, paused, failed)] == [0.5, 0.5, 0.5]
    assert [result.step_history[0].attempts for result in (aborted, paused, failed)] == [1, 1, 1]


async def test_a_judge_that_cancels_itself_fails_the_attempt() -> None:
    """Nobody cancelled the run, so the step fails with its cost and the run goes on to its end."""
    step = Step("ask", StubAgent([Paid("x", 0.5)] * 2), validators=[_Says(asyncio.CancelledError())])
    result = await Flujo(Step.parallel("all", {"a": step, "b": Step("b", StubAgent(["b"]))})).run_async("go")

    failed, passed = result.step_history[0].step_history
    assert (failed.status, failed.cost_usd, passed.status) == ("failed", 1.0, "completed")
    assert failed.feedback == "RuntimeError: the judgement of the output was cancelled by its own code"


class _Notes(PipelineContext):
    heard: list[str] = Field(default_factory=list[str])
    verdicts: list[ValidationResult] = Field(default_factory=list[ValidationResult])
    number: int = 0


async def test_feedback_and_validation_results_go_to_the_context() -> None:
    """Each refused attempt appends its feedback, and each judged attempt what every validator said."""
    step = Step(
        "ask",
        StubAgent(["no", "fine"]),
        validators=[_long, _lower],
        persist_feedback_to_context="heard",
        persist_validation_results_to="verdicts",
    )

    result = await Flujo(step, context_model=_Notes).run_async("go")

    context = result.final_pipeline_context
    assert isinstance(context, _Notes)
    assert context.heard == ["_long: too short"]
    assert [(said.validator_name, said.is_valid) for said in context.verdicts] == [
        ("_long", False),
        ("_lower", True),
        ("_long", True),
        ("_lower", True),
    ]


async def test_feedback_that_does_not_fit_the_context_fails_the_step() -> None:
    """The step names the field and keeps its cost, and the agent is not asked again."""
    agent = StubAgent([Paid("no", 0.5), "never"])
    step = Step("ask", agent, validators=[_long], persist_feedback_to_context="number", max_retries=5)

    result = await Flujo(step, context_model=_Notes).run_async("go")

    failed = result.step_history[0]
    assert (failed.status, failed.cost_usd, agent.call_count) == ("failed", 0.5, 1)
    assert failed.feedback is not None
    assert failed.feedback.startswith("_Notes refuses number:")


@pytest.mark.parametrize("option", ["persist_feedback_to_context", "persist_validation_results_to"])
async def test_a_field_to_persist_to_has_to_exist(option: str) -> None:
    """A field that the context model does not have is refused before the run."""
    agent = StubAgent(["never"])
    persisting: dict[str, Any] = {option: "herd"}
    step: Step[Any, Any] = Step("ask", agent, validators=[_long], **persisting)

    with pytest.raises(ConfigurationError, match="step 'ask' writes to the context field 'herd'"):
        await Flujo(step, context_model=_Notes).run_async("go")

    assert agent.call_count == 0
