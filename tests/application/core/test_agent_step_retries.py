"""How often an agent is asked, with what input, and what the step comes to when it fails."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from flujo import (
    AgentProcessors,
    ConfigurationError,
    Flujo,
    NonRetryableError,
    PausedException,
    PipelineAbortSignal,
    PipelineContext,
    Step,
    StepConfig,
    StepResult,
    validator,
)
from flujo.testing import StubAgent
from tests.application.core.agent_answers import Paid, PaidError


@validator
def _says_yes(output: str) -> tuple[bool, str | None]:
    return output == "yes", "say yes"


async def _run_step(step: Step[Any, Any], data: Any = "go") -> StepResult:
    result = await Flujo(step).run_async(data)
    return result.step_history[0]


@pytest.mark.parametrize("max_retries", [0, 1, 3])
async def test_attempts_are_one_more_than_the_retries(max_retries: int) -> None:
    """A step that always fails asks its agent `1 + max_retries` times."""
    agent = StubAgent([ValueError("no")] * 9)

    result = await _run_step(Step("ask", agent, max_retries=max_retries))

    assert not result.success
    assert result.attempts == agent.call_count == 1 + max_retries
    assert result.feedback == "ValueError: no"


async def test_a_step_retries_once_by_default() -> None:
    """Without a config there are two attempts."""
    agent = StubAgent([ValueError("no"), "fine"])

    result = await _run_step(Step("ask", agent))

    assert (result.output, result.attempts, result.feedback) == ("fine", 2, None)


async def test_config_values_override_those_of_a_config() -> None:
    """A value given directly goes before the same value of `config`, whose other values stay."""
    step = Step("ask", StubAgent([]), config=StepConfig(max_retries=3, timeout_s=7), max_retries=0)

    assert step.config == StepConfig(max_retries=0, timeout_s=7)


@pytest.mark.parametrize("wrong", [{"max_retries": -1}, {"timeout_s": 0}, {"timeout_s": float("inf")}])
def test_impossible_config_values_are_refused(wrong: dict[str, Any]) -> None:
    """A negative number of retries and a timeout that is no time are errors when the step is declared."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Step("ask", StubAgent([]), **wrong)


def test_an_unknown_argument_is_named_with_the_nearest_known_one() -> None:
    """A misspelt keyword argument is a `TypeError` that says what was meant."""
    with pytest.raises(TypeError, match=r"step 'ask'.*'max_retry'; did you mean 'max_retries'"):
        Step("ask", StubAgent([]), max_retry=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportUnknownVariableType]  # the mistake is the point


async def test_a_retry_after_an_exception_gets_the_same_input() -> None:
    """An exception tells the agent nothing, so its input stays as it was."""
    agent = StubAgent([ValueError("no"), ValueError("no"), "fine"])

    await _run_step(Step("ask", agent, max_retries=2), {"question": "why?"})

    assert agent.inputs == [{"question": "why?"}] * 3


@pytest.mark.parametrize(
    ("data", "again"),
    [
        ("go", "go\n\nFeedback on the previous answer:\n_says_yes: say yes"),
        ({"a": 1, "feedback": None}, {"a": 1, "feedback": "_says_yes: say yes"}),
        (7, 7),
    ],
)
async def test_a_retry_after_a_refusal_gets_the_feedback_besides(data: Any, again: Any) -> None:
    """Feedback is added to a string or a dict; a value of any other type stays what it is."""
    agent = StubAgent(["no", "yes"])

    result = await _run_step(Step("ask", agent, validators=[_says_yes]), data)

    assert result.success
    assert agent.inputs == [data, again]


async def test_an_exception_after_a_refusal_keeps_the_feedback_and_the_refused_output() -> None:
    """The third attempt gets what the second one got, and the step fails with the output that was refused."""
    agent = StubAgent(["no", ValueError("down"), ValueError("down")])

    result = await _run_step(Step("ask", agent, validators=[_says_yes], max_retries=2))

    assert agent.inputs[1] == agent.inputs[2] != agent.inputs[0]
    assert (result.output, result.feedback) == ("no", "ValueError: down")


async def test_the_cost_of_failed_attempts_counts() -> None:
    """Refused answers and failed calls that report a cost are part of the step's cost."""
    agent = StubAgent([Paid("no", 0.2), PaidError("cut off"), Paid("yes", 0.3)])

    result = await _run_step(Step("ask", agent, validators=[_says_yes], max_retries=2))

    assert result.success
    assert (result.cost, result.token_counts, result.attempts) == (Decimal("0.6"), 5, 3)


async def test_a_non_retryable_error_ends_the_attempts() -> None:
    """`NonRetryableError` fails the step at once, whatever `max_retries` says."""
    agent = StubAgent([NonRetryableError("no such model"), "fine"])

    result = await _run_step(Step("ask", agent, max_retries=5))

    assert not result.success
    assert (result.attempts, result.feedback) == (1, "NonRetryableError: no such model")


async def test_failure_handlers_run_once_when_all_attempts_failed() -> None:
    """Plain and async handlers are called in order, without arguments, after the last attempt only."""
    told: list[str] = []

    def plain() -> None:
        told.append("plain")

    async def waits() -> None:
        told.append("async")

    agent = StubAgent([ValueError("no"), ValueError("no"), "fine"])
    step = Step("ask", agent, failure_handlers=[plain, waits])
    await _run_step(step)
    failed = list(told)
    await _run_step(step)

    assert failed == told == ["plain", "async"]


async def test_a_failure_handler_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error of a handler goes to the log, the next handler runs, and the step's feedback stays."""
    told: list[str] = []

    def broken() -> None:
        raise KeyError("handler")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    handlers = [broken, cancelled, lambda: told.append("told")]
    result = await _run_step(Step("ask", StubAgent([ValueError("no")]), max_retries=0, failure_handlers=handlers))

    assert (result.feedback, told) == ("ValueError: no", ["told"])
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


async def test_an_agent_may_abort_the_run() -> None:
    """`PipelineAbortSignal` from an agent stops the run, is not retried, and keeps what was spent."""
    agent = StubAgent([PaidError("first"), PipelineAbortSignal("enough"), "never"])

    result = await Flujo(Step("ask", agent, max_retries=5) >> Step("next", StubAgent(["x"]))).run_async("go")

    assert (result.status, agent.call_count, len(result.step_history)) == ("aborted", 2, 1)
    assert (result.step_history[0].feedback, result.total_cost) == ("enough", Decimal("0.1"))


async def test_an_agent_that_pauses_is_not_called_again() -> None:
    """The answer becomes the step's output, and attempts before the pause stay paid for."""
    agent = StubAgent([PaidError("first"), PausedException("which one?"), "never"])
    runner = Flujo(Step("ask", agent, max_retries=5))

    paused = await runner.run_async("go")
    result = await runner.resume_async(paused, "this one")

    assert (paused.status, paused.waiting[0].message, paused.total_cost) == ("paused", "which one?", Decimal("0.1"))
    assert (result.output, agent.call_count, result.total_cost) == ("this one", 2, Decimal("0.1"))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_an_interpreter_that_ends_is_not_a_failed_step(error: BaseException) -> None:
    """What is no `Exception` leaves the run as it is."""
    with pytest.raises(type(error)) as raised:
        await Flujo(Step("ask", StubAgent([error]))).run_async("go")

    assert raised.value is error


async def test_a_group_of_errors_is_told_of_in_one_line() -> None:
    """The feedback names every exception in a group."""
    group = ExceptionGroup("both", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])])

    result = await _run_step(Step("ask", StubAgent([group]), max_retries=0))

    assert result.feedback == "ValueError: a; KeyError: 'b'"


async def test_attempts_share_nothing_with_the_next_run() -> None:
    """Feedback of one run is not seen in another one, at the same time or later."""
    agent = StubAgent(["no", "no", "yes", "yes"])
    runner = Flujo(Step("ask", agent, validators=[_says_yes]))

    first = await runner.run_async("a")
    second = await runner.run_async("b")

    assert (first.success, second.success) == (False, True)
    assert agent.inputs[2] == "b"


async def test_prompt_processors_change_the_input_once() -> None:
    """Processors get input and context in order, before the first attempt; feedback is added to what they gave."""

    class Add:
        def __init__(self, text: str) -> None:
            self.text = text

        async def process(self, data: str, context: PipelineContext) -> str:
            context.command_log.append(self.text)
            return data + self.text

    agent = StubAgent(["no", "yes"])
    processors = AgentProcessors(prompt_processors=[Add("1"), Add("2")])
    result = await Flujo(Step("ask", agent, processors=processors, validators=[_says_yes])).run_async("go")

    assert agent.inputs[0] == "go12"
    assert agent.inputs[1].startswith("go12\n")
    assert result.final_pipeline_context.command_log == ["1", "2"]


async def test_a_prompt_processor_that_fails_fails_the_step() -> None:
    """The agent is not asked; an abort signal stops the run."""

    class Broken:
        def __init__(self, error: Exception) -> None:
            self.error = error

        async def process(self, data: Any, context: Any) -> Any:
            raise self.error

    agent = StubAgent(["never"])
    failing = Step("ask", agent, processors=AgentProcessors(prompt_processors=[Broken(KeyError("x"))]))
    aborting = Step("ask", agent, processors=AgentProcessors(prompt_processors=[Broken(PipelineAbortSignal("stop"))]))
    failed = await Flujo(failing).run_async("go")
    aborted = await Flujo(aborting).run_async("go")

    assert (failed.status, failed.step_history[0].feedback, failed.step_history[0].attempts) == (
        "failed",
        "KeyError: 'x'",
        0,
    )
    assert (aborted.status, agent.call_count) == ("aborted", 0)
