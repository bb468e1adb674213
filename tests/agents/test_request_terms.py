"""Settings that change what a request may cost are part of its bound, or refused under a limit."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ThinkingPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from flujo import Flujo, PipelineResult, Step, UnboundedCallError, UsageLimits, set_price
from flujo.agents.prices import reset_prices
from tests.integration.paid import ended
from tests.providers.server import Provider, Text

_LONG = Text("word " * 4000)


@pytest.fixture(autouse=True)
def _price() -> Iterator[None]:
    set_price("function:claude", input_usd_per_mtok=10, output_usd_per_mtok=100)
    yield
    reset_prices()


def _settings(**settings: Any) -> ModelSettings:
    return cast("ModelSettings", settings)


async def _run(agent: Any, limit: float | None, **settings: Any) -> PipelineResult[Any]:
    limits = None if limit is None else UsageLimits(total_cost_usd_limit=limit)
    return await ended(Flujo(Step("ask", agent, **settings), usage_limits=limits).run_async("Who?"))


@pytest.mark.parametrize("key", ["n", "best_of"])
async def test_each_answer_is_paid(provider: Provider, model: Model[Any], key: str) -> None:
    """So each is reserved, and together they get what is left."""
    provider.script(_LONG)
    body = {key: 3, "n": 3}

    result = await _run(Agent(model, model_settings=_settings(max_tokens=1000, extra_body=body)), 0.2)

    (request,) = provider.requests
    assert request.answers == 3
    assert 600 < (request.max_output_tokens or 0) < 667
    assert result.total_cost == provider.total_usd <= Decimal("0.2")
    assert result.status == "completed"


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_of_tokens_in_the_body_does_not_win(provider: Provider, model: Model[Any], key: str) -> None:
    """It is the user's, but no more than what is left is granted; without a limit it is sent as it is."""
    provider.script(_LONG)
    agent = Agent(model, model_settings=_settings(extra_body={key: 3000, "seed": 1}))

    result = await _run(agent, 0.1)
    await _run(agent, None)

    limited, free = provider.requests
    assert result.total_cost == provider.bill[0].cost_usd <= Decimal("0.1")
    assert 900 < (limited.max_output_tokens or 0) < 1000
    assert (free.body[key], limited.body["seed"]) == (3000, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"openai_native_tools": [{"type": "web_search"}]},
        {"openai_previous_response_id": "resp_1"},
        {"openai_conversation_id": "auto"},
        {"google_cached_content": "cachedContents/1"},
        {"xai_agent_count": 4},
        {"extra_body": {"web_search_options": {}}},
        {"extra_body": {"models": ["openai/gpt-5"]}},
        {"extra_body": [1]},
    ],
    ids=str,
)
async def test_what_has_no_bound_is_refused_under_a_limit(
    provider: Provider, model: Model[Any], settings: dict[str, Any]
) -> None:
    """Before anything is sent; a bound of the user's lets it through."""
    provider.script(Text("me"))
    agent = Agent(model, model_settings=_settings(**settings))

    with pytest.raises(UnboundedCallError, match="max_cost_usd"):
        await _run(agent, 1)
    assert provider.requests == []
    if settings.get("extra_body") != [1]:  # the client would not send it
        assert (await _run(agent, 1, max_cost_usd=0.5)).status == "completed"


async def test_a_conversation_that_the_messages_have_is_bounded(provider: Provider, model: Model[Any]) -> None:
    """The provider adds nothing to it then."""
    provider.script(Text("me"))
    agent = Agent(model, model_settings=_settings(openai_previous_response_id="auto"))

    assert (await _run(agent, 1)).status == "completed"


async def test_a_model_that_takes_no_limit_of_tokens_is_refused() -> None:
    """Nobody could hold it to one."""

    class Talker(FunctionModel):
        unsupported_settings = frozenset({"max_tokens"})

    agent = Agent(Talker(lambda messages, info: ModelResponse([TextPart("me")]), model_name="claude"))
    with pytest.raises(UnboundedCallError, match="takes no 'max_tokens'"):
        await _run(agent, 1)


@pytest.mark.parametrize(
    ("settings", "budget"),
    [
        ({"thinking": "low"}, 2048),
        ({"anthropic_thinking": {"type": "enabled", "budget_tokens": 8000}}, 8000),
        ({}, 0),
    ],
    ids=str,
)
async def test_there_is_room_to_answer_after_thinking(settings: dict[str, Any], budget: int) -> None:
    """Anthropic refuses requests that may have no more tokens than their thoughts; such are not made."""
    granted = list[int]()

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        granted.append(cast("dict[str, Any]", info.model_settings)["max_tokens"])
        return ModelResponse([TextPart("me")], usage=RequestUsage(input_tokens=1, output_tokens=1))

    agent = Agent(FunctionModel(answer, model_name="claude"), model_settings=_settings(**settings))
    cost_of_thinking = budget * 100 / 1_000_000

    assert (await _run(agent, 10)).status == "completed"
    assert (await _run(agent, cost_of_thinking + 0.01)).status == "completed"
    assert (await _run(agent, cost_of_thinking + 0.001)).status == "stopped"
    most, least = granted
    assert most == budget + 4096
    assert budget < least < budget + 100


async def test_thoughts_that_a_provider_has_kept_are_input() -> None:
    """What was thought is not in the messages of some providers, and is paid for again."""

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) > 1:
            return ModelResponse([TextPart("me")], usage=RequestUsage(input_tokens=10_000, output_tokens=1))
        usage = RequestUsage(input_tokens=10, output_tokens=9_000)
        return ModelResponse([ThinkingPart("", id="rs_1"), TextPart("{")], usage=usage)

    model = FunctionModel(answer, model_name="claude")
    agent = Agent(model, output_type=int, model_settings={"max_tokens": 10_000}, retries=1)
    result = await _run(agent, 0.98)

    assert result.status == "stopped"
    assert result.total_cost == Decimal("0.9001")
