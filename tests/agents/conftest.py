"""Models that are asked over real HTTP, with one price list for both sides."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from flujo import set_price
from flujo.agents.prices import reset_prices
from tests.providers.server import Provider


@pytest.fixture
def prices(provider: Provider) -> Iterator[None]:
    """Let `model` cost $10 and $100 a million tokens, and `small`, which makes embeddings, $20."""
    for name, for_input, for_output in (("model", 10, 100), ("small", 20, 0)):
        provider.price(name, input_usd_per_mtok=for_input, output_usd_per_mtok=for_output)
        set_price(f"openai:{name}", input_usd_per_mtok=for_input, output_usd_per_mtok=for_output)
    yield
    reset_prices()


@pytest.fixture
async def model(provider: Provider, prices: None) -> AsyncIterator[Model[Any]]:
    """The real client, which would try again twice by itself."""
    async with AsyncOpenAI(base_url=provider.base_url, api_key="test") as client:
        yield OpenAIChatModel("model", provider=OpenAIProvider(openai_client=client))
