"""Plugins, validators and processors of the wrong shape are refused: when declared, or at once when they answer."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flujo import AgentProcessors, BaseValidator, ConfigurationError, Flujo, PluginOutcome, Step, ValidationResult
from flujo import validator as as_validator
from flujo.testing import DummyPlugin, StubAgent
from tests.application.core.agent_answers import Paid


class _PlainJudge:
    def validate(self, output: Any, *, context: Any = None) -> Any: ...


class _PlainNamed(BaseValidator):
    def validate(self, output: Any, *, context: Any = None) -> Any: ...


class _JudgeWithoutContext:
    async def validate(self, output: Any) -> Any: ...


class _JudgeOfTwo:
    async def validate(self, output: Any, other: Any) -> Any: ...


class _PlainProcessor:
    def process(self, data: Any, context: Any) -> Any: ...


class _ProcessorOfOne:
    async def process(self, data: Any) -> Any: ...


class _Coroutines:
    async def validate(self, output: Any, *, context: Any = None) -> Any: ...

    async def process(self, data: Any, context: Any) -> Any: ...


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"validators": [_PlainJudge()]}, "_PlainJudge.validate is a plain function; write `async def validate`"),
        ({"validators": [_PlainNamed()]}, "_PlainNamed.validate is a plain function; write `async def validate`"),
        ({"plugins": [(_PlainJudge(), 1)]}, "_PlainJudge.validate is a plain function; write `async def validate`"),
        (
            {"validators": [_JudgeWithoutContext()]},
            "_JudgeWithoutContext.validate takes (output: Any) -> Any, but is called with (output, context=...)",
        ),
        (
            {"plugins": [(_JudgeOfTwo(), 1)]},
            "_JudgeOfTwo.validate takes (output: Any, other: Any) -> Any, but is called with (data)",
        ),
        (
            {"processors": AgentProcessors(output_processors=[_PlainProcessor()])},
            "_PlainProcessor.process is a plain function; write `async def process`",
        ),
        (
            {"processors": AgentProcessors(prompt_processors=[_ProcessorOfOne()])},
            "_ProcessorOfOne.process takes (data: Any) -> Any, but is called with (data, context)",
        ),
        ({"processors": AgentProcessors(prompt_processors=[str.strip])}, "is not a processor; give an object with"),
        ({"processors": AgentProcessors(prompt_processors=[_Coroutines])}, "is not a processor; give an object with"),
        ({"processors": {"prompt_processors": []}}, "processors is {'prompt_processors': []}; give AgentProcessors"),
    ],
)
def test_a_wrong_shape_is_refused_when_declared(options: dict[str, Any], complaint: str) -> None:
    """What is not async, or takes other arguments than it will get, is an error that says what to write."""
    with pytest.raises(ConfigurationError, match="step 'ask': ") as raised:
        Step("ask", StubAgent(["x"]), **options)

    assert complaint in str(raised.value)


def _logged(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return wrapper


class _Decorated:
    @_logged
    async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
        return ValidationResult(is_valid=True)

    @_logged
    async def process(self, data: Any, context: Any) -> Any:
        return data


class _Delegating:
    def validate(self, output: Any, *, context: Any = None) -> Awaitable[ValidationResult]:
        return _Decorated().validate(output, context=context)  # type: ignore[no-any-return]  # it is decorated

    def process(self, data: Any, context: Any) -> "asyncio.Task[Any]":
        return asyncio.get_running_loop().create_task(_Decorated().process(data, context))


@pytest.mark.parametrize("judge", [_Decorated(), _Delegating()])
async def test_whatever_gives_an_awaitable_is_async(judge: Any) -> None:
    """A decorated method, and one that says that it gives an awaitable, are called as coroutine functions are."""
    step = Step("ask", StubAgent(["x"]), validators=[judge], processors=AgentProcessors(output_processors=[judge]))

    result = await Flujo(step).run_async("go")

    assert (result.success, result.output) == (True, "x")


class _Method:
    """A method that hides whether it is async."""

    def __init__(self, given: Any, *, is_async: bool) -> None:
        self.given, self.is_async = given, is_async

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._later() if self.is_async else self.given

    async def _later(self) -> Any:
        return self.given


class _Judge:
    def __init__(self, given: Any, *, is_async: bool = True) -> None:
        self.validate = _Method(given, is_async=is_async)


class _Processor:
    def __init__(self, given: Any) -> None:
        self.process = _Method(given, is_async=False)


@as_validator  # type: ignore[arg-type]  # a mistake that an untyped caller makes
def _says_yes(output: Any) -> bool:
    return True


@as_validator  # type: ignore[arg-type]  # a mistake that an untyped caller makes
def _says_number(output: Any) -> tuple[bool, int]:
    return False, 5


@pytest.mark.parametrize(
    ("options", "feedback"),
    [
        ({"validators": [_Judge(1)]}, "validator _Judge returned 1; return a ValidationResult"),
        (
            {"validators": [_Judge(1, is_async=False)]},
            "validator _Judge returned 1 at once; write `async def validate`",
        ),
        ({"plugins": [(_Judge(None), 1)]}, "plugin _Judge returned None; return a PluginOutcome"),
        (
            {"plugins": [(_Judge("yes", is_async=False), 1)]},
            "plugin _Judge returned 'yes' at once; write `async def validate`",
        ),
        (
            {"processors": AgentProcessors(output_processors=[_Processor("y")])},
            "processor _Processor returned 'y' at once; write `async def process`",
        ),
        ({"validators": [_says_yes]}, "validator _says_yes returned True; return (is_valid, feedback or None)"),
        (
            {"validators": [_says_number]},
            "validator _says_number returned (False, 5); return (is_valid, feedback or None)",
        ),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
async def test_a_wrong_answer_fails_the_step_at_once(options: dict[str, Any], feedback: str, *, strict: bool) -> None:
    """A bug heals by no retry: the step fails, strict or not, says what to return, and keeps what was paid for."""
    agent = StubAgent([Paid("x", 0.5), "never"])

    result = await Flujo(Step("ask", agent, max_retries=5, strict=strict, **options)).run_async("go")

    (step,) = result.step_history
    assert (step.status, step.attempts, step.cost_usd) == ("failed", 1, 0.5)
    assert step.feedback == f"NonRetryableError: {feedback}"


async def test_a_prompt_processor_that_fails_is_told_to_the_failure_handlers() -> None:
    """A step that fails before its agent is called has failed all the same."""
    told: list[str] = []
    agent = StubAgent(["never"])
    processors = AgentProcessors(prompt_processors=[_Processor("y")])
    step = Step("ask", agent, processors=processors, failure_handlers=[lambda: told.append("told")])

    result = await Flujo(step).run_async("go")

    assert (result.step_history[0].attempts, agent.call_count, told) == (0, 0, ["told"])


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (Step("other", StubAgent(["x"])), "step 'ask': the agent is the step 'other'"),
        (5, "step 'ask': 5 is not an agent"),
    ],
)
async def test_a_redirection_to_what_is_no_agent_is_a_mistake(target: Any, complaint: str) -> None:
    """The run raises, and says that a plugin redirects there."""
    plugin = DummyPlugin([PluginOutcome(success=False, redirect_to=target)])
    step = Step("ask", StubAgent(["x"]), plugins=[(plugin, 1)])

    with pytest.raises(ConfigurationError, match=r"\(a plugin redirects to it; give redirect_to an agent\)") as raised:
        await Flujo(step).run_async("go")

    assert complaint in str(raised.value)
