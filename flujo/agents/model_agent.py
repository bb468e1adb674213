"""Agents and embedders of pydantic-ai as agents of flujo's: its input, its settings, its limits and its errors.

pydantic-ai is imported when such an agent is first run.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flujo.agents.output_functions import has_output_function
from flujo.agents.prices import find_embedding_price, find_price
from flujo.domain.agents import AdaptedAgent, Partial
from flujo.domain.metering import Meter
from flujo.utils.narrowing import is_list
from flujo.utils.stable_json import stable_json

if TYPE_CHECKING:
    from pydantic_ai import Agent
    from pydantic_ai.embeddings import Embedder, EmbeddingModel


class ModelAgent:
    """Runs an agent of pydantic-ai with every request of its model metered.

    Args:
        agent: The agent.
    """

    def __init__(self, agent: "Agent[Any, Any]") -> None:
        self.agent = agent

    @property
    def output_type(self) -> Any:
        """What the agent answers, if that is one class."""
        kind = self.agent.output_type
        return kind if isinstance(kind, type) else Any

    @property
    def conversation_types(self) -> list[Any]:
        """JSON, or pydantic-ai's own messages."""
        from pydantic_ai.messages import ModelMessage

        return [list[dict[str, Any]], list[ModelMessage]]

    @property
    def answers(self) -> str:
        """What the agent answers, as errors say it."""
        kind = self.agent.output_type
        return "text" if kind is str else kind.__name__ if isinstance(kind, type) else "answer of its output type"

    def unpriced_model(self) -> str | None:
        """Return the agent's model if that has no price; `None` also if the agent gets its model later."""
        from pydantic_ai.models import Model
        from pydantic_ai.models.fallback import FallbackModel

        model = self.agent.model
        for each in model.models if isinstance(model, FallbackModel) else [model]:
            name = f"{each.system}:{each.model_name}" if isinstance(each, Model) else each
            if name is not None and find_price(name) is None:
                return name
        return None

    def __repr__(self) -> str:
        return f"ModelAgent({self.agent.name!r})"

    async def run(self, data: Any, *, meter: Meter, messages: list[Any] | None = None, **given: Any) -> Any:
        """Answer one input."""
        options = self._options(meter, messages, **given)
        with self._told_apart():
            result = await self.agent.run(_prompt(data), **options)
        _append(messages, result.new_messages())
        return result.output

    def _told_apart(self) -> AbstractContextManager[None]:
        """Return what raises errors of the run as what they mean for the next attempt."""
        from flujo.agents.provider_errors import keys_of, told_apart

        return told_apart(self.answers, keys_of(self.agent.model))

    def _options(
        self, meter: Meter, messages: list[Any] | None, context: Any = None, resources: Any = None, **settings: Any
    ) -> dict[str, Any]:
        """Return how a run of the agent differs from one by itself."""
        from pydantic_ai.capabilities import ReinjectSystemPrompt
        from pydantic_ai.messages import ModelMessagesTypeAdapter
        from pydantic_ai.usage import RunUsage, UsageLimits

        from flujo.agents.metered_model import Metered
        from flujo.agents.repairs import RepairsJson

        own_prompt = [ReinjectSystemPrompt(replace_existing=True)] if messages else []
        return {
            "deps": self._deps(context, resources),
            "model_settings": {name: value for name, value in settings.items() if value is not None},
            "usage": RunUsage(),
            "usage_limits": UsageLimits(request_limit=None),  # those of flujo hold
            "message_history": ModelMessagesTypeAdapter.validate_python(messages or []),
            "capabilities": [Metered(meter), RepairsJson(), *own_prompt],
        }

    def _deps(self, context: Any, resources: Any) -> Any:
        """Return what the agent's tools depend on: the resources or the context, whichever is of the declared type."""
        kind = self.agent.deps_type
        return next((each for each in (resources, context) if isinstance(each, kind)), None)


class TextAgent(ModelAgent):
    """Runs an agent of pydantic-ai that answers with text, which may be handed on as it comes."""

    async def stream(
        self, data: Any, *, meter: Meter, messages: list[Any] | None = None, **given: Any
    ) -> AsyncIterator[str]:
        """Answer one input, piece by piece."""
        options = self._options(meter, messages, **given)
        with self._told_apart():
            async with self.agent.run_stream(_prompt(data), **options) as result:
                async for piece in result.stream_text(delta=True, debounce_by=None):
                    yield piece
                _append(messages, result.new_messages())


class StructuredAgent(ModelAgent):
    """Runs an agent of pydantic-ai that answers with a value, which may be handed on as far as it has come."""

    async def stream(
        self, data: Any, *, meter: Meter, messages: list[Any] | None = None, **given: Any
    ) -> AsyncIterator[Partial]:
        """Answer one input, each time with more of the value."""
        from pydantic_ai import Agent

        from flujo.agents.partial_values import partial_values

        options, seen = self._options(meter, messages, **given), list[Any]()  # the newest value
        with self._told_apart():
            async with self.agent.iter(_prompt(data), **options) as run:
                async for node in run:
                    if Agent.is_model_request_node(node):
                        async with node.stream(run.ctx) as answer:
                            async for value in partial_values(answer):
                                seen = [value]
                                yield Partial(value)
                assert run.result is not None, "a run that came to its end has a result"
                _append(messages, run.result.new_messages())
                whole = run.result.output
                if not seen or type(seen[0]) is not type(whole) or seen[0] != whole:
                    yield Partial(whole)


class EmbeddingAgent:
    """Makes embeddings with an embedder of pydantic-ai, every request of which is metered.

    Args:
        embedder: The embedder.
    """

    output_type = list[Any]
    conversation_types = ()

    def __init__(self, embedder: "Embedder") -> None:
        self.embedder = embedder

    @cached_property
    def _model(self) -> "EmbeddingModel":
        from flujo.agents.embedding import embedding_model

        return embedding_model(self.embedder)

    def unpriced_model(self) -> str | None:
        """Return the embedder's model if that has no price."""
        name = f"{self._model.system}:{self._model.model_name}"
        return name if find_embedding_price(name) is None else None

    def __repr__(self) -> str:
        return f"EmbeddingAgent({self.embedder!r})"

    async def run(self, data: str | list[str], *, meter: Meter) -> list[Any]:
        """Return the embedding of a text, or of each of several."""
        from flujo.agents.embedding import embed
        from flujo.agents.provider_errors import told_apart

        with told_apart("embedding"):
            return await embed(self.embedder, self._model, data, meter)


def adapt(agent: Any) -> AdaptedAgent:
    """Return what runs an agent, or an embedder, of pydantic-ai in a step."""
    if hasattr(agent, "embed_documents"):
        return EmbeddingAgent(agent)
    if has_output_function(agent.output_type):
        return ModelAgent(agent)  # while an answer streams, its function would be called with every part of it
    return TextAgent(agent) if agent.output_type is str else StructuredAgent(agent)


def _append(messages: list[Any] | None, new: Any) -> None:
    """Add what was said to a conversation, as JSON."""
    if messages is not None:
        from pydantic_ai.messages import ModelMessagesTypeAdapter

        messages += ModelMessagesTypeAdapter.dump_python(new, mode="json")


def _prompt(data: Any) -> Any:
    """Return a step's input as a model takes it: text and files as they are, other values as JSON."""
    if data is None or isinstance(data, str) or _is_content(data):
        return data
    return stable_json(data, fallback=str)


def _is_content(data: Any) -> bool:
    """Tell whether a value is a list of text and files, or one file."""
    parts = data if is_list(data) else [data]
    return any(type(part).__module__.startswith("pydantic_ai.") for part in parts)
