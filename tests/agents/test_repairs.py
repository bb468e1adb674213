"""Malformed JSON of a model is repaired where it is certain what it says, and asked for again where it is not."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, PromptedOutput
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from flujo import Flujo, PipelineResult, Step, make_agent_async
from flujo.agents.repairs import repair_object
from flujo.state.memory import InMemoryBackend
from tests.providers.server import Answer as ProviderAnswer
from tests.providers.server import BadJson, Completion, Plan, Provider, ReceivedRequest, Text, ToolCalls, Usage

_BONN = '{"name": "Bonn", "inhabitants": 330000}'
_GOOD = ToolCalls([("final_result", _BONN)])
_MALFORMED = {
    "in a fence": f"```json\n{_BONN}\n```",
    "a trailing comma": '{"name": "Bonn", "inhabitants": 330000,}',
    "quotes of Python": "{'name': 'Bonn', 'inhabitants': 330000}",
    "literals of Python": "{'name': 'Bonn', 'inhabitants': 330000, 'capital': False, 'mayor': None}",
    "no last bracket": '{"name": "Bonn", "inhabitants": 330000, "districts": ["Beuel"]',
    "a comment": '{"name": "Bonn", // on the Rhine\n "inhabitants": 330000 /* about */}',
    "typographic quotes": "{“name”: “Bonn”, “inhabitants”: 330000}",
    "prose around it": f"Here you are: {_BONN} I hope that helps!",
    "encoded twice": '"{\\"name\\": \\"Bonn\\", \\"inhabitants\\": 330000}"',
    "no comma": '{"name": "Bonn" "inhabitants": 330000}',
    "bare names": '{name: "Bonn", inhabitants: 330000}',
}


class City(BaseModel):
    """What structured answers are."""

    name: str
    inhabitants: int
    districts: list[str] = []
    capital: bool = False
    mayor: str | None = None


@pytest.fixture
async def model(provider: Provider) -> AsyncIterator[Model[Any]]:
    """A model of the provider's, through the real client."""
    provider.price("model", input_usd_per_mtok=10, output_usd_per_mtok=100)
    async with AsyncOpenAI(base_url=provider.base_url, api_key="test") as client:
        yield OpenAIChatModel("model", provider=OpenAIProvider(openai_client=client))


async def _run(step: Any) -> PipelineResult[Any]:
    return await Flujo(step).run_async("Name a city.")


async def _city(agent: Agent[Any, City]) -> City:
    result = await _run(Step("ask", agent))
    assert isinstance(result.output, City)
    return result.output


@pytest.mark.parametrize("written", _MALFORMED.values(), ids=_MALFORMED)
async def test_malformed_answers_are_not_paid_twice(provider: Provider, model: Model[Any], written: str) -> None:
    """The answer by a tool is what was said, and the provider was asked once."""
    provider.script(ToolCalls([("final_result", written)]), _GOOD)

    city = await _city(Agent(model, output_type=City))

    assert (city.name, city.inhabitants) == ("Bonn", 330_000)
    assert len(provider.bill) == 1


@pytest.mark.parametrize("written", _MALFORMED.values(), ids=_MALFORMED)
async def test_malformed_text_is_not_paid_twice(provider: Provider, model: Model[Any], written: str) -> None:
    """So it is with an answer that is to be JSON in text."""
    provider.script(Text(written), Text(_BONN))

    city = await _city(Agent(model, output_type=PromptedOutput(City)))

    assert (city.name, city.inhabitants) == ("Bonn", 330_000)
    assert len(provider.bill) == 1


async def test_raw_newlines_stay_in_a_text(provider: Provider, model: Model[Any]) -> None:
    """A string with an unescaped newline has the newline."""
    provider.script(ToolCalls([("final_result", '{"name": "Bad\nHonnef", "inhabitants": 1}')]))

    city = await _city(Agent(model, output_type=City))

    assert (city.name, len(provider.bill)) == ("Bad\nHonnef", 1)


async def test_the_arguments_of_a_tool_are_repaired(provider: Provider, model: Model[Any]) -> None:
    """The tool gets them, and the model sees them repaired when it goes on."""
    agent = Agent(model)
    provider.script(ToolCalls([("upper", "{'word': 'bonn',}")]), Text("done"))
    words = list[str]()

    @agent.tool_plain
    def upper(word: str) -> str:
        words.append(word)
        return word.upper()

    result = await _run(Step("ask", agent))

    assert (result.output, words, len(provider.bill)) == ("done", ["bonn"], 2)
    (call,) = provider.requests[1].body["messages"][1]["tool_calls"]
    assert call["function"]["arguments"] == '{"word":"bonn"}'


async def test_agents_made_by_name_repair_without_a_step(provider: Provider) -> None:
    """An agent of `make_agent_async` repairs wherever it runs."""
    provider.price("model", input_usd_per_mtok=10, output_usd_per_mtok=100)
    provider.script(ToolCalls([("final_result", _MALFORMED["a trailing comma"])]))
    agent = make_agent_async("openai:model", output_type=City, base_url=provider.base_url)

    answer = await agent.run("Name a city.")
    assert isinstance(agent.model, OpenAIChatModel)
    await agent.model.client.close()

    assert (answer.output.name, len(provider.bill)) == ("Bonn", 1)


async def test_a_repair_is_logged_without_what_was_said(
    provider: Provider, model: Model[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the model, and keeps the content to itself."""
    provider.script(ToolCalls([("final_result", _MALFORMED["in a fence"])]))

    with caplog.at_level(logging.INFO, logger="flujo.agents"):
        await _run(Step("ask", Agent(model, output_type=City)))

    (message,) = [each.message for each in caplog.records if each.name == "flujo.agents" and each.levelname == "INFO"]
    assert message == "malformed JSON in the answer of the model 'model' was repaired"


async def test_what_cannot_be_repaired_is_asked_for_again(provider: Provider, model: Model[Any]) -> None:
    """A document that breaks off costs another request, as does one that is repaired and does not fit."""
    provider.script(BadJson(), ToolCalls([("final_result", "{'name': 'Bonn'}")]), _GOOD)

    city = await _city(Agent(model, output_type=City, retries=2))

    assert (city.inhabitants, len(provider.bill)) == (330_000, 3)


@pytest.mark.parametrize("reason", ["length", None])
async def test_a_cut_answer_is_never_completed(provider: Provider, model: Model[Any], reason: str | None) -> None:
    """What was cut where only brackets are missing is no shorter answer; nor is it if nobody says why it ends."""
    provider.script(_Ended(_MALFORMED["no last bracket"], reason), _GOOD)

    result = await _run(Step("ask", Agent(model, output_type=City)))

    assert isinstance(result.output, City)
    assert (result.output.districts, len(provider.bill)) == ([], 2)


class _Ended(ProviderAnswer):
    """A tool call that ended for a reason."""

    def __init__(self, arguments: str, reason: Any) -> None:
        self._completion = Completion(tool_calls=[("final_result", arguments)], finish_reason=reason)

    def plan(self, request: ReceivedRequest) -> Plan:
        return Plan(self._completion, Usage(10, 10), Usage(10, 10))


async def test_answers_that_are_recalled_are_repaired_too() -> None:
    """A run that goes on has the answer as the model wrote it, and repairs it again."""
    asked = list[str]()

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("once")
        return ModelResponse([ToolCallPart("upper", "{'word': 'a',}")] if len(asked) == 1 else [TextPart("done")])

    agent = Agent(FunctionModel(answer))
    words = list[str]()

    @agent.tool_plain
    async def upper(word: str) -> str:
        words.append(word)
        if len(words) == 1:
            running.cancel()
            await asyncio.Event().wait()
        return word.upper()

    runner: Flujo[Any, Any] = Flujo(Step("ask", agent), state_backend=InMemoryBackend())
    running = asyncio.create_task(_completed(runner))
    with pytest.raises(asyncio.CancelledError):
        await running
    result = await _completed(runner)

    assert (result.output, words, len(asked)) == ("done", ["a", "a"], 2)


async def _completed(runner: Flujo[Any, Any]) -> PipelineResult[Any]:
    return await runner.run_async("go", run_id="run")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        _BONN,
        f" {_BONN}\n",
        "[1, 2]",
        '"text"',
        '{"n": NaN}',
        '{"a": "\\ud83d\\ude00"}',
        '{"a": {"b": 1}, "c": 2',
        '{"a": "tru',
        '{"a": "x\\"',
        '{"a": tru',
        '{"a": 1, "b": ',
        '{"a": 1, "b"}',
        '{"a": , "b": 2}',
        '{"a": [1, 2',
        '{"a": "x", ',
        '{"a": 1}{"b": 2}',
        'Either {"a": 1} or {"a": 2}',
        '[{"a": 1}, {"a": 2},]',
        '[{"a": 1},]',
        '{"a": 1, "a": 2,}',
        '{"a": ["x", ...]}',
        '{"a": 00012,}',
        '{"a": 0.1000000000000000055511,}',
        '{"a": 1e400,}',
        '{"a": "x", "b": "c": 2}',
        '{"a": "x" + "y"}',
        "{'a': 'it's'}",
        "{" * 100_000,
    ],
)
def test_what_is_json_or_uncertain_is_left_alone(text: str) -> None:
    """JSON is never changed; nothing is made up, completed, dropped or rounded."""
    assert repair_object(text, is_whole=True) is None


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ('{"price": 19.90, "low": -0.50, "big": 1e5,}', '{"price": 19.9, "low": -0.5, "big": 100000.0}'),
        ('{"a": "1.50 and 007",}', '{"a": "1.50 and 007"}'),
        ('{"url": "http://x/#y", /* c */ "n": 12345678901234567890123,}', None),
        ('{"a": "he said "hi" there"}', '{"a": "he said \\"hi\\" there"}'),
        ("{'a': \"it's\", 'b': None}", '{"a": "it\'s", "b": null}'),
        ('{"a": "None",}', '{"a": "None"}'),
        ('{"a": "", "b": [], "c": {},}', '{"a": "", "b": [], "c": {}}'),
        ('"{\\"a\\": 1,}"', '{"a": 1}'),
        ('```json\n{"a": ["b"]\n```', '{"a": ["b"]}'),
        ('{"a": "C:\\dir"}', '{"a": "C:\\\\dir"}'),
    ],
)
def test_a_repair_says_what_was_written(text: str, repaired: str | None) -> None:
    """Numbers keep their value and strings their characters."""
    expected = repaired or '{"url": "http://x/#y", "n": 12345678901234567890123}'

    assert repair_object(text, is_whole=True) == expected


def test_brackets_are_added_only_if_the_model_ended_by_itself() -> None:
    """Where nobody knows why an answer ends, only one that has its end is repaired."""
    assert repair_object('{"a": {"b": 1}', is_whole=True) == '{"a": {"b": 1}}'
    assert repair_object('{"a": {"b": 1}', is_whole=False) is None
    assert repair_object('{"a": {"b": 1,}}', is_whole=False) == '{"a": {"b": 1}}'
