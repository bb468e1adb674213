"""A pydantic-ai model whose every request is reserved before it is sent, and charged by what it did use.

Imported only once an agent of pydantic-ai is run, because pydantic-ai takes a second to import.
"""

import asyncio
import copy
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ModelAPIError, UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    ThinkingPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from flujo.agents.model_calls import ModelCall, end_failed, price_of, refuse_or_doubt, settle, unbounded
from flujo.agents.request_terms import RequestTerms
from flujo.domain.metering import Meter, Reservation
from flujo.domain.money import ZERO
from flujo.domain.paying_step import PayingStep
from flujo.utils.narrowing import is_dict, is_list

_log = logging.getLogger("flujo.agents")

_COUNTS_ALL = ("anthropic", "azure", "bedrock", "openai")  # the count of others may leave out instructions and tools
_FREE_TOOLS = ("memory", "tool_search")  # the program runs the one, and the other finds tools that are counted
_PER_ADDED_TOKEN = 20  # a provider's count may be a twentieth too low, because providers call it an estimate
_ADDED_TO_REQUEST = 32  # tokens; more than any provider adds, the same goes for those below
_ADDED_TO_PART = 32
_ADDED_FOR_TOOLS = 1_024
_NOT_SENT = {
    *("timestamp", "part_kind", "metadata", "outcome", "tool_kind", "dynamic_ref", "context_id", "scope", "id"),
    *("provider_name", "provider_details", "allow_text_output", "output_mode"),
}


class MeteredModel(WrapperModel):
    """A model whose requests are reserved and charged, one by one.

    Args:
        wrapped: The model that is asked.
        meter: Reserves and charges.
    """

    def __init__(self, wrapped: Model, meter: Meter) -> None:
        super().__init__(wrapped)
        self._meter = meter

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Ask the model once, unless its answer is known from before the run was killed."""
        asked = _Asked.of(messages, model_request_parameters)
        key = self._key(asked)
        if (kept := self._recall(key)) is not None:
            return kept
        call, reservation, settings = await self._reserve(messages, model_settings, model_request_parameters, asked)
        try:
            async with _no_longer_than(reservation):
                response = await self.wrapped.request(messages, settings, model_request_parameters)
        except BaseException as error:
            self._end_failed(reservation, error, messages)
            raise
        await self._keep(key, response, _charge(reservation, call, response))
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Ask the model once, and hand on its answer as it comes; likewise."""
        asked = _Asked.of(messages, model_request_parameters)
        key = self._key(asked)
        if (kept := self._recall(key)) is not None:
            yield CompletedStreamedResponse(kept, model_request_parameters=model_request_parameters, replay_events=True)
            return
        call, reservation, settings = await self._reserve(messages, model_settings, model_request_parameters, asked)
        try:
            async with (
                _no_longer_than(reservation),
                self.wrapped.request_stream(messages, settings, model_request_parameters, run_context) as response,
            ):
                yield response
        except BaseException as error:
            self._end_failed(reservation, error, messages)
            raise
        whole = response.get()
        await self._keep(key, whole, _charge(reservation, call, whole))

    def _end_failed(self, reservation: Reservation, error: BaseException, messages: list[ModelMessage]) -> None:
        if end_failed(reservation, error) and _file_among(messages) is not None:
            self._meter.doubt()

    def _key(self, asked: "_Asked") -> str | None:
        """Return what tells a request from others; `None` if nothing is kept."""
        if not self._meter.keeps_calls:
            return None
        made = hashlib.blake2b(asked.parts, digest_size=16)
        made.update(asked.told)
        made.update(self.wrapped.model_id.encode())
        return made.hexdigest()

    def _recall(self, key: str | None) -> ModelResponse | None:
        kept = None if key is None else self._meter.recall(key)
        if kept is None:
            return None
        (response,) = ModelMessagesTypeAdapter.validate_json(kept)
        assert isinstance(response, ModelResponse), "nothing else is kept under the key of a request"
        return response

    async def _keep(self, key: str | None, response: ModelResponse, used: tuple[Decimal, int]) -> None:
        if key is not None:
            await self._meter.keep(key, ModelMessagesTypeAdapter.dump_json([response]).decode(), *used)

    async def _reserve(
        self,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
        asked: "_Asked",
    ) -> tuple[ModelCall, Reservation, ModelSettings]:
        """Reserve what a request may cost; return it with the settings that it may have then."""
        model = self.wrapped
        price = price_of(model.system, model.model_name, self._meter)
        terms = RequestTerms.of(model, settings)
        self._look_at_tools(settings, parameters)
        if self._meter.has_limit:
            _refuse_unbounded(messages)
            terms.refuse_unbounded()
        call = ModelCall(
            input_tokens=asked.most_tokens + terms.added_tokens,
            max_output_tokens=terms.max_tokens * terms.answers,
            min_output_tokens=(terms.thinking_tokens + self._meter.min_output_tokens) * terms.answers,
            price=price,
        )
        if not self._meter.fits(call):
            counted = await self._counted(messages, settings, parameters, asked)
            call = replace(call, input_tokens=counted + terms.added_tokens)
        reservation = await self._meter.reserve(call, label=model.model_id)
        granted: ModelSettings = settings or {}
        if self._meter.has_limit:
            granted = terms.granted(settings, reservation.bound.tokens - call.input_tokens)
        return call, reservation, {**granted, "max_retries": 0}  # it is the step that tries again

    def _look_at_tools(self, settings: ModelSettings | None, parameters: ModelRequestParameters) -> None:
        """Refuse tools that the provider runs under a limit: nobody knows what their use costs.

        Raises:
            UnboundedCallError: There is a limit, and such a tool that the model has.
        """
        if not parameters.native_tools:
            return
        _, resolved = self.wrapped.prepare_request(settings, parameters)
        for tool in resolved.native_tools:
            if tool.kind not in _FREE_TOOLS:
                cost = f"what the provider's own tool {tool.kind!r} costs"
                why = f"nobody knows {cost}, so a limit cannot hold for a request with it"
                refuse_or_doubt(self._meter, why, f"{cost} is not counted")

    async def _counted(
        self,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
        asked: "_Asked",
    ) -> int:
        """Return a number of input tokens that the request does not pass, by the provider's own count if it has one.

        A provider counts for nothing, but takes its time.
        """
        try:
            usage = await self.wrapped.count_tokens(messages, settings, parameters)
        except (NotImplementedError, ModelAPIError, UserError) as error:
            _log.debug("the tokens of a request are not counted: %s", type(error).__name__)
            return asked.most_tokens
        counted = usage.input_tokens + usage.input_tokens // _PER_ADDED_TOKEN + _ADDED_TO_REQUEST
        if self.wrapped.system not in _COUNTS_ALL:
            counted += asked.told_tokens
        return min(counted, asked.most_tokens)


class Metered(AbstractCapability[Any]):
    """Lets every request of an agent's run be reserved and charged, whatever model serves it in the end.

    Args:
        meter: Reserves and charges.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def get_wrapper_model(self, model: Model) -> Model:
        """Return the model as one that is metered; of several models that stand in for each other, each is."""
        if isinstance(model, FallbackModel):
            metered = copy.copy(model)
            metered.models = [self.get_wrapper_model(each) for each in model.models]
            return metered
        return model if isinstance(model, MeteredModel) else MeteredModel(model, self._meter)

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        """Run a tool, unless what it gave is known from before the run was killed."""
        if not self._meter.keeps_calls:
            return await handler(args)
        key = f"tool {call.tool_name} {call.tool_call_id}"
        kept = self._meter.recall(key)
        if is_dict(kept):
            return kept["gave"]
        gave = await handler(args)
        try:
            written = to_jsonable_python(gave)
        except PydanticSerializationError as error:
            _log.warning("what the tool %r gave is not kept: %s", call.tool_name, error)
            return gave
        await self._meter.keep(key, {"gave": written}, ZERO, 0)
        return gave


def with_meter(step: PayingStep, capabilities: Sequence[Any]) -> Sequence[Any]:
    """Return the capabilities of an agent's run, and with them that its requests are metered by the step around it."""
    if any(isinstance(each, Metered) for each in capabilities):
        return capabilities
    return [*capabilities, Metered(step.meter)]


def look_at_batch(step: PayingStep) -> None:
    """Refuse requests that are sent as a batch within a step, if a limit has to hold for them.

    Raises:
        UnboundedCallError: A limit has to hold.
    """
    refuse_or_doubt(
        step.meter,
        "a limit cannot hold for requests that are sent as a batch",
        "what requests cost that are sent as a batch is not counted",
    )


def paid_by(step: PayingStep, model: Model) -> Model:
    """Return a model that is asked directly, with every request metered by the step around it."""
    return Metered(step.meter).get_wrapper_model(model)


@dataclass(slots=True, frozen=True)
class _Asked:
    """What a request asks, as JSON has it, without what is of no concern to a provider.

    Attributes:
        parts: The parts of all messages.
        told: What the model is told of tools, output and instructions.
        most_tokens: A number of input tokens that the request does not pass.
        told_tokens: A number of them that what the model is told does not pass, system prompts included.
    """

    parts: bytes
    told: bytes
    most_tokens: int
    told_tokens: int

    @classmethod
    def of(cls, messages: list[ModelMessage], parameters: ModelRequestParameters) -> "_Asked":
        """Return what a request asks.

        A token stands for at least one byte of text; to that comes what providers add around each part and for tools.
        """
        written = ModelMessagesTypeAdapter.dump_python(messages, mode="json")
        all_parts = [part for message in written for part in message["parts"]]
        parts = to_json(_sent(all_parts))
        told = to_json(_sent(json.loads(to_json(parameters, fallback=repr))))
        tools = len(parameters.function_tools) + len(parameters.output_tools) + len(parameters.native_tools)
        added = _ADDED_TO_REQUEST + (_ADDED_FOR_TOOLS if tools else 0)
        system = to_json(_sent([part for part in all_parts if part["part_kind"] == "system-prompt"]))
        most = added + _ADDED_TO_PART * len(all_parts) + len(parts) + len(told) + _thought_tokens(messages)
        return cls(parts, told, most, added + len(told) + len(system))


def _thought_tokens(messages: list[ModelMessage]) -> int:
    """Return a number of tokens that the thoughts in earlier answers do not pass, which a provider may have kept."""
    return sum(
        message.usage.output_tokens
        for message in messages
        if isinstance(message, ModelResponse) and any(isinstance(part, ThinkingPart) for part in message.parts)
    )


def _sent(value: Any) -> Any:
    """Return JSON without what is empty, or of no concern to a provider."""
    if is_dict(value):
        return {key: _sent(inner) for key, inner in value.items() if inner and key not in _NOT_SENT}
    return [_sent(inner) for inner in value] if is_list(value) else value


def _file_among(messages: list[ModelMessage]) -> object | None:
    """Return a picture or another file that a request has; nobody knows how many tokens it is."""
    for message in messages:
        for part in message.parts:
            if isinstance(part, UserPromptPart) and not isinstance(part.content, str):
                file = next((content for content in part.content if not isinstance(content, str)), None)
                if file is not None:
                    return file
    return None


def _refuse_unbounded(messages: list[ModelMessage]) -> None:
    if (file := _file_among(messages)) is not None:
        raise unbounded(
            f"nobody knows how many tokens a {type(file).__name__} is, so a limit cannot hold for a request with one"
        )


@asynccontextmanager
async def _no_longer_than(reservation: Reservation) -> AsyncGenerator[None]:
    """End a request that takes longer than is reserved.

    Raises:
        TimeoutError: It did.
    """
    seconds = reservation.bound.seconds
    deadline = asyncio.timeout(float(seconds) if seconds else None)
    try:
        async with deadline:
            yield
    except TimeoutError as error:
        if deadline.expired():
            raise TimeoutError(f"the request took longer than the {seconds} s that a budget lets it take") from error
        raise


def _charge(reservation: Reservation, call: ModelCall, response: ModelResponse) -> tuple[Decimal, int]:
    variant = {name: value for name, value in (response.provider_details or {}).items() if isinstance(value, str)}
    return settle(reservation, call, response.usage, variant)
