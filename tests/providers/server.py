"""An OpenAI-compatible provider on loopback that answers by a script and bills for it.

The server is a thread with an event loop of its own, so that a test may block or be cancelled while it goes on.
A request is planned and billed in one stretch as soon as it has arrived in full, before a byte of the answer
is sent: whatever becomes of the client, the bill stands, and who has seen the request has seen its price.
Time is only used by `Slow`; everything else is ordered with `Gate` and the `wait_...` methods.
"""

import asyncio
import json
import math
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal, Inexact, localcontext
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeAlias

import pytest

_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4
_CREATED_AT = 1_700_000_000  # seconds since 1970; the same in every answer, so that answers can be compared
_BACKLOG = 4096  # connections that may wait to be accepted
_MOST_HEADER_BYTES = 2**20
_JSON = "application/json"
_EVENT_STREAM = "text/event-stream"
_EXACT = Context(prec=200, traps=[Inexact])


# Tokens


def count_tokens(text: str) -> int:
    """Count the tokens of a text: one for every four characters, rounded up."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


def count_input_tokens(body: Mapping[str, Any]) -> int:
    """Count what a request is charged as input: contents, tool calls, tools and schemas, and 4 for every message."""
    messages: list[dict[str, Any]] = body["messages"]
    written = [_written(message.get(key)) for message in messages for key in ("content", "tool_calls")]
    written += [_written(body.get(key)) for key in ("tools", "response_format")]
    return count_tokens("".join(written)) + _TOKENS_PER_MESSAGE * len(messages)


def _written(value: Any) -> str:  # whatever JSON the client sends
    match value:
        case None:
            return ""
        case str():
            return value
        case _:
            return _to_json(value)


def _to_json(value: Any) -> str:  # whatever JSON the client sends, or answers to it
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# What came in, and what it cost


@dataclass(slots=True)
class ReceivedRequest:
    """One HTTP request, as it came in."""

    number: int
    """Counts from 1, in order of arrival."""
    method: str
    path: str
    headers: Mapping[str, str]
    """By name in lower case."""
    body: Mapping[str, Any]
    """The parsed JSON; empty if there was none that could be read."""
    arrived_at_s: float
    """When its last byte was there, by `time.monotonic`."""
    ended_at_s: float | None = None
    """When the last byte of the answer was handed over, or the client had vanished; None as long as it is in flight."""
    is_abandoned: bool = False
    """The client vanished before it had the whole answer."""

    @property
    def model(self) -> str:
        """The name of the model that is asked."""
        return str(self.body["model"])

    @property
    def is_stream(self) -> bool:
        """Whether the answer is sent piece by piece."""
        return bool(self.body.get("stream"))

    @property
    def wants_usage_in_stream(self) -> bool:
        """Whether a stream ends with what it used."""
        options: Mapping[str, Any] = self.body.get("stream_options") or {}
        return bool(options.get("include_usage"))

    @property
    def answers(self) -> int:
        """How many answers are asked for with `n`."""
        return self.body.get("n") or 1

    @property
    def max_output_tokens(self) -> int | None:
        """The most tokens that one answer may have; None if there is no limit."""
        limits = [self.body.get(key) for key in ("max_tokens", "max_completion_tokens")]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def forced_tool(self) -> str | None:
        """The name of the tool that has to be called; None if the model may answer with text."""
        match self.body.get("tool_choice"):
            case {"function": {"name": str(name)}}:
                return name
            case "required":
                return str(self.body["tools"][0]["function"]["name"])
            case _:
                return None


@dataclass(slots=True, frozen=True)
class Usage:
    """The tokens of one request."""

    input_tokens: int
    output_tokens: int
    """Those of all its answers."""


@dataclass(slots=True, frozen=True)
class Price:
    """What a million tokens cost."""

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal

    def cost_usd(self, usage: Usage) -> Decimal:
        """Return the price of a request, exactly."""
        with localcontext(_EXACT):
            microdollars = usage.input_tokens * self.input_usd_per_mtok + usage.output_tokens * self.output_usd_per_mtok
            return microdollars.scaleb(-6)


@dataclass(slots=True, frozen=True)
class BilledRequest:
    """One line of the bill."""

    request: ReceivedRequest
    usage: Usage
    """The truth, whatever was reported to the client."""
    cost_usd: Decimal

    @property
    def is_abandoned(self) -> bool:
        """Whether the client vanished before it had the whole answer; it pays all the same."""
        return self.request.is_abandoned


# What the provider does about a request


@dataclass(slots=True, frozen=True)
class Completion:
    """What the model says."""

    text: str | None = None
    tool_calls: Sequence[tuple[str, str]] = ()
    """The name and the arguments of each."""
    finish_reason: str = "stop"


@dataclass(slots=True, frozen=True)
class Reply:
    """A response that is sent as it is."""

    text: str
    status: int = 200
    content_type: str = _JSON
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True, frozen=True)
class Pause:
    """A wait in the midst of an answer."""

    after_chunks: int
    wait: Callable[[], Awaitable[None]]


@dataclass(slots=True, frozen=True)
class Plan:
    """All that the provider does about one request, decided when it arrives."""

    content: Completion | Reply | None
    """None closes the connection without an answer."""
    billed: Usage | None = None
    reported: Usage | None = None
    pauses: Sequence[Pause] = ()
    cut_after_chunks: int | None = None


def _phrase(status: int) -> str:
    """Return what an HTTP status says; some providers answer with 529, which no standard has."""
    return "Overloaded" if status == 529 else HTTPStatus(status).phrase


class Gate:
    """Holds answers back until a test opens it, from whatever thread.

    Example:
        ```python
        gate = Gate()
        provider.script(Held(Text("ok"), gate))
        call = asyncio.create_task(client.chat.completions.create(...))
        await asyncio.to_thread(provider.wait_arrived, 1)
        gate.open()
        ```
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_open = False
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def open(self) -> None:
        """Let everything pass, now and later."""
        with self._lock:
            self._is_open = True
            for opened, loop in self._waiting.items():
                loop.call_soon_threadsafe(opened.set)

    async def wait_open(self) -> None:
        """Wait until the gate is open."""
        opened = asyncio.Event()
        with self._lock:
            if self._is_open:
                return
            self._waiting[opened] = asyncio.get_running_loop()
        try:
            await opened.wait()
        finally:
            with self._lock:
                del self._waiting[opened]


# Answers


class Answer(ABC):
    """What a test has the provider answer."""

    @abstractmethod
    def plan(self, request: ReceivedRequest) -> Plan:
        """Decide what to send and what to charge."""


ScriptEntry: TypeAlias = Answer | Callable[[ReceivedRequest], Answer]
"""An answer, or a function that decides it when it sees the request."""


@dataclass(frozen=True)
class Text(Answer):
    """The model says a text, no longer than the request allows.

    Args:
        text: What it says; cut at the limit of the request, with the finish reason "length".
        output_tokens: What one answer is charged, up to the limit of the request; None counts the text.
        input_tokens: What the request is charged as input; None counts it.
        finish_reason: Why the model stops, unless it is stopped.
    """

    text: str
    output_tokens: int | None = None
    input_tokens: int | None = None
    finish_reason: str = "stop"

    def plan(self, request: ReceivedRequest) -> Plan:
        tokens = count_tokens(self.text) if self.output_tokens is None else self.output_tokens
        limit = request.max_output_tokens
        completion = Completion(self.text, finish_reason=self.finish_reason)
        if limit is not None and tokens > limit:
            completion = Completion(self.text[: limit * _CHARACTERS_PER_TOKEN], finish_reason="length")
            tokens = limit
        return _complete(request, completion, tokens, self.input_tokens)


@dataclass(frozen=True)
class ToolCalls(Answer):
    """The model calls tools; what is beyond the limit of the request is cut off, in the midst of the JSON.

    Args:
        calls: The name of each tool, and its arguments as JSON.
    """

    calls: Sequence[tuple[str, str]]

    def plan(self, request: ReceivedRequest) -> Plan:
        tokens = count_tokens("".join(name + arguments for name, arguments in self.calls))
        limit = request.max_output_tokens
        completion = Completion(tool_calls=self.calls, finish_reason="tool_calls")
        if limit is not None and tokens > limit:
            kept = _first_characters(self.calls, limit * _CHARACTERS_PER_TOKEN)
            completion = Completion(tool_calls=kept, finish_reason="length")
            tokens = limit
        return _complete(request, completion, tokens)


@dataclass(frozen=True)
class BadJson(Answer):
    """The model breaks off within the JSON it was asked for: in the arguments of the tool it must call, or in text."""

    text: str = '{"broken": '

    def plan(self, request: ReceivedRequest) -> Plan:
        tool = request.forced_tool
        answer = Text(self.text) if tool is None else ToolCalls([(tool, self.text)])
        return answer.plan(request)


@dataclass(frozen=True)
class Malformed(Answer):
    """The provider answers 200, and not with JSON; that is charged."""

    text: str = "<html>not JSON</html>"

    def plan(self, request: ReceivedRequest) -> Plan:
        reply = Reply(f"data: {self.text}\n\n", content_type=_EVENT_STREAM) if request.is_stream else Reply(self.text)
        return replace(Text(self.text).plan(request), content=reply)


@dataclass(frozen=True)
class Embeddings(Answer):
    """The provider gives an embedding of two numbers for each text: its length, and its place."""

    def plan(self, request: ReceivedRequest) -> Plan:
        given = request.body["input"]
        texts: list[str] = [given] if isinstance(given, str) else list(given)
        tokens = sum(map(count_tokens, texts))
        data = [{"object": "embedding", "index": i, "embedding": [len(text), i]} for i, text in enumerate(texts)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        reply = Reply(_to_json({"object": "list", "data": data, "model": request.model, "usage": usage}))
        return Plan(reply, billed=Usage(tokens, 0))


@dataclass(frozen=True)
class HttpError(Answer):
    """The provider refuses.

    Args:
        status: The HTTP status.
        message: What is wrong; None says what the status says.
        code: OpenAI's name for it, such as "context_length_exceeded".
        retry_after_s: When to try again, as a `Retry-After` header.
        billed: The input is charged all the same.
    """

    status: int
    message: str | None = None
    code: str | None = None
    retry_after_s: float | None = None
    billed: bool = field(default=False, kw_only=True)

    def plan(self, request: ReceivedRequest) -> Plan:
        message = _phrase(self.status) if self.message is None else self.message
        error = {"message": message, "type": _error_type(self.status), "param": None, "code": self.code}
        headers = {} if self.retry_after_s is None else {"Retry-After": f"{self.retry_after_s:g}"}
        reply = Reply(_to_json({"error": error}), status=self.status, headers=headers)
        return Plan(reply, billed=Usage(count_input_tokens(request.body), 0) if self.billed else None)


@dataclass(frozen=True)
class Hangup(Answer):
    """The provider closes the connection without a word, after it has made an answer for which it charges."""

    answer: Answer = field(default_factory=lambda: Text("ok"))
    billed: bool = field(default=True, kw_only=True)

    def plan(self, request: ReceivedRequest) -> Plan:
        plan = self.answer.plan(request)
        return replace(plan, content=None, billed=plan.billed if self.billed else None)


@dataclass(frozen=True)
class Cut(Answer):
    """The provider closes the connection in the midst of an answer, and charges for all of it.

    Args:
        answer: What would have been said.
        after_chunks: How many events of a stream are sent; an answer that is no stream is cut in half.
    """

    answer: Answer
    after_chunks: int

    def plan(self, request: ReceivedRequest) -> Plan:
        return replace(self.answer.plan(request), cut_after_chunks=self.after_chunks)


@dataclass(frozen=True)
class Slow(Answer):
    """The provider takes its time before it answers; `Held` needs none."""

    answer: Answer
    delay_s: float

    def plan(self, request: ReceivedRequest) -> Plan:
        return _paused(self.answer.plan(request), Pause(0, lambda: asyncio.sleep(self.delay_s)))


@dataclass(frozen=True)
class Held(Answer):
    """The provider answers when a gate is opened.

    Args:
        answer: What it says.
        gate: What it waits for.
        after_chunks: How many events of a stream come before the wait; it waits before the last one at the latest.
    """

    answer: Answer
    gate: Gate
    after_chunks: int = 0

    def plan(self, request: ReceivedRequest) -> Plan:
        return _paused(self.answer.plan(request), Pause(self.after_chunks, self.gate.wait_open))


@dataclass(frozen=True)
class WrongUsage(Answer):
    """The provider charges for what it did, and reports other numbers."""

    answer: Answer
    reported_input: int
    reported_output: int

    def plan(self, request: ReceivedRequest) -> Plan:
        return replace(self.answer.plan(request), reported=Usage(self.reported_input, self.reported_output))


@dataclass(frozen=True)
class NoUsage(Answer):
    """The provider does not say what was used, in a stream neither; it charges for it."""

    answer: Answer

    def plan(self, request: ReceivedRequest) -> Plan:
        return replace(self.answer.plan(request), reported=None)


@dataclass(frozen=True)
class Overbill(Answer):
    """The provider charges and reports a number of output tokens, whatever the request allowed."""

    answer: Answer
    output_tokens: int

    def plan(self, request: ReceivedRequest) -> Plan:
        plan = self.answer.plan(request)
        if plan.billed is None:
            raise ValueError(f"{self.answer} is not billed; overbill an answer that is")
        usage = replace(plan.billed, output_tokens=self.output_tokens)
        return replace(plan, billed=usage, reported=usage)


def _complete(
    request: ReceivedRequest, completion: Completion, output_tokens: int, input_tokens: int | None = None
) -> Plan:
    """Answer as often as the request wants, and charge for it."""
    input_tokens = count_input_tokens(request.body) if input_tokens is None else input_tokens
    usage = Usage(input_tokens, output_tokens * request.answers)
    return Plan(completion, billed=usage, reported=usage)


def _paused(plan: Plan, pause: Pause) -> Plan:
    return replace(plan, pauses=[pause, *plan.pauses])


def _first_characters(calls: Sequence[tuple[str, str]], characters: int) -> list[tuple[str, str]]:
    """Keep the calls whose names fit into so many characters, the last one with a part of its arguments."""
    kept: list[tuple[str, str]] = []
    for name, arguments in calls:
        if len(name) > characters:
            break
        characters -= len(name)
        kept.append((name, arguments[:characters]))
        characters -= len(kept[-1][1])
    return kept


def _error_type(status: int) -> str:
    match status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
        case _:
            return "server_error" if status >= 500 else "invalid_request_error"


# The wire


def _usage_json(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _tool_call_json(request: ReceivedRequest, index: int, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{request.number}_{index}", "type": "function", "function": function}


def _envelope(request: ReceivedRequest, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{request.number}", "object": kind, "created": _CREATED_AT, "model": request.model}


def _whole_answer(request: ReceivedRequest, completion: Completion, reported: Usage | None) -> str:
    message: dict[str, Any] = {"role": "assistant", "content": completion.text, "refusal": None}
    if completion.tool_calls:
        message["tool_calls"] = [
            _tool_call_json(request, index, name, arguments)
            for index, (name, arguments) in enumerate(completion.tool_calls)
        ]
    choice = {"message": message, "logprobs": None, "finish_reason": completion.finish_reason}
    answer = _envelope(request, "chat.completion")
    answer["choices"] = [{"index": index, **choice} for index in range(request.answers)]
    if reported is not None:
        answer["usage"] = _usage_json(reported)
    return _to_json(answer)


def _events(request: ReceivedRequest, completion: Completion, reported: Usage | None) -> Iterator[str]:
    """Yield the data of a stream's events: who speaks, a token each, why it ends, the usage, and the end."""
    envelope = _envelope(request, "chat.completion.chunk")
    if request.wants_usage_in_stream:
        envelope["usage"] = None
    for index in range(request.answers):
        for delta in _deltas(request, completion):
            yield _to_json({**envelope, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})
        end: dict[str, Any] = {"index": index, "delta": {}, "finish_reason": completion.finish_reason}
        yield _to_json({**envelope, "choices": [end]})
    if request.wants_usage_in_stream and reported is not None:
        yield _to_json({**envelope, "choices": [], "usage": _usage_json(reported)})
    yield "[DONE]"


def _deltas(request: ReceivedRequest, completion: Completion) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if completion.text is None else "", "refusal": None}
    for token in _tokens(completion.text or ""):
        yield {"content": token}
    for index, (name, arguments) in enumerate(completion.tool_calls):
        yield {"tool_calls": [{"index": index, **_tool_call_json(request, index, name, "")}]}
        for token in _tokens(arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": token}}]}


def _tokens(text: str) -> Iterator[str]:
    for start in range(0, len(text), _CHARACTERS_PER_TOKEN):
        yield text[start : start + _CHARACTERS_PER_TOKEN]


def _pieces(request: ReceivedRequest, plan: Plan) -> list[bytes]:
    """Write a response: with one piece for every event if it is a stream, else in one piece."""
    match plan.content:
        case None:
            return [b""]
        case Reply() as reply:
            return [_whole_response(request, reply, is_cut=plan.cut_after_chunks is not None)]
        case Completion() as completion if request.is_stream:
            return _stream(request, list(_events(request, completion, plan.reported)), plan.cut_after_chunks)
        case Completion() as completion:
            reply = Reply(_whole_answer(request, completion, plan.reported))
            return [_whole_response(request, reply, is_cut=plan.cut_after_chunks is not None)]


def _stream(request: ReceivedRequest, events: Sequence[str], cut_after_chunks: int | None) -> list[bytes]:
    head = _head(request, 200, {"Content-Type": _EVENT_STREAM, "Transfer-Encoding": "chunked"})
    lines = [f"data: {event}\n\n".encode() for event in events]
    chunks = [b"%x\r\n%b\r\n" % (len(line), line) for line in lines]
    if cut_after_chunks is None:
        chunks[-1] += b"0\r\n\r\n"
    first, *others = chunks[:cut_after_chunks] or [b""]
    return [head + first, *others]


def _whole_response(request: ReceivedRequest, reply: Reply, *, is_cut: bool) -> bytes:
    body = reply.text.encode()
    headers = {"Content-Type": reply.content_type, "Content-Length": str(len(body)), **reply.headers}
    return _head(request, reply.status, headers) + (body[: len(body) // 2] if is_cut else body)


def _head(request: ReceivedRequest, status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", f"x-request-id: req-{request.number}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _Reader(asyncio.StreamReader):
    """A reader that tells when the client is gone, without taking a byte of what it may send next."""

    def __init__(self) -> None:
        super().__init__(limit=_MOST_HEADER_BYTES)
        self.client_gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.client_gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.client_gone.set()


@dataclass(slots=True, frozen=True)
class _RawRequest:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


async def _read_request(reader: asyncio.StreamReader) -> _RawRequest | None:
    """Read the next request of a connection; None if the client leaves before it is complete."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        request_line, *header_lines = head.decode("latin-1").strip().split("\r\n")
        method, path, _ = request_line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in header_lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return _RawRequest(method, path, headers, body)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(body))
    except (ValueError, TypeError):
        return {}


def _complaint(request: ReceivedRequest) -> str | None:
    """Say why a request for a completion is refused, or None if it can be answered."""
    missing = [key for key in ("model", "messages") if not request.body.get(key)]
    if missing:
        return f"you must provide: {', '.join(missing)}"
    limit = request.max_output_tokens
    if limit is not None and limit < 1:
        return f"the limit of output tokens is {limit}; it has to be at least 1"
    return None


# The provider


class Provider:
    """A provider of models on loopback, for as long as its `with` block lasts.

    It knows the models that it has a price for; `"model"` is there from the start, for $2 and $8 a million tokens.
    The URL can be reached from other processes, and the bill outlives whoever runs one up.
    All of it may be used from any thread.

    Example:
        ```python
        with Provider() as provider:
            provider.price("small", input_usd_per_mtok="0.15", output_usd_per_mtok="0.60")
            provider.script(HttpError(429, retry_after_s=1), Text("hello"))
            client = AsyncOpenAI(base_url=provider.base_url, api_key="test", max_retries=0)
            ...
            assert provider.total_usd == Decimal("0.00001")
        ```
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards all that follows
        self._prices: dict[str, Price] = {}
        self._script: list[ScriptEntry] = [Text("ok")]
        self._requests: list[ReceivedRequest] = []
        self._bill: list[BilledRequest] = []
        self._in_flight = 0
        self._most_at_once = 0
        self._script_errors: list[Exception] = []
        self._closing = Gate()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._thread = threading.Thread(target=self._run, name="provider", daemon=True)
        host, port = self._socket.getsockname()
        self.base_url = f"http://{host}:{port}/v1"
        """Where clients find the provider; connections wait there from now on."""
        self.price("model", input_usd_per_mtok=2, output_usd_per_mtok=8)

    def __repr__(self) -> str:
        return f"Provider({self.base_url!r}, requests={len(self._requests)}, billed={len(self._bill)})"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close all connections, and raise what a function of the script has raised."""
        self._closing.open()
        self._thread.join()
        if self._script_errors and error is None:
            raise ExceptionGroup("the script of the provider failed", self._script_errors)

    def price(
        self, model: str, *, input_usd_per_mtok: Decimal | int | str, output_usd_per_mtok: Decimal | int | str
    ) -> None:
        """Set what a million tokens of a model cost from now on; the provider offers the model from then on."""
        with self._changed:
            self._prices[model] = Price(Decimal(input_usd_per_mtok), Decimal(output_usd_per_mtok))

    def script(self, *answers: ScriptEntry) -> None:
        """Set what the next requests get, in order of arrival; the last answer is given from then on.

        Args:
            answers: What to answer, or functions that decide it when they see the request.
        """
        if not answers:
            raise ValueError("a script has at least one answer")
        with self._changed:
            self._script = list(answers)

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request that arrived in full, in order of arrival."""
        with self._changed:
            return list(self._requests)

    @property
    def bill(self) -> list[BilledRequest]:
        """What is charged, one line for every request that costs something, in order of arrival."""
        with self._changed:
            return list(self._bill)

    @property
    def total_usd(self) -> Decimal:
        """The exact sum of the bill."""
        with localcontext(_EXACT):
            return sum((billed.cost_usd for billed in self.bill), start=Decimal(0))

    @property
    def most_at_once(self) -> int:
        """The most requests that were in flight at the same time."""
        with self._changed:
            return self._most_at_once

    def wait_arrived(self, requests: int, *, timeout_s: float = 10) -> None:
        """Block until so many requests have arrived, since the start; from a coroutine, use `asyncio.to_thread`.

        Raises:
            TimeoutError: They did not.
        """
        self._wait_until(lambda: len(self._requests) >= requests, f"{requests} requests", timeout_s)

    def wait_abandoned(self, requests: int, *, timeout_s: float = 10) -> None:
        """Block until so many requests have lost their client, since the start.

        Raises:
            TimeoutError: They did not.
        """
        self._wait_until(
            lambda: sum(request.is_abandoned for request in self._requests) >= requests,
            f"{requests} abandoned requests",
            timeout_s,
        )

    def wait_idle(self, *, timeout_s: float = 10) -> None:
        """Block until no request is in flight.

        Raises:
            TimeoutError: One still is.
        """
        self._wait_until(lambda: self._in_flight == 0, "no request in flight", timeout_s)

    def _wait_until(self, condition: Callable[[], bool], wish: str, timeout_s: float) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                raise TimeoutError(f"waited {timeout_s} s for {wish}; there are {len(self._requests)} requests")

    # What follows runs in the thread of the server

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        connections: set[asyncio.Task[None]] = set()

        def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert isinstance(reader, _Reader)
            connection = loop.create_task(self._converse(reader, writer))  # cancelled and awaited below
            connections.add(connection)
            connection.add_done_callback(connections.discard)

        server = await loop.create_server(
            lambda: asyncio.StreamReaderProtocol(_Reader(), connect), sock=self._socket, backlog=_BACKLOG
        )
        try:
            await self._closing.wait_open()
        finally:
            server.close()
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _converse(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until one side closes it."""
        try:
            while (raw := await _read_request(reader)) is not None:
                request, plan = self._accept(raw)
                async with asyncio.TaskGroup() as tasks:
                    sending = tasks.create_task(self._send(request, plan, writer))
                    leaving = tasks.create_task(reader.client_gone.wait())
                    await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
                    sending.cancel()
                    leaving.cancel()
                if request.ended_at_s is None:
                    self._end(request, is_abandoned=True)
                if request.is_abandoned or plan.content is None or plan.cut_after_chunks is not None:
                    return
        finally:
            writer.close()
            with suppress(ConnectionError):  # the client was faster
                await writer.wait_closed()

    def _accept(self, raw: _RawRequest) -> tuple[ReceivedRequest, Plan]:
        """Decide what a request gets, and bill it."""
        request = ReceivedRequest(
            number=len(self._requests) + 1,
            method=raw.method,
            path=raw.path,
            headers=raw.headers,
            body=_parsed(raw.body),
            arrived_at_s=time.monotonic(),
        )
        plan = self._plan(request)
        with self._changed:
            self._requests.append(request)
            if plan.billed is not None:
                cost_usd = self._prices[request.model].cost_usd(plan.billed)
                self._bill.append(BilledRequest(request, plan.billed, cost_usd))
            self._in_flight += 1
            self._most_at_once = max(self._most_at_once, self._in_flight)
            self._changed.notify_all()
        return request, plan

    def _plan(self, request: ReceivedRequest) -> Plan:
        match request.method, request.path:
            case "GET", "/v1/models":
                return Plan(self._list_models())
            case "POST", "/v1/chat/completions" | "/v1/embeddings":
                pass
            case method, path:
                return HttpError(404, f"unknown URL: {method} {path}").plan(request)
        complaint = None if request.path == "/v1/embeddings" else _complaint(request)
        if complaint is not None:
            return HttpError(400, complaint).plan(request)
        if request.model not in self._prices:
            message = f"the model {request.model!r} does not exist; give it a price to offer it"
            return HttpError(404, message, code="model_not_found").plan(request)
        try:
            answer = self._next_answer()
            return (answer if isinstance(answer, Answer) else answer(request)).plan(request)
        except Exception as error:  # the script is the test's own code; raised again when the provider closes
            self._script_errors.append(error)
            return HttpError(500, f"the script failed: {error!r}").plan(request)

    def _list_models(self) -> Reply:
        with self._changed:
            models = sorted(self._prices)
        data = [{"id": model, "object": "model", "created": _CREATED_AT, "owned_by": "test"} for model in models]
        return Reply(_to_json({"object": "list", "data": data}))

    def _next_answer(self) -> ScriptEntry:
        with self._changed:
            return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    async def _send(self, request: ReceivedRequest, plan: Plan, writer: asyncio.StreamWriter) -> None:
        """Send an answer, and end the request just before its last piece: a client that has it all sees it ended."""
        pieces = _pieces(request, plan)
        last = len(pieces) - 1
        for index, piece in enumerate(pieces):
            for pause in plan.pauses:
                if min(pause.after_chunks, last) == index:
                    await pause.wait()
            if index == last:
                self._end(request, is_abandoned=False)
            writer.write(piece)
            with suppress(ConnectionError):  # the reader tells that the client is gone
                await writer.drain()

    def _end(self, request: ReceivedRequest, *, is_abandoned: bool) -> None:
        with self._changed:
            request.ended_at_s = time.monotonic()
            request.is_abandoned = is_abandoned
            self._in_flight -= 1
            self._changed.notify_all()


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider with an empty bill, closed after the test."""
    with Provider() as opened:
        yield opened
