"""A model for embeddings whose every request is reserved before it is sent, and charged by what it did use.

Imported only once an embedder of pydantic-ai is run, because pydantic-ai takes a second to import.
"""

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

from pydantic_ai.embeddings import (
    Embedder,
    EmbeddingModel,
    EmbeddingResult,
    EmbeddingSettings,
    WrapperEmbeddingModel,
    infer_embedding_model,
)
from pydantic_ai.embeddings.result import EmbedInputType
from pydantic_core import to_json

from flujo.agents.model_calls import ModelCall, end_failed, price_of, settle
from flujo.domain.metering import Meter
from flujo.domain.paying_step import PayingStep

_ADDED_TO_REQUEST = 32  # tokens
_ADDED_TO_TEXT = 8  # tokens; more than any provider adds


class MeteredEmbeddingModel(WrapperEmbeddingModel):
    """A model for embeddings whose requests are reserved and charged, one by one.

    Args:
        wrapped: The model that is asked.
        meter: Reserves and charges.
    """

    def __init__(self, wrapped: EmbeddingModel, meter: Meter) -> None:
        super().__init__(wrapped)
        self._meter = meter

    async def embed(
        self, inputs: str | Sequence[str], *, input_type: EmbedInputType, settings: EmbeddingSettings | None = None
    ) -> EmbeddingResult:
        """Ask the model once, unless its answer is known from before the run was killed."""
        texts, meter = [inputs] if isinstance(inputs, str) else list(inputs), self._meter
        asked = to_json([self.system, self.model_name, input_type, texts, settings], fallback=repr)
        key = f"embedding {hashlib.blake2b(asked, digest_size=16).hexdigest()}"
        kept = meter.recall(key) if meter.keeps_calls else None
        if kept is not None:
            return self._result(kept, texts, input_type)
        most_tokens = _ADDED_TO_REQUEST + sum(_ADDED_TO_TEXT + len(text.encode()) for text in texts)
        price = price_of(self.system, self.model_name, meter, is_for_embeddings=True)
        call = ModelCall(most_tokens, 0, 0, price)
        reservation = await meter.reserve(call, label=f"{self.system}:{self.model_name}")
        try:
            result = await self.wrapped.embed(texts, input_type=input_type, settings=settings)
        except BaseException as error:
            end_failed(reservation, error)
            raise
        charged = settle(reservation, call, result.usage)
        if meter.keeps_calls:
            await meter.keep(key, [list(each) for each in result.embeddings], *charged)
        return result

    def _result(self, embeddings: Any, texts: list[str], input_type: EmbedInputType) -> EmbeddingResult:
        return EmbeddingResult(
            embeddings, inputs=texts, input_type=input_type, model_name=self.model_name, provider_name=self.system
        )


def embedding_model(embedder: Embedder) -> EmbeddingModel:
    """Return the model of an embedder, whose client does not try again by itself."""
    model = embedder.model if isinstance(embedder.model, EmbeddingModel) else infer_embedding_model(embedder.model)
    return _calm(model)


def paid_by(step: PayingStep, model: EmbeddingModel) -> EmbeddingModel:
    """Return the model of an embedder that runs within a step, with every request metered by the step."""
    if isinstance(model, MeteredEmbeddingModel):
        return model
    if isinstance(model, WrapperEmbeddingModel):
        wrapper = copy.copy(model)
        wrapper.wrapped = paid_by(step, model.wrapped)
        return wrapper
    return MeteredEmbeddingModel(_calm(model), step.meter)


def _calm(model: EmbeddingModel) -> EmbeddingModel:
    """Return a model whose client does not try again by itself, if it can be told so."""
    provider: Any = getattr(model, "_provider", None)
    client: Any = getattr(provider, "client", None)
    if not hasattr(client, "with_options"):
        return model
    calm: Any = copy.copy(model)
    calm._provider = copy.copy(provider)
    calm._provider._client = client.with_options(max_retries=0)
    made: EmbeddingModel = calm
    return made


async def embed(embedder: Embedder, model: EmbeddingModel, data: str | Sequence[str], meter: Meter) -> list[Any]:
    """Return the embedding of a text as a query, or the embeddings of several as documents.

    Raises:
        RefusedCallError: It would not fit into a limit.
    """
    with embedder.override(model=MeteredEmbeddingModel(model, meter)):
        if isinstance(data, str):
            return list((await embedder.embed_query(data)).embeddings[0])
        return [list(each) for each in (await embedder.embed_documents(data)).embeddings]
