"""What the settings of a request to a model say of what it may cost.

Imported only once an agent of pydantic-ai is run, because pydantic-ai takes a second to import.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic_ai.models import Model
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.profiles.anthropic import ANTHROPIC_THINKING_BUDGET_MAP
from pydantic_ai.settings import ModelSettings, merge_model_settings
from pydantic_core import to_json

from flujo.agents.model_calls import unbounded
from flujo.utils.narrowing import is_dict

DEFAULT_MAX_TOKENS = 4_096
"""The most output tokens of a request under a limit whose settings do not say how many it may have."""

_UNBOUNDED = {
    "openai_native_tools": "the provider's own tools cost by use",
    "openai_conversation_id": "the provider adds what it has kept of the conversation",
    "openai_previous_response_id": "the provider adds what it has kept of the conversation",
    "xai_previous_response_id": "the provider adds what it has kept of the conversation",
    "xai_agent_count": "each of the agents uses tokens",
    "google_cached_content": "the provider adds what it has cached",
    "openrouter_preset": "the provider adds settings and prompts",
    "openrouter_models": "another model may answer",
}
"""Settings with which nobody knows what a request costs, and why."""

_UNBOUNDED_IN_BODY = {
    **dict.fromkeys(("tools", "web_search_options", "plugins", "mcp_servers"), "the provider's own tools cost by use"),
    **dict.fromkeys(
        ("conversation", "previous_response_id", "cached_content", "prompt", "preset", "messages", "input"),
        "it adds input that is not in the request",
    ),
    **dict.fromkeys(("model", "models", "route"), "it changes what tokens cost"),
}
"""The same for keys of `extra_body`."""

_MAX_TOKENS_IN_BODY = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_ANSWERS_IN_BODY = ("n", "best_of")


@dataclass(slots=True, frozen=True)
class RequestTerms:
    """What may be made of a request, by its settings.

    Attributes:
        max_tokens: The most output tokens that each of its answers may have.
        thinking_tokens: How many of them are for its thoughts, which have to leave room for the answer.
        answers: How many answers are asked for, each of which is paid.
        added_tokens: A number of input tokens that what the settings add does not pass.
    """

    max_tokens: int
    thinking_tokens: int
    answers: int
    added_tokens: int
    _settings: Mapping[str, Any] = field(repr=False)
    _model: Model = field(repr=False)

    @classmethod
    def of(cls, model: Model, settings: ModelSettings | None) -> "RequestTerms":
        """Return the terms of a request to a model, whose own settings hold where those of the request say nothing."""
        merged = cast("Mapping[str, Any]", merge_model_settings(model.settings, settings) or {})
        body = _body(merged)
        thinking = _thinking_tokens(model, merged)
        most = [count for key in _MAX_TOKENS_IN_BODY if (count := _count(body.get(key))) is not None]
        if (count := merged.get("max_tokens")) is not None:
            most.append(count)
        return cls(
            max_tokens=min(most) if most else thinking + DEFAULT_MAX_TOKENS,
            thinking_tokens=thinking,
            answers=max(1, *(_count(body.get(key)) or 1 for key in _ANSWERS_IN_BODY)),
            added_tokens=len(to_json(body, fallback=repr)) if body else 0,
            _settings=merged,
            _model=model,
        )

    def refuse_unbounded(self) -> None:
        """Refuse a request of which nobody knows what it costs.

        Raises:
            UnboundedCallError: It is one.
        """
        if (reason := self._why_unbounded()) is not None:
            raise unbounded(f"a limit cannot hold for a request with {reason}")

    def _why_unbounded(self) -> str | None:
        """Return what it is with which nobody knows what the request costs; `None` if there is nothing."""
        for name, why in _UNBOUNDED.items():
            if _is_set(self._settings, name):
                return f"the setting {name!r}: {why}"
        body = self._settings.get("extra_body")
        if body is not None and not is_dict(body):
            return "an 'extra_body' that is no dict"
        for key, why in _UNBOUNDED_IN_BODY.items():
            if key in _body(self._settings):
                return f"{key!r} in the setting 'extra_body': {why}"
        if "max_tokens" in _innermost(self._model).unsupported_settings:
            return f"the model {self._model.model_id!r}, which takes no 'max_tokens'"
        return None

    def granted(self, settings: ModelSettings | None, output_tokens: int) -> ModelSettings:
        """Return the settings of a request whose answers may have so many output tokens together."""
        granted: ModelSettings = {**(settings or {}), "max_tokens": output_tokens // self.answers}
        body = _body(self._settings)
        if not body.keys().isdisjoint(_MAX_TOKENS_IN_BODY):
            granted["extra_body"] = {key: value for key, value in body.items() if key not in _MAX_TOKENS_IN_BODY}
        return granted


def _body(settings: Mapping[str, Any]) -> dict[str, Any]:
    body = settings.get("extra_body")
    return body if is_dict(body) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _is_set(settings: Mapping[str, Any], name: str) -> bool:
    value = settings.get(name)
    if name == "openai_previous_response_id":
        return value not in (None, "auto")  # the latter adds what is in the messages
    return bool(value)


def _innermost(model: Model) -> Model:
    while isinstance(model, WrapperModel):
        model = model.wrapped
    return model


def _thinking_tokens(model: Model, settings: Mapping[str, Any]) -> int:
    """Return how many tokens a model of Anthropic's is given to think, which have to be fewer than `max_tokens`."""
    explicit = settings.get("anthropic_thinking")
    if is_dict(explicit):
        return _count(explicit.get("budget_tokens")) or 0
    level = settings.get("thinking")
    if level in (None, False) or "claude" not in model.model_name:
        return 0
    profile: Mapping[str, Any] = model.profile
    names = ("anthropic_supports_adaptive_thinking", "bedrock_supports_adaptive_thinking")
    return 0 if any(profile.get(name) for name in names) else ANTHROPIC_THINKING_BUDGET_MAP.get(level, 0)
