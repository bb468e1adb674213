"""Scripted agents and plugins do what their script says, and keep what they were asked."""

import asyncio
from typing import Any

import pytest

from flujo import (
    AppResources,
    ConfigurationError,
    Flujo,
    NonRetryableError,
    PausedException,
    PipelineContext,
    PluginOutcome,
    Step,
)
from flujo.testing import DummyPlugin, FailingStreamAgent, StubAgent, gather_result, override_agent


def test_a_stub_gives_its_outputs_in_order() -> None:
    """Each call gets the next output, and what it was called with is kept."""
    agent = StubAgent(["a", None, 3])
    runner = Flujo(Step("ask", agent))

    outputs = [runner.run(question).output for question in ("one", "two", "three")]

    assert outputs == ["a", None, 3]
    assert agent.inputs == ["one", "two", "three"]
    assert agent.call_count == 3


@pytest.mark.parametrize("error", [ValueError("overloaded"), ValueError, TimeoutError])
def test_a_stub_raises_what_is_scripted(error: Any) -> None:
    """An exception or its class is raised, and the step tries again."""
    agent = StubAgent([error, "fine"])

    result = Flujo(Step("ask", agent)).run("question")

    assert result.output == "fine"
    assert agent.inputs == ["question", "question"]


def test_a_stub_raises_signals() -> None:
    """What an agent may raise to say more, a script may contain."""
    assert Flujo(Step("ask", StubAgent([PausedException("who?")]))).run("question").status == "paused"
    assert Flujo(Step("ask", StubAgent([NonRetryableError("no"), "never"]))).run("question").status == "failed"


def test_a_stub_at_the_end_of_its_script_says_so() -> None:
    """A call too many fails the step, and the feedback says how many there were."""
    result = Flujo(Step("ask", StubAgent(["only one"]), max_retries=0))
    result.run("one")

    assert "StubAgent has 1 outputs and was called 2 times" in (result.run("two").step_history[0].feedback or "")


def test_a_script_is_read_once() -> None:
    """A script may come from any iterable, and changing the list afterwards changes nothing."""
    script = ["a"]
    agent, of_generator = StubAgent(script), StubAgent(letter for letter in "ab")

    script.append("b")

    assert asyncio.run(agent.run("x")) == "a"
    assert [asyncio.run(of_generator.run("x")) for _ in range(2)] == ["a", "b"]


async def test_a_stub_takes_what_agents_are_called_with() -> None:
    """Keywords that steps offer to agents are welcome, however the stub is called."""
    agent = StubAgent(["a", "b"])
    context = PipelineContext(initial_prompt="x")

    direct = await agent.run("x", context=context, resources=AppResources(), temperature=0.2)
    named = await agent.run(data="x")

    assert (direct, named) == ("a", "b")
    assert agent.inputs == ["x", "x"]


def test_a_stub_takes_every_setting_of_its_step() -> None:
    """A step with model settings and resources runs with a stub."""
    step = Step("ask", StubAgent(["a"]), temperature=0.2, top_k=3, top_p=0.5)

    assert Flujo(step, resources=AppResources()).run("question").output == "a"


def test_a_plugin_gives_its_outcomes_and_then_accepts() -> None:
    """A refusal leads to another attempt; when the script is used up everything passes."""
    plugin = DummyPlugin([PluginOutcome(success=False, feedback="too long")])
    agent = StubAgent(["long", "short"])

    result = Flujo(Step("write", agent, plugins=[(plugin, 0)])).run("question")

    assert result.output == "short"
    assert plugin.call_count == 2
    assert [seen["output"] for seen in plugin.seen] == ["long", "short"]
    assert [seen["feedback"] for seen in plugin.seen] == [None, "too long"]
    assert "too long" in str(agent.inputs[1])


def test_a_plugin_raises_what_is_scripted() -> None:
    """A plugin that breaks refuses the output, and its error is in the feedback."""
    step = Step("write", StubAgent(["a"]), plugins=[(DummyPlugin([OSError("no judge")]), 0)], max_retries=0)

    result = Flujo(step).run("question")

    assert "no judge" in (result.step_history[0].feedback or "")


async def test_a_failing_stream_gives_its_chunks_first() -> None:
    """The chunks reach whoever listens, and then the step fails with the error."""
    step = Step("tell", FailingStreamAgent(["a", "b"], OSError("cut off")), max_retries=0)

    items = [item async for item in Flujo(step).stream_async("go")]

    assert items[:-1] == ["a", "b"]
    assert items[-1].status == "failed"
    assert "cut off" in items[-1].step_history[0].feedback


async def test_a_failing_stream_takes_what_agents_are_called_with() -> None:
    """Keywords that steps offer are welcome, and the error is the very one."""
    error = OSError("cut off")
    stream = FailingStreamAgent(["a"], error).stream("go", context=None, temperature=1)

    assert await anext(stream) == "a"
    with pytest.raises(OSError, match="cut off") as raised:
        await anext(stream)
    assert raised.value is error


async def test_a_gathered_result_is_that_of_the_run() -> None:
    """The result of a streaming run comes back alone, and options reach the run."""
    result = await gather_result(Flujo(Step("ask", StubAgent(["a"]))), "question", run_id="run-1")

    assert (result.output, result.run_id) == ("a", "run-1")


def test_an_agent_is_overridden_for_a_while() -> None:
    """Within the block another agent is called, and afterwards the first one again, also after an error."""
    step = Step("ask", StubAgent(["real", "real again"]))
    runner = Flujo(step >> Step.from_callable(str.upper, name="shout"))

    def run_and_break(output: str) -> None:
        with override_agent(step, StubAgent([output])):
            assert runner.run("question").output == output.upper()
            raise KeyError(output)

    assert runner.run("question").output == "REAL"
    with pytest.raises(KeyError, match="fake"):
        run_and_break("fake")
    assert runner.run("question").output == "REAL AGAIN"


def test_overrides_nest() -> None:
    """An inner block ends with the agent of the outer one, and a step may have had no agent."""
    step = Step[Any, Any]("ask")
    first, second = StubAgent([]), StubAgent([])

    with override_agent(step, first):
        with override_agent(step, second):
            assert step.agent is second
        assert step.agent is first
    assert step.agent is None


def test_only_steps_with_an_agent_are_overridden() -> None:
    """A composite has no agent of its own, and what is no agent is refused; the step stays as it was."""
    agent = StubAgent([])
    step = Step("ask", agent)
    both: Any = Step.parallel("both", {"ask": step})

    with pytest.raises(TypeError, match="ParallelStep\\('both'\\) calls no agent itself"), override_agent(both, agent):
        pytest.fail("there is nothing to override")
    with pytest.raises(ConfigurationError, match="not an agent"), override_agent(step, 7):
        pytest.fail("7 is no agent")
    assert step.agent is agent
