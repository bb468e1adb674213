"""Embeddings are metered as all requests to models are."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.providers.openai import OpenAIProvider

from flujo import (
    Flujo,
    InMemoryBackend,
    PricingNotConfiguredError,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.agents.prices import find_price, reset_prices
from flujo.domain.results import UNCERTAIN
from tests.providers.server import Embeddings, Hangup, HttpError, Provider

pytestmark = pytest.mark.usefixtures("prices")


@pytest.fixture
async def embedder(provider: Provider) -> AsyncIterator[Embedder]:
    """The real client, which would try again twice by itself."""
    async with AsyncOpenAI(base_url=provider.base_url, api_key="test") as client:
        yield Embedder(OpenAIEmbeddingModel("small", provider=OpenAIProvider(openai_client=client)))


def _limit(usd: float) -> UsageLimits:
    return UsageLimits(total_cost_usd_limit=usd)


@pytest.mark.parametrize(
    ("data", "embeddings"), [("river", [5.0, 0.0]), (["a", "bcd"], [[1.0, 0.0], [3.0, 1.0]])], ids=["one", "many"]
)
async def test_embeddings_are_charged_what_the_provider_bills(
    provider: Provider, embedder: Embedder, data: Any, embeddings: Any
) -> None:
    """One text gives its embedding, several give theirs, in one request."""
    provider.script(Embeddings())

    result = await Flujo(Step("embed", embedder), usage_limits=_limit(1)).run_async(data)

    assert result.output == embeddings
    assert (len(provider.bill), result.total_cost) == (1, provider.total_usd)
    (call,) = result.step_history[0].calls
    assert (call.label, call.cost) == (f"openai:{provider.requests[0].model}", provider.total_usd)
    assert result.total_tokens == provider.bill[0].usage.input_tokens


async def test_embeddings_that_could_pass_a_limit_are_refused(provider: Provider, embedder: Embedder) -> None:
    """Before they are asked for."""
    with pytest.raises(UsageLimitExceededError, match="the next call may cost"):
        await Flujo(Step("embed", embedder), usage_limits=_limit(0.0001)).run_async("x" * 100)

    assert len(provider.requests) == 0


@pytest.mark.parametrize(("error", "cost"), [(HttpError(500), 0), (Hangup(Embeddings()), 1)], ids=["error", "hang-up"])
async def test_a_request_that_fails_is_made_once(provider: Provider, embedder: Embedder, error: Any, cost: int) -> None:
    """The client does not try again by itself; what nobody knows the cost of is charged in full."""
    provider.script(error)

    result = await Flujo(Step("embed", embedder, max_retries=0), usage_limits=_limit(1)).run_async("river")

    assert (result.status, len(provider.requests)) == ("failed", 1)
    assert bool(result.step_history[0].metadata_.get(UNCERTAIN)) == bool(cost) == bool(result.total_cost)
    assert result.total_cost >= provider.total_usd


async def test_embeddings_that_were_made_are_not_made_again(provider: Provider, embedder: Embedder) -> None:
    """A step that was killed after its request has its answer when the run goes on."""
    provider.script(Embeddings())

    class KilledError(BaseException):
        pass

    killed = [True]

    class Judge:
        name = "judge"

        async def validate(self, output: Any, context: Any = None) -> Any:
            if killed.pop():
                raise KilledError

    runner = Flujo(Step("embed", embedder, validators=[Judge()]), state_backend=InMemoryBackend())
    with pytest.raises(KilledError):
        await runner.run_async("river", run_id="run")
    killed.append(False)
    killed.append(False)

    result = await runner.run_async("river", run_id="run")

    assert (len(provider.requests), result.total_cost) == (1, provider.total_usd)


async def test_the_price_table_knows_models_without_output(provider: Provider) -> None:
    """A model for embeddings has no price for output, and needs none; one that answers does."""
    reset_prices()
    provider.price("text-embedding-3-small", input_usd_per_mtok="0.02", output_usd_per_mtok=0)
    provider.script(Embeddings())
    async with AsyncOpenAI(base_url=provider.base_url, api_key="test") as client:
        model = OpenAIEmbeddingModel("text-embedding-3-small", provider=OpenAIProvider(openai_client=client))

        result = await Flujo(Step("embed", Embedder(model)), usage_limits=_limit(1)).run_async(["river", "lake"])

    assert result.total_cost == provider.total_usd > 0
    assert find_price("openai:text-embedding-3-small") is None


async def test_a_missing_price_is_found_before_the_run(embedder: Embedder) -> None:
    """As it is for other models."""
    reset_prices()

    with pytest.raises(PricingNotConfiguredError, match="openai:small"):
        await Flujo(Step("embed", embedder), usage_limits=_limit(1)).run_async("x")
