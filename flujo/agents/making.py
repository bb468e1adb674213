"""Makes agents of models by their names."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import TypeVar

from flujo.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pydantic_ai import Agent
    from pydantic_ai.models import Model
    from pydantic_ai.settings import ModelSettings

OutT = TypeVar("OutT", default=str)


def make_agent_async(
    model: str,
    system_prompt: str = "",
    output_type: type[OutT] = str,  # type: ignore[assignment]  # text is the default
    tools: Sequence[Callable[..., Any]] = (),
    *,
    max_retries: int = 1,
    timeout: float | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    **settings: Any,
) -> "Agent[Any, OutT]":
    """Return an agent of a model, ready to be given to a step.

    Args:
        model: Provider and model, such as `openai:gpt-4o`, or `test` for one that makes its answers up.
        system_prompt: What the model is told before each input.
        output_type: What it answers: text, or a type that its answer is validated as.
        tools: Functions that it may call.
        max_retries: How often the model may correct an answer that does not fit `output_type`.
        timeout: Seconds that one request may take; `None` for as long as the provider's client waits.
        base_url: Where an OpenAI-compatible server is, such as that of Ollama or vLLM; `None` for the provider's own.
        api_key: `None` for the one in the environment, or for none if there is a `base_url`.
        settings: Model settings, such as `max_tokens=500` or `temperature=0`.

    Raises:
        ConfigurationError: The model is not named by provider and model, or cannot be made.

    Example:
        ```python
        from flujo import Flujo, Step, make_agent_async

        agent = make_agent_async("test", "Answer in one word.", max_tokens=50)
        result = Flujo(Step("answer", agent)).run("What is blue?")
        ```
    """
    from pydantic_ai import Agent

    from flujo.agents.repairs import RepairsJson

    made = _model(model, base_url, api_key)
    if timeout is not None:
        settings["timeout"] = timeout
    given = cast("ModelSettings", settings)  # any of them may be given by keyword
    return Agent(
        made,
        output_type=output_type,
        system_prompt=system_prompt,
        tools=list(tools),
        retries=max_retries,
        model_settings=given,
        capabilities=[RepairsJson()],
    )


def _model(name: str, base_url: str | None, api_key: str | None) -> "Model[Any]":
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.models import infer_model
    from pydantic_ai.providers import Provider, infer_provider, infer_provider_class

    def provider_of(provider: str) -> Provider[Any]:
        if api_key is None:
            return infer_provider(provider)
        make = cast("Callable[..., Provider[Any]]", infer_provider_class(provider))  # those with keys take them so
        return make(api_key=api_key)

    try:
        if base_url is not None:
            return _compatible(name, base_url, api_key)
        return infer_model(name, provider_of)
    except ImportError as error:
        raise ConfigurationError(
            f"the model {name!r} needs the client of its provider; run: pip install 'flujo[{_extra(name)}]'"
        ) from error
    except (UserError, ValueError, TypeError) as error:
        raise ConfigurationError(f"no agent can be made of the model {name!r}: {error}") from error


def _extra(model: str) -> str:
    """Return the extra of flujo's that brings the client of a model's provider."""
    provider = model.partition(":")[0]
    return next((extra for extra in ("anthropic", "google") if provider.startswith(extra)), "openai")


def _compatible(name: str, base_url: str, api_key: str | None) -> "Model[Any]":
    """Return a model of a server that speaks as OpenAI's does; such servers know the older interface only."""
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIChatModel(
        name.rpartition(":")[2] if name.startswith("openai") else name,
        provider=OpenAIProvider(base_url=base_url, api_key=api_key or "none"),
    )
