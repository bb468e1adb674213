"""The fake provider, driven by the clients that it is for, over HTTP."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion_message_function_tool_call import (
    ChatCompletionMessageFunctionToolCall,
)
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.providers.server import (
    Answer,
    BadJson,
    Cut,
    Gate,
    Hangup,
    Held,
    HttpError,
    Malformed,
    NoUsage,
    Overbill,
    Provider,
    ReceivedRequest,
    Slow,
    Text,
    ToolCalls,
    Usage,
    WrongUsage,
    count_input_tokens,
    count_tokens,
)

_TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
async def client(provider: Provider) -> AsyncIterator[AsyncOpenAI]:
    """The real client, which never tries again."""
    async with AsyncOpenAI(base_url=provider.base_url, api_key="test", max_retries=0) as opened:
        yield opened


async def _ask(client: AsyncOpenAI, content: str = "hi", **settings: Any) -> ChatCompletion:
    answer: ChatCompletion = await client.chat.completions.create(
        model="model", messages=[{"role": "user", "content": content}], stream=False, **settings
    )
    return answer


async def _chunks(client: AsyncOpenAI, **settings: Any) -> AsyncGenerator[ChatCompletionChunk]:
    stream = await client.chat.completions.create(
        model="model", messages=[{"role": "user", "content": "hi"}], stream=True, **settings
    )
    async with stream:
        async for chunk in stream:
            yield chunk


def _text(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def _billed(provider: Provider) -> list[tuple[int, int]]:
    return [(line.usage.input_tokens, line.usage.output_tokens) for line in provider.bill]


# Answers


async def test_a_text_is_answered_and_billed(provider: Provider, client: AsyncOpenAI) -> None:
    """A text comes with its usage, and the bill has the same numbers at the exact price."""
    provider.price("model", input_usd_per_mtok="0.123456789", output_usd_per_mtok="987.654321")
    provider.script(Text("twelve chars"))

    answer = await _ask(client, "eight ch")

    assert answer.choices[0].message.content == "twelve chars"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 3, 9)
    assert _billed(provider) == [(6, 3)]
    assert provider.total_usd == Decimal("0.002963703703734")


async def test_it_says_ok_without_a_script(client: AsyncOpenAI) -> None:
    """Without a script every answer is "ok"."""
    assert (await _ask(client)).choices[0].message.content == "ok"
    assert (await _ask(client)).choices[0].message.content == "ok"


async def test_a_script_is_given_in_order(provider: Provider, client: AsyncOpenAI) -> None:
    """Answers come in the order of the script, the last one for ever, and a function sees the request."""

    def echo(request: ReceivedRequest) -> Answer:
        return Text(request.body["messages"][-1]["content"].upper())

    provider.script(Text("one"), Text("two"), echo)

    answers = [(await _ask(client, content)).choices[0].message.content for content in ("a", "b", "c", "d")]

    assert answers == ["one", "two", "C", "D"]


async def test_received_requests_are_kept(provider: Provider, client: AsyncOpenAI) -> None:
    """A request is kept with its JSON, its headers and its times, and has ended when the client has the answer."""
    await _ask(client, "hi", temperature=0.5)

    (request,) = provider.requests
    assert (request.number, request.method, request.path) == (1, "POST", "/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer test"
    assert request.body["temperature"] == 0.5
    assert request.ended_at_s is not None
    assert request.ended_at_s >= request.arrived_at_s
    assert not request.is_abandoned
    assert provider.most_at_once == 1


async def test_priced_models_are_offered(provider: Provider, client: AsyncOpenAI) -> None:
    """The provider lists the models that have a price, and refuses others for free."""
    provider.price("small", input_usd_per_mtok=1, output_usd_per_mtok=2)

    models = [model.id async for model in client.models.list()]
    with pytest.raises(openai.NotFoundError) as refused:
        await client.chat.completions.create(model="large", messages=[{"role": "user", "content": "hi"}])

    assert models == ["model", "small"]
    assert refused.value.code == "model_not_found"
    assert provider.bill == []


@pytest.mark.parametrize(
    ("messages", "limit"),
    [([], 1), ([{"role": "user", "content": "hi"}], 0)],
)
async def test_an_invalid_request_is_refused(
    provider: Provider, client: AsyncOpenAI, messages: list[Any], limit: int
) -> None:
    """A request without messages, or one that allows no output, is a mistake of the client, and free."""
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="model", messages=messages, max_tokens=limit)

    assert provider.bill == []


async def test_an_unknown_url_is_not_found(client: AsyncOpenAI) -> None:
    """Whatever is not part of the provider is 404."""
    with pytest.raises(openai.NotFoundError, match="unknown URL: POST /v1/moderations"):
        await client.moderations.create(model="model", input="hi")


@pytest.mark.parametrize("text", ["", "a", "abcd", "abcde"])
def test_tokens_are_counted_by_characters(text: str) -> None:
    """A token is four characters, the last one maybe fewer."""
    assert count_tokens(text) == {0: 0, 1: 1, 4: 1, 5: 2}[len(text)]


def test_all_input_is_counted() -> None:
    """Parts of a message, tool calls, tools and schemas are input as well."""
    plain = {"messages": [{"role": "user", "content": "x" * 40}, {"role": "user", "content": None}]}
    message = {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}

    assert count_input_tokens(plain) == 18
    assert count_input_tokens({**plain, "tools": [_TOOL]}) > 18
    assert count_input_tokens({**plain, "response_format": {"type": "json_object"}}) > 18
    assert count_input_tokens({"messages": [message]}) > 5
    assert count_input_tokens({"messages": [{**message, "tool_calls": [_TOOL]}]}) > count_input_tokens(
        {"messages": [message]}
    )


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_ends_at_the_limit(provider: Provider, client: AsyncOpenAI, limit: str) -> None:
    """No more than the limit is said or billed, and the finish reason says so."""
    provider.script(Text("x" * 100))

    answer = await _ask(client, "hi", **{limit: 3})

    assert answer.choices[0].message.content == "x" * 12
    assert answer.choices[0].finish_reason == "length"
    assert _billed(provider) == [(5, 3)]


async def test_tokens_may_be_given(provider: Provider, client: AsyncOpenAI) -> None:
    """A test may say what is used, and the limit of the request holds all the same."""
    provider.script(Text("ok", input_tokens=1000, output_tokens=200))

    await _ask(client)
    limited = await _ask(client, max_tokens=150)

    assert limited.choices[0].finish_reason == "length"
    assert _billed(provider) == [(1000, 200), (1000, 150)]
    assert provider.total_usd == Decimal("0.0068")


async def test_every_answer_of_n_is_billed(provider: Provider, client: AsyncOpenAI) -> None:
    """With `n` the output counts `n` times, and the input once."""
    provider.script(Text("x" * 8))

    answer = await _ask(client, n=3)
    chunks = [chunk async for chunk in _chunks(client, n=3)]

    assert [choice.message.content for choice in answer.choices] == ["x" * 8] * 3
    assert _text(chunks) == "x" * 24
    assert _billed(provider) == [(5, 6), (5, 6)]


async def test_tools_are_called(provider: Provider, client: AsyncOpenAI) -> None:
    """Tool calls come with their names, arguments and distinct identifiers."""
    provider.script(ToolCalls([("look_up", '{"a": 1}'), ("store", "{}")]))

    choice = (await _ask(client, tools=[_TOOL])).choices[0]

    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    calls = choice.message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls if call.type == "function"] == [
        ("look_up", '{"a": 1}'),
        ("store", "{}"),
    ]
    assert len({call.id for call in calls}) == 2


async def test_tool_calls_end_at_the_limit(provider: Provider, client: AsyncOpenAI) -> None:
    """Arguments break off at the limit, and calls beyond it are not made."""
    provider.script(ToolCalls([("look_up", '{"a": "long"}'), ("store", "{}")]))

    choice = (await _ask(client, tools=[_TOOL], max_tokens=3)).choices[0]

    (call,) = choice.message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.arguments == '{"a":'
    assert choice.finish_reason == "length"
    assert _billed(provider)[0][1] == 3


# Streams


async def test_a_stream_brings_a_text_in_tokens(provider: Provider, client: AsyncOpenAI) -> None:
    """A stream brings a token a chunk, then why it ends, then the usage if that is asked for."""
    provider.script(Text("twelve chars"))

    chunks = [chunk async for chunk in _chunks(client, stream_options={"include_usage": True})]

    assert _text(chunks) == "twelve chars"
    assert len(chunks) == 6
    assert chunks[4].choices[0].finish_reason == "stop"
    assert [chunk.usage for chunk in chunks[:5]] == [None] * 5
    assert chunks[5].choices == []
    assert chunks[5].usage is not None
    assert (chunks[5].usage.prompt_tokens, chunks[5].usage.completion_tokens) == (5, 3)
    assert _billed(provider) == [(5, 3)]


async def test_a_stream_is_silent_about_usage_unless_asked(provider: Provider, client: AsyncOpenAI) -> None:
    """A stream that was not asked for its usage does not tell it, and is billed."""
    chunks = [chunk async for chunk in _chunks(client)]

    assert [chunk.usage for chunk in chunks] == [None] * 3
    assert _billed(provider) == [(5, 1)]


async def test_a_stream_calls_tools(provider: Provider, client: AsyncOpenAI) -> None:
    """A tool call in a stream begins with its name, and its arguments follow in pieces."""
    provider.script(ToolCalls([("look_up", '{"key": "value"}')]))

    chunks = [chunk async for chunk in _chunks(client, tools=[_TOOL])]
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    functions = [delta.function for delta in deltas if delta.function is not None]

    assert deltas[0].id is not None
    assert functions[0].name == "look_up"
    assert "".join(function.arguments or "" for function in functions) == '{"key": "value"}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_stream_breaks_off_and_is_billed_in_full(provider: Provider, client: AsyncOpenAI) -> None:
    """A stream that is cut brings so many chunks and then an error, and costs all of it."""
    provider.script(Cut(Text("x" * 40), after_chunks=3))

    chunks = _chunks(client)
    received = [await anext(chunks) for _ in range(3)]
    with pytest.raises(openai.APIConnectionError):
        await anext(chunks)

    assert _text(received) == "x" * 8
    assert _billed(provider) == [(5, 10)]
    assert not provider.bill[0].is_abandoned


async def test_a_stream_breaks_off_before_its_first_chunk(provider: Provider, client: AsyncOpenAI) -> None:
    """A cut after no chunk still sends the headers."""
    provider.script(Cut(Text("ok"), after_chunks=0))

    stream = await client.chat.completions.create(
        model="model", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(openai.APIConnectionError):
        await anext(aiter(stream))

    assert _billed(provider) == [(5, 1)]


async def test_an_answer_breaks_off(provider: Provider, client: AsyncOpenAI) -> None:
    """An answer that is no stream is cut within its body, billed, and the next request gets through."""
    provider.script(Cut(Text("ok"), after_chunks=1), Text("ok"))

    with pytest.raises(openai.APIConnectionError):
        await _ask(client)
    await _ask(client)

    assert _billed(provider) == [(5, 1), (5, 1)]


@pytest.mark.parametrize("after_chunks", [2, 100])
async def test_a_stream_is_held_in_its_midst(provider: Provider, client: AsyncOpenAI, after_chunks: int) -> None:
    """A gate holds the rest of a stream back, at least its end, and a client that leaves meanwhile pays for all."""
    provider.script(Held(Text("x" * 40), Gate(), after_chunks=after_chunks))

    chunks = _chunks(client)
    received = [await anext(chunks), await anext(chunks)]
    await chunks.aclose()
    await asyncio.to_thread(provider.wait_abandoned, 1)

    assert _text(received) == "x" * 4
    assert _billed(provider) == [(5, 10)]
    assert provider.bill[0].is_abandoned


# Failures


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_raised_and_free(
    provider: Provider, client: AsyncOpenAI, status: int, error: type[openai.APIStatusError], *, stream: bool
) -> None:
    """Every status becomes the client's error for it, and is not billed."""
    provider.script(HttpError(status, "no", code="some_code", retry_after_s=1.5))

    with pytest.raises(error, match="no") as raised:
        await (anext(_chunks(client)) if stream else _ask(client))

    assert raised.value.status_code == status
    assert raised.value.code == "some_code"
    assert raised.value.response.headers["retry-after"] == "1.5"
    assert provider.bill == []


async def test_an_error_may_be_billed(provider: Provider, client: AsyncOpenAI) -> None:
    """An error that is billed costs its input."""
    provider.script(HttpError(500, billed=True))

    with pytest.raises(openai.InternalServerError, match="Internal Server Error"):
        await _ask(client)

    assert _billed(provider) == [(5, 0)]


async def test_the_client_itself_tries_again(provider: Provider) -> None:
    """A client with retries of its own comes back after 429, as the provider told it to."""
    provider.script(HttpError(429, retry_after_s=0.001), Text("ok"))

    async with AsyncOpenAI(base_url=provider.base_url, api_key="test", max_retries=1) as client:
        answer = await _ask(client)

    assert answer.choices[0].message.content == "ok"
    assert len(provider.requests) == 2
    assert len(provider.bill) == 1


@pytest.mark.parametrize("billed", [True, False])
async def test_the_provider_hangs_up(provider: Provider, client: AsyncOpenAI, *, billed: bool) -> None:
    """A connection closes without an answer, which is paid for or not, and the client counts as present."""
    provider.script(Hangup(Text("x" * 40), billed=billed))

    with pytest.raises(openai.APIConnectionError):
        await _ask(client)

    assert _billed(provider) == ([(5, 10)] if billed else [])
    assert not provider.requests[0].is_abandoned


async def test_a_malformed_answer_is_billed(provider: Provider, client: AsyncOpenAI) -> None:
    """A body that is no JSON is an error of the client, and costs what it is long."""
    provider.script(Malformed("no JSON!"))

    with pytest.raises(json.JSONDecodeError):
        await _ask(client)
    with pytest.raises(json.JSONDecodeError):
        _ = [chunk async for chunk in _chunks(client)]

    assert _billed(provider) == [(5, 2), (5, 2)]


async def test_bad_json_comes_where_json_was_asked_for(provider: Provider, client: AsyncOpenAI) -> None:
    """Malformed JSON is the text, or the arguments of the tool that has to be called."""
    provider.script(BadJson('{"a": '))
    chosen = {"type": "function", "function": {"name": "look_up"}}

    text = await _ask(client, response_format={"type": "json_object"})
    assert text.choices[0].message.content == '{"a": '

    for choice in ("required", chosen):
        (call,) = (await _ask(client, tools=[_TOOL], tool_choice=choice)).choices[0].message.tool_calls or []
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert (call.function.name, call.function.arguments) == ("look_up", '{"a": ')


def test_a_failing_script_fails_the_test() -> None:
    """What a function of the script raises is 500 to the client, and raised when the provider closes."""

    def fail(request: ReceivedRequest) -> Answer:
        raise ValueError(request.model)

    async def ask() -> None:
        with Provider() as provider:
            provider.script(fail)
            async with AsyncOpenAI(base_url=provider.base_url, api_key="test", max_retries=0) as client:
                with pytest.raises(openai.InternalServerError, match="the script failed: ValueError"):
                    await _ask(client)

    with pytest.raises(ExceptionGroup, match="the script of the provider failed") as raised:
        asyncio.run(ask())

    assert [str(error) for error in raised.value.exceptions] == ["model"]


# Usage


@pytest.mark.parametrize(
    ("answer", "billed", "reported"),
    [
        (Text("x" * 40), Usage(5, 2), Usage(5, 2)),
        (WrongUsage(Text("x" * 40), reported_input=1, reported_output=7), Usage(5, 2), Usage(1, 7)),
        (NoUsage(Text("x" * 40)), Usage(5, 2), None),
        (Overbill(Text("x" * 40), output_tokens=50), Usage(5, 50), Usage(5, 50)),
        (WrongUsage(Overbill(Text("ok"), 50), 1, 2), Usage(5, 50), Usage(1, 2)),
        (NoUsage(Slow(ToolCalls([("look_up", "{}")]), 0)), Usage(5, 2), None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_reported_may_be_false(
    provider: Provider, client: AsyncOpenAI, answer: Answer, billed: Usage, reported: Usage | None, *, stream: bool
) -> None:
    """The bill is the truth beside whatever the client is told, in a stream or not."""
    provider.script(answer)

    if stream:
        options = {"include_usage": True}
        chunks = [chunk async for chunk in _chunks(client, max_tokens=2, stream_options=options)]
        usage = chunks[-1].usage
    else:
        usage = (await _ask(client, max_tokens=2)).usage

    assert [line.usage for line in provider.bill] == [billed]
    assert (usage and Usage(usage.prompt_tokens, usage.completion_tokens)) == reported


def test_only_what_is_billed_is_overbilled() -> None:
    """An answer that costs nothing has no output to charge more for."""
    body = {"model": "model", "messages": [{"role": "user", "content": "hi"}]}
    request = ReceivedRequest(1, "POST", "/v1/chat/completions", {}, body, arrived_at_s=0)

    with pytest.raises(ValueError, match="is not billed; overbill an answer that is"):
        Overbill(HttpError(500), output_tokens=5).plan(request)


# Waiting, and clients that do not


async def test_a_slow_answer_takes_its_time(provider: Provider, client: AsyncOpenAI) -> None:
    """A slow answer is in flight for its delay at least."""
    provider.script(Slow(Text("ok"), delay_s=0.05))

    await _ask(client)

    (request,) = provider.requests
    assert request.ended_at_s is not None
    assert request.ended_at_s - request.arrived_at_s >= 0.05


async def test_held_requests_are_in_flight_together(provider: Provider, client: AsyncOpenAI) -> None:
    """Requests wait at a gate, already billed, and all go on when it opens."""
    gate = Gate()
    provider.script(Held(Text("ok"), gate))

    async with asyncio.TaskGroup() as calls:
        answers = [calls.create_task(_ask(client)) for _ in range(5)]
        await asyncio.to_thread(provider.wait_arrived, 5)
        billed_before = _billed(provider)
        gate.open()
    await _ask(client)

    assert billed_before == [(5, 1)] * 5
    assert [answer.result().choices[0].message.content for answer in answers] == ["ok"] * 5
    assert provider.most_at_once == 5
    provider.wait_idle()


async def test_a_cancelled_call_is_billed(provider: Provider, client: AsyncOpenAI) -> None:
    """A client that is cancelled while it waits has abandoned a request that it pays for."""
    provider.script(Held(Text("x" * 40), Gate()), Text("ok"))

    call = asyncio.create_task(_ask(client))  # awaited below
    await asyncio.to_thread(provider.wait_arrived, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.to_thread(provider.wait_abandoned, 1)
    await _ask(client)

    assert _billed(provider) == [(5, 10), (5, 1)]
    assert [line.is_abandoned for line in provider.bill] == [True, False]


async def test_a_call_that_times_out_is_billed(provider: Provider, client: AsyncOpenAI) -> None:
    """A client that is out of patience has abandoned its request."""
    provider.script(Held(Text("ok"), Gate()))

    with pytest.raises(openai.APITimeoutError):
        await _ask(client, timeout=0.05)
    await asyncio.to_thread(provider.wait_abandoned, 1)

    assert _billed(provider) == [(5, 1)]


_CLIENT_PROCESS = """
import json, sys, urllib.request
body = json.dumps({"model": "model", "messages": [{"role": "user", "content": "hi"}]}).encode()
urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "/chat/completions", body))
"""


def test_the_bill_outlives_a_killed_client(provider: Provider) -> None:
    """A process that is killed while it waits for an answer leaves its bill."""
    provider.script(Held(Text("x" * 40), Gate()))

    with subprocess.Popen([sys.executable, "-c", _CLIENT_PROCESS, provider.base_url]) as process:
        provider.wait_arrived(1)
        process.kill()
    provider.wait_abandoned(1)

    assert _billed(provider) == [(5, 10)]
    assert provider.bill[0].is_abandoned


def test_waiting_has_an_end(provider: Provider) -> None:
    """What never happens is an error that says what there was."""
    with pytest.raises(TimeoutError, match="waited 0 s for 1 requests; there are 0 requests"):
        provider.wait_arrived(1, timeout_s=0)


async def test_closing_lets_nobody_wait(client: AsyncOpenAI) -> None:
    """A provider that closes drops the requests that it still holds."""
    with Provider() as provider:
        provider.script(Held(Text("ok"), Gate()))
        call = asyncio.create_task(_ask(client.with_options(base_url=provider.base_url)))  # awaited below
        await asyncio.to_thread(provider.wait_arrived, 1)

    with pytest.raises(openai.APIConnectionError):
        await call


async def test_many_requests_are_billed_exactly(provider: Provider, client: AsyncOpenAI) -> None:
    """Two hundred requests at once are in flight together, and the bill is tokens times price to the last digit."""
    gate = Gate()
    provider.price("model", input_usd_per_mtok="0.15", output_usd_per_mtok="0.6")

    def answer(request: ReceivedRequest) -> Answer:
        return Held(Text("x" * int(request.body["messages"][0]["content"])), gate)

    provider.script(answer)

    async with asyncio.TaskGroup() as calls:
        answers = [calls.create_task(_ask(client, str(characters))) for characters in range(200)]
        await asyncio.to_thread(provider.wait_arrived, 200)
        gate.open()

    usages = [answer.result().usage for answer in answers]
    input_tokens = sum(usage.prompt_tokens for usage in usages if usage is not None)
    output_tokens = sum(usage.completion_tokens for usage in usages if usage is not None)
    assert input_tokens == 200 * 5
    assert output_tokens == sum(count_tokens("x" * characters) for characters in range(200))
    assert provider.total_usd == (input_tokens * Decimal("0.15") + output_tokens * Decimal("0.6")) / 1_000_000
    assert provider.most_at_once == 200
    assert len(provider.bill) == 200


# pydantic-ai


class _City(BaseModel):
    name: str
    inhabitants: int


@pytest.fixture
def model(client: AsyncOpenAI) -> OpenAIChatModel:
    """The real model of pydantic-ai."""
    return OpenAIChatModel("model", provider=OpenAIProvider(openai_client=client))


async def test_an_agent_gets_a_text(provider: Provider) -> None:
    """An agent that is given the URL reads the text and the usage."""
    provider.script(Text("hello"))
    model = OpenAIChatModel("model", provider=OpenAIProvider(base_url=provider.base_url, api_key="test"))

    async with model:
        result = await Agent(model).run("hi")

    assert result.output == "hello"
    assert (result.usage.input_tokens, result.usage.output_tokens) == (5, 2)
    assert _billed(provider) == [(5, 2)]


async def test_an_agent_calls_a_tool(provider: Provider, model: OpenAIChatModel) -> None:
    """An agent runs the tool, sends back what it returned, and reads the answer; both requests are billed."""
    agent = Agent(model)

    @agent.tool_plain
    def add(a: int, b: int) -> int:  # pyright: ignore[reportUnusedFunction]  # the agent calls it
        """Add two numbers."""
        return a + b

    def answer(request: ReceivedRequest) -> Answer:
        return Text("it is " + request.body["messages"][-1]["content"])

    provider.script(ToolCalls([("add", '{"a": 2, "b": 3}')]), answer)

    result = await agent.run("what is 2 + 3?")

    assert result.output == "it is 5"
    assert [line.usage.input_tokens for line in provider.bill] == [
        count_input_tokens(request.body) for request in provider.requests
    ]
    assert result.usage.input_tokens == sum(line.usage.input_tokens for line in provider.bill)
    assert result.usage.output_tokens == sum(line.usage.output_tokens for line in provider.bill)


async def test_an_agent_gets_structured_output(provider: Provider, model: OpenAIChatModel) -> None:
    """An agent asks again after malformed JSON, and builds its output from the second answer."""
    provider.script(BadJson(), ToolCalls([("final_result", '{"name": "Ulm", "inhabitants": 126405}')]))

    result = await Agent(model, output_type=_City, retries=1).run("which city?")

    assert result.output == _City(name="Ulm", inhabitants=126405)
    assert len(provider.bill) == 2


async def test_an_agent_streams(provider: Provider, model: OpenAIChatModel) -> None:
    """An agent streams a text, and knows the usage at the end."""
    provider.script(Text("hello, world"))

    async with Agent(model).run_stream("hi") as result:
        deltas = [delta async for delta in result.stream_text(delta=True, debounce_by=None)]

    assert "".join(deltas) == "hello, world"
    assert len(deltas) == 3
    assert (result.usage.input_tokens, result.usage.output_tokens) == (5, 3)
    assert _billed(provider) == [(5, 3)]
