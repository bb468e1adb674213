"""What a runner and a pipeline are given is checked where it is given."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from flujo import AgentProcessors, ConfigurationError, Flujo, Pipeline, Step, UsageLimitExceededError, UsageLimits
from flujo.testing import StubAgent
from tests.integration.paid import Paid, paid_step, waiting_step

_WRONG: Any = Flujo
_WRONG_PIPELINE: Any = Pipeline


def _step() -> Step[Any, Any]:
    return Step("ask", StubAgent(["x"]))


@pytest.mark.parametrize(
    ("declare", "complaint"),
    [
        (lambda: _WRONG(_step(), hooks=print), "the runner: hooks is <built-in function print>; give a list"),
        (lambda: _WRONG(_step(), usage_limits={"total_tokens_limit": 1}), "the runner: usage_limits is {"),
        (lambda: _WRONG(_step(), initial_context_data=[1]), "initial_context_data is [1]; give a dict"),
        (lambda: _WRONG(_step()).run("x", initial_context_data=[1]), "initial_context_data is [1]; give a dict"),
        (lambda: Flujo(_step()).with_settings(initial_context_data="x"), "initial_context_data is 'x'; give"),  # type: ignore[arg-type]  # that is the point
        (lambda: _WRONG_PIPELINE(steps=_step()), "the steps of a pipeline are Step('ask'); give a list"),
        (lambda: _WRONG_PIPELINE(steps=5), "the steps of a pipeline are 5; give a list"),
    ],
)
def test_what_has_the_wrong_shape_is_refused_in_one_line(declare: Callable[[], Any], complaint: str) -> None:
    """The error names what was given, and what to give."""
    with pytest.raises(ConfigurationError) as raised:
        declare()

    assert str(raised.value).startswith(complaint)
    assert "\n" not in str(raised.value)


async def test_limits_of_a_fallback_that_is_declared_after_a_run_hold() -> None:
    """They cut short the call that is in flight in the fallback."""
    first = Step("first", StubAgent([OSError("down")] * 2), max_retries=0)
    runner = Flujo(first)
    assert (await runner.run_async("x")).status == "failed"

    both = Step.parallel("both", {"hangs": waiting_step("hangs", asyncio.Event()), "spends": paid_step("spends", 2)})
    limited: Pipeline[Any, Any] = Pipeline(steps=[both], usage_limits=UsageLimits(total_cost_usd_limit=1))
    first.fallback(limited)
    with pytest.raises(UsageLimitExceededError) as raised:
        await runner.run_async("x")

    assert raised.value.result.total_cost == Decimal(2)


async def _refuses(data: Any) -> Any:
    raise KeyError("missing in the agent")


class _Raises:
    """A processor, plugin or validator with a mistake in it."""

    async def process(self, data: Any, context: Any) -> Any:
        raise KeyError("missing in the processor")

    async def validate(self, output: Any, *, context: Any = None) -> Any:
        raise KeyError("missing in the judge")


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        (Step("a", _refuses, max_retries=0), "agent"),
        (Step("a", StubAgent([Paid("x", 1)]), plugins=[(_Raises(), 0)], max_retries=0), "judge"),
        (Step("a", StubAgent([Paid("x", 1)]), validators=[_Raises()], max_retries=0), "judge"),
        (Step("a", StubAgent(["x"]), processors=AgentProcessors(prompt_processors=[_Raises()])), "processor"),
        (
            Step("a", StubAgent(["x"]), max_retries=0, processors=AgentProcessors(output_processors=[_Raises()])),
            "processor",
        ),
    ],
    ids=["agent", "plugin", "validator", "prompt processor", "output processor"],
)
async def test_the_exception_of_a_failing_step_is_logged_for_those_who_look(
    broken: Step[Any, Any], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At level DEBUG, with the traceback that tells the line; feedback has only its text."""
    caplog.set_level("DEBUG", "flujo.steps")

    result = await Flujo(broken).run_async("x")

    assert result.status == "failed"
    logged = [record.exc_info for record in caplog.records if record.name == "flujo.steps" and record.exc_info]
    assert [str(error) for _, error, _ in logged] == [f"'missing in the {where}'"]
    assert all(traceback is not None for _, _, traceback in logged)
