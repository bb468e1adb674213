"""Agents of models under hard limits: what flujo counts is what the provider bills, and never more than the limit."""

import copy
import logging
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, PromptedOutput, RunContext, TextOutput, ToolOutput
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.messages import ImageUrl, ModelResponse, TextPart
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import RequestUsage

from flujo import (
    ConfigurationError,
    Flujo,
    InMemoryBackend,
    OverloadedError,
    PipelineContext,
    PipelineResult,
    PricingNotConfiguredError,
    RateLimitedError,
    RetryLaterError,
    Step,
    UnboundedCallError,
    UsageLimitExceededError,
    UsageLimits,
    ValidationResult,
    make_agent_async,
    set_price,
)
from flujo.agents.prices import reset_prices
from flujo.agents.provider_errors import told_apart
from flujo.domain.money import ZERO
from flujo.domain.results import UNCERTAIN
from tests.agents.calls import assert_calls_add_up
from tests.providers.server import (
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
    Text,
    ToolCalls,
)

_LONG = Text("word " * 400)  # 500 tokens, which cost $0.05 and a little


pytestmark = pytest.mark.usefixtures("prices")


def _usd(limit: float | str | None, **options: Any) -> UsageLimits | None:
    return None if limit is None else UsageLimits(total_cost_usd_limit=Decimal(str(limit)), **options)


async def _run(step: Any, data: Any = "Name a river.", limit: float | str | None = None) -> PipelineResult[Any]:
    """Run to the end, or to the limit; whatever happens, the requests of each step add up to what it cost."""
    try:
        result: PipelineResult[Any] = await Flujo(step, usage_limits=_usd(limit)).run_async(data)
    except UsageLimitExceededError as stopped:
        result = stopped.result
    assert_calls_add_up(result.step_history)
    return result


class City(BaseModel):
    """What structured answers are."""

    name: str
    inhabitants: int


async def test_an_answer_is_charged_what_the_provider_bills(provider: Provider, model: Model[Any]) -> None:
    """The output is the text, and cost and tokens are those of the bill, to the last digit."""
    provider.script(Text("the Rhine"))

    result = await _run(Step("ask", Agent(model, system_prompt="Be brief.")))

    (billed,) = provider.bill
    assert (result.status, result.output, result.total_cost) == ("completed", "the Rhine", provider.total_usd)
    assert result.total_tokens == billed.usage.input_tokens + billed.usage.output_tokens


async def test_tools_and_typed_answers_cost_one_request_each(provider: Provider, model: Model[Any]) -> None:
    """Each request to the model is charged by itself; the output is of the declared type."""
    agent = Agent(model, output_type=City)
    provider.script(
        ToolCalls([("upper", '{"word": "bonn"}')]),
        ToolCalls([("final_result", '{"name": "BONN", "inhabitants": 330000}')]),
    )

    @agent.tool_plain
    def upper(word: str) -> str:
        return word.upper()

    result = await _run(Step("ask", agent), limit=1)

    assert result.output == City(name="BONN", inhabitants=330_000)
    assert len(provider.bill) == 2
    assert result.total_cost == provider.total_usd > 0


async def test_what_a_model_has_to_say_again_is_charged_too(provider: Provider, model: Model[Any]) -> None:
    """Malformed JSON costs a request; so does the answer to it."""
    provider.script(BadJson(), ToolCalls([("final_result", '{"name": "Bonn", "inhabitants": 1}')]))

    result = await _run(Step("ask", Agent(model, output_type=City)), limit=1)

    assert result.output == City(name="Bonn", inhabitants=1)
    assert len(provider.bill) == 2
    assert result.total_cost == provider.total_usd


@pytest.mark.parametrize("calls", [1, 5, 20, 100])
@pytest.mark.parametrize("limit", ["0.06", "0.3", "1"])
async def test_calls_at_once_never_cost_more_than_the_limit(
    provider: Provider, model: Model[Any], calls: int, limit: str
) -> None:
    """However many branches call at once, the bill stays within the limit, and nearly all of it can be spent."""
    provider.script(_LONG)
    branches = {str(number): Step("ask", Agent(model), max_retries=0) for number in range(calls)}

    result = await _run(Step.parallel("all", branches), limit=limit)

    needed = calls * Decimal("0.0502")
    assert provider.total_usd <= Decimal(limit)
    assert result.total_cost == provider.total_usd
    if needed > Decimal(limit):  # the last one may have been made smaller
        assert result.status == "stopped" or len(provider.bill) == calls
        assert provider.total_usd >= Decimal("0.95") * Decimal(limit)
    else:
        assert (result.status, len(provider.bill)) == ("completed", calls)


async def test_a_call_gets_no_more_output_than_is_left(provider: Provider, model: Model[Any]) -> None:
    """`max_tokens` is lowered to what is affordable, and what the model then says is the output."""
    provider.script(_LONG)

    result = await _run(Step("ask", Agent(model)), limit="0.02")

    (request,) = provider.requests
    assert 100 < request.max_output_tokens < 200  # type: ignore[operator]  # there is a limit
    assert result.status == "completed"
    assert 0 < result.total_cost == provider.total_usd <= Decimal("0.02")


async def test_the_settings_of_the_agent_hold(provider: Provider, model: Model[Any]) -> None:
    """A smaller `max_tokens` of the user's stays, and without any limit nothing is added."""
    provider.script(_LONG)

    await _run(Step("ask", Agent(model, model_settings={"max_tokens": 7}), temperature=0.5), limit=1)
    await _run(Step("ask", Agent(model)))

    limited, free = provider.requests
    assert (limited.max_output_tokens, limited.body["temperature"]) == (7, 0.5)
    assert free.max_output_tokens is None


async def test_a_refused_call_is_never_made(provider: Provider, model: Model[Any]) -> None:
    """What is left does not pay for the shortest answer: the run stops, says why, and can go on with more."""
    result = await _run(Step("ask", Agent(model)), limit="0.001")

    assert result.status == "stopped"
    assert provider.requests == []
    (refused,) = result.step_history
    assert (refused.status, refused.cost) == ("stopped", ZERO)
    assert "refused: the run has $0.001 left to spend, and the next call may cost $0.00" in (refused.feedback or "")


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_http_error_costs_nothing_and_is_tried_again(
    provider: Provider, model: Model[Any], status: int
) -> None:
    """The client itself does not retry; the step does, and is charged for the answer alone."""
    provider.script(HttpError(status), Text("fine"))

    result = await _run(Step("ask", Agent(model), max_retries=1), limit=1)

    assert (result.output, result.step_history[0].attempts) == ("fine", 2)
    assert len(provider.requests) == 2
    assert result.total_cost == provider.total_usd


async def test_models_that_stand_in_for_each_other_are_charged_each(provider: Provider, model: Model[Any]) -> None:
    """The first one that answers is the one that is paid."""
    provider.price("spare", input_usd_per_mtok=1, output_usd_per_mtok=2)
    set_price("openai:spare", input_usd_per_mtok=1, output_usd_per_mtok=2)
    assert isinstance(model, OpenAIChatModel)
    spare = OpenAIChatModel("spare", provider=OpenAIProvider(openai_client=model.client))
    provider.script(HttpError(503), Text("fine"))

    result = await _run(Step("ask", Agent(FallbackModel(model, spare))), limit=1)

    assert [request.model for request in provider.requests] == ["model", "spare"]
    assert (result.output, result.total_cost) == ("fine", provider.total_usd)


async def test_retry_after_is_heeded(provider: Provider, model: Model[Any]) -> None:
    """The next attempt comes when the provider said, and not before."""
    provider.script(HttpError(429, retry_after_s=1), Text("fine"))

    result = await _run(Step("ask", Agent(model), max_retries=1))

    first, second = provider.requests
    assert result.output == "fine"
    assert second.arrived_at_s - first.arrived_at_s >= 1


async def test_nobody_waits_for_hours(provider: Provider, model: Model[Any]) -> None:
    """A step whose provider asks for more than five minutes fails at once, and says so."""
    provider.script(HttpError(429, retry_after_s=3_600))

    result = await _run(Step("ask", Agent(model), max_retries=3))

    assert (result.status, len(provider.requests)) == ("failed", 1)
    assert "the next attempt would wait 3600 s, and none waits more than 300 s" in (
        result.step_history[0].feedback or ""
    )


@pytest.mark.parametrize(
    ("error", "feedback"),
    [
        (HttpError(401), "BadCredentialsError: bad credentials: "),
        (HttpError(403), "BadCredentialsError: bad credentials: "),
        (
            HttpError(400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
            "ContextTooLongError: the input is longer than the model takes: ",
        ),
        (
            HttpError(429, "You exceeded your current quota", "insufficient_quota"),
            "QuotaExceededError: the quota of the account is used up: ",
        ),
        (HttpError(404, "no such model", "model_not_found"), "NonRetryableError: the provider rejects the request: "),
        (HttpError(422), "NonRetryableError: the provider rejects the request: "),
    ],
    ids=["key", "permission", "context", "quota", "model", "request"],
)
async def test_what_would_only_fail_again_is_not_tried_again(
    provider: Provider, model: Model[Any], error: HttpError, feedback: str
) -> None:
    """The step fails at once and says of what kind the error is; its fallback runs."""
    provider.script(error, Text("fine"))
    step = Step("ask", Agent(model), max_retries=3).fallback(Step("spare", Agent(model)))

    result = await _run(step, limit=1)

    assert (result.output, len(provider.requests)) == ("fine", 2)
    assert result.step_history[0].metadata_["original_error"].startswith(feedback)
    assert result.total_cost == provider.total_usd


@pytest.mark.parametrize(
    ("error", "kind"),
    [(HttpError(429), RateLimitedError), (HttpError(503), OverloadedError), (HttpError(529), OverloadedError)],
    ids=["rate limit", "unavailable", "overloaded"],
)
async def test_what_may_pass_is_tried_again_later(
    provider: Provider, model: Model[Any], error: HttpError, kind: type[RetryLaterError]
) -> None:
    """After a second, if the provider does not say when."""
    provider.script(error, Text("fine"))

    result = await _run(Step("ask", Agent(model), max_retries=1))

    first, second = provider.requests
    assert result.output == "fine"
    assert second.arrived_at_s - first.arrived_at_s >= 1

    provider.script(error)
    with pytest.raises(kind), told_apart("text"):
        await Agent(model).run("go", model_settings={"max_retries": 0})


async def test_a_key_that_a_provider_repeats_is_seen_nowhere(
    provider: Provider, model: Model[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the result nor in a log, whatever its level, nor in what is stored."""
    key = "sk-proj-1234567890abcdef"
    provider.script(HttpError(401, f"Incorrect API key provided: {key}. Find yours at the dashboard."))
    store = InMemoryBackend()

    with caplog.at_level(logging.DEBUG, logger="flujo"):
        result = await Flujo(Step("ask", Agent(model)), state_backend=store).run_async("x", run_id="run")

    feedback = result.step_history[0].feedback or ""
    assert "bad credentials" in feedback
    assert "provided: [secret]" in feedback
    assert key not in feedback + caplog.text + repr(await store.load("run"))


class _Counting(FunctionModel):
    """A model that counts a token for every four characters, as its provider does."""

    counts = 0

    async def count_tokens(self, messages: Any, model_settings: Any, model_request_parameters: Any) -> RequestUsage:
        self.counts += 1
        return RequestUsage(input_tokens=len(messages[0].parts[0].content) // 4)


async def test_a_long_input_is_counted_if_it_seems_too_dear() -> None:
    """A token is mostly more than one byte, so that more fits than seems to; what fits anyway is not counted."""
    set_price("function:counting", input_usd_per_mtok=10, output_usd_per_mtok=100)

    def answer(messages: Any, info: Any) -> ModelResponse:
        return ModelResponse([TextPart("fine")], usage=RequestUsage(input_tokens=10_000, output_tokens=2))

    model = _Counting(answer, model_name="counting")
    step = Step("ask", Agent(model, model_settings={"max_tokens": 100}))
    text = "word" * 10_000  # $0.40 if every byte were a token, and $0.10 in truth

    poor, rich = await _run(step, text, limit=0.2), await _run(step, text, limit=1)
    broke = await _run(step, text, limit=0.05)

    assert [result.status for result in (poor, rich, broke)] == ["completed", "completed", "stopped"]
    assert model.counts == 2


async def test_tools_of_the_provider_need_a_bound_of_the_users(model: Model[Any]) -> None:
    """Nobody knows what they cost; the error names the tool and what to do."""
    agent = Agent(TestModel(), capabilities=[NativeTool(WebSearchTool())])

    with pytest.raises(UnboundedCallError, match=r"tool 'web_search' costs.*max_cost_usd"):
        await Flujo(Step("ask", agent), usage_limits=UsageLimits(total_tokens_limit=10_000)).run_async("x")


async def test_models_that_all_failed_are_one_error(provider: Provider, model: Model[Any]) -> None:
    """It is tried again if one of them may answer later, and shows no key."""
    spare = copy.copy(model)
    provider.script(HttpError(401, "wrong key: test-key-1234"), HttpError(429, retry_after_s=0.1), Text("fine"))
    models = FallbackModel(model, spare)

    result = await Flujo(Step("ask", Agent(models), max_retries=1)).run_async("x")
    assert (result.output, len(provider.requests)) == ("fine", 3)

    provider.script(HttpError(401, "wrong key: sk-test-key-1234"))
    refused = await Flujo(Step("ask", Agent(models), max_retries=3)).run_async("x")

    assert (refused.status, len(provider.requests)) == ("failed", 5)
    feedback = refused.step_history[0].feedback or ""
    assert feedback.startswith("NonRetryableError: all models failed: ")
    assert "1234" not in feedback


async def test_an_attempt_in_doubt_is_charged_as_a_whole(provider: Provider, model: Model[Any]) -> None:
    """Nobody knows what a request with a picture has cost that got no answer: no more than the user said."""
    provider.script(Hangup(Text("fine")), Text("fine"))
    step = Step("ask", Agent(model), max_cost_usd=0.5, max_retries=1)

    result = await _run(step, ["What is it?", ImageUrl("https://example.com/a.png")], limit=1)

    assert result.status == "completed"
    assert result.total_cost == Decimal("0.5") + provider.bill[1].cost_usd
    assert result.step_history[0].metadata_[UNCERTAIN] == Decimal("0.5")
    assert sum((call.cost for call in result.step_history[0].calls), ZERO) == result.total_cost


# Malformed answers


@pytest.mark.parametrize(
    "said",
    [
        '```json\n{"name": "Bonn", "inhabitants": 330000}\n```',
        'Here it is: {"name": "Bonn", "inhabitants": 330000}. Anything else?',
        '{"name": "Bonn", "inhabitants": 330000,}',
        "{'name': 'Bonn', 'inhabitants': 330000}",
        '{name: "Bonn", inhabitants: 330000}',
        '{"name": "Bonn", "inhabitants": 330000 /* about */}',
        "{\u201cname\u201d: \u201cBonn\u201d, \u201cinhabitants\u201d: 330000}",
        '"{\\"name\\": \\"Bonn\\", \\"inhabitants\\": 330000}"',
        '{"name": "Bonn", "inhabitants": 330000}}',
    ],
    ids=["fence", "prose", "comma", "Python", "bare keys", "comment", "quotes", "twice", "bracket"],
)
@pytest.mark.parametrize("by", ["tool", "text"])
async def test_malformed_json_is_repaired_and_not_paid_for_twice(
    provider: Provider, model: Model[Any], said: str, by: str
) -> None:
    """One request is made, and the answer is what the model meant."""
    provider.script(ToolCalls([("final_result", said)]) if by == "tool" else Text(said))
    output_type: Any = City if by == "tool" else PromptedOutput(City)

    result = await _run(Step("ask", Agent(model, output_type=output_type)), limit=1)

    assert result.output == City(name="Bonn", inhabitants=330_000)
    assert len(provider.bill) == 1


async def test_malformed_arguments_of_a_tool_are_repaired(provider: Provider, model: Model[Any]) -> None:
    """The tool is called with what the model meant."""
    agent, words = Agent(model), list[str]()
    provider.script(ToolCalls([("note", "{'word': 'bonn',}")]), Text("noted"))

    @agent.tool_plain
    def note(word: str) -> str:
        words.append(word)
        return "ok"

    result = await _run(Step("ask", agent), limit=1)

    assert (result.output, words, len(provider.bill)) == ("noted", ["bonn"], 2)


@pytest.mark.parametrize(
    "said",
    [
        '{"name": "Bonn", "inhabitants": 33',
        '{"name": "Bo',
        '{"name": "Bonn", "inhabitants',
        '{"name": "Bonn", "inhabitants": 330000, "note',
        "no JSON at all",
        '{"name": "Bonn", "inhabitants": "many"}',
    ],
)
async def test_what_is_not_said_is_not_made_up(provider: Provider, model: Model[Any], said: str) -> None:
    """The model is asked again, as it is for JSON that is valid and does not fit."""
    provider.script(
        ToolCalls([("final_result", said)]), ToolCalls([("final_result", '{"name": "Bonn", "inhabitants": 1}')])
    )

    result = await _run(Step("ask", Agent(model, output_type=City)), limit=1)

    assert result.output == City(name="Bonn", inhabitants=1)
    assert len(provider.bill) == 2


async def test_an_answer_that_was_cut_off_is_not_completed(provider: Provider, model: Model[Any]) -> None:
    """Though its brackets could be closed: there was more to come."""

    class Cities(BaseModel):
        cities: list[City]

    said = '{"cities": [{"name": "Bonn", "inhabitants": 1}, {"name": "Trier", "inhabitants": 2}, {"name": "Ulm"'
    agent = Agent(model, output_type=PromptedOutput(Cities), model_settings={"max_tokens": 12}, retries=0)
    provider.script(Text(said))

    result = await _run(Step("ask", agent, max_retries=0), limit=1)

    assert result.status == "failed"


async def test_an_answer_that_never_fits_is_an_error_of_its_own(provider: Provider, model: Model[Any]) -> None:
    """It names the type, and what did not fit; the attempt may be made again."""
    provider.script(*[ToolCalls([("final_result", '{"name": "Bonn"}')])] * 4)

    result = await _run(Step("ask", Agent(model, output_type=City), max_retries=1), limit=1)

    feedback = result.step_history[0].feedback or ""
    assert feedback.startswith("AgentIOValidationError: the model gave no City: Exceeded maximum output retries (1)")
    assert "inhabitants" in feedback
    assert len(provider.bill) == 4
    assert result.total_cost == provider.total_usd


@pytest.mark.parametrize("answer", [Hangup(_LONG), Malformed(), NoUsage(_LONG)], ids=["hang-up", "no JSON", "no usage"])
async def test_a_call_that_nobody_knows_the_cost_of_is_charged_in_full(
    provider: Provider, model: Model[Any], answer: Any
) -> None:
    """What was reserved counts, marked as uncertain, so that the limit holds whatever the provider bills."""
    provider.script(answer)

    result = await _run(Step("ask", Agent(model), max_retries=0), limit="0.1")

    (step,) = result.step_history
    assert provider.total_usd <= result.total_cost <= Decimal("0.1")
    assert step.metadata_["uncertain_cost_usd"] == result.total_cost


async def test_a_provider_that_bills_too_much_breaches_the_limit(provider: Provider, model: Model[Any]) -> None:
    """The truth is counted, the output that was paid for is kept, and the run stops."""
    provider.script(Overbill(_LONG, 3_000))

    result = await _run(Step("ask", Agent(model)), limit="0.1")

    assert result.status == "stopped"
    assert result.total_cost == provider.total_usd > Decimal("0.1")
    assert result.step_history[0].output


async def test_a_cancelled_call_is_charged_in_full(provider: Provider, model: Model[Any]) -> None:
    """The provider may bill what it was asked for, whoever still waits for the answer."""
    gate = Gate()
    provider.script(Held(_LONG, gate))
    runner = Flujo(Step("ask", Agent(model), timeout_s=0.1, max_retries=0), usage_limits=_usd("0.1"))

    result = await runner.run_async("go")
    gate.open()

    (step,) = result.step_history
    assert step.metadata_["uncertain_cost_usd"] == result.total_cost > 0


async def test_text_is_streamed_and_charged(provider: Provider, model: Model[Any]) -> None:
    """Pieces come as the provider sends them, and the bill is that of the whole."""
    provider.script(Text("one two three four five six"))
    runner: Flujo[Any, Any] = Flujo(Step("ask", Agent(model)), usage_limits=_usd(1))

    *pieces, result = [item async for item in runner.run_async("go")]

    assert len(pieces) > 1
    assert "".join(pieces) == result.output == "one two three four five six"
    assert result.total_cost == provider.total_usd


@pytest.mark.parametrize("by", ["tool", "text"])
async def test_a_value_is_streamed_as_far_as_it_has_come(provider: Provider, model: Model[Any], by: str) -> None:
    """Each time there is more of it; the last one is the output, and its cost is that of the bill."""
    said = '{"names": ["Rhine", "Elbe", "Danube and its tributaries"], "count": 3}'
    provider.script(ToolCalls([("final_result", said)]) if by == "tool" else Text(said))

    class Rivers(BaseModel):
        names: list[str]
        count: int = 0

    agent = Agent(model, output_type=Rivers if by == "tool" else PromptedOutput(Rivers))
    runner: Flujo[Any, Any] = Flujo(Step("ask", agent), usage_limits=_usd(1))

    *values, result = [item async for item in runner.run_async("go")]

    whole = Rivers(names=["Rhine", "Elbe", "Danube and its tributaries"], count=3)
    assert len(values) > 1
    assert all(isinstance(value, Rivers) for value in values)
    assert [len(value.names) for value in values] == sorted(len(value.names) for value in values)
    assert values[-1] == result.output == whole
    assert (len(provider.bill), result.total_cost) == (1, provider.total_usd)


async def test_a_value_that_does_not_fit_is_asked_for_again_while_it_streams(
    provider: Provider, model: Model[Any]
) -> None:
    """After its tools have run; every request is charged."""
    provider.script(
        ToolCalls([("look", "{}")]),
        ToolCalls([("final_result", '{"name": "Bonn", "inhabitants": "many"}')]),
        ToolCalls([("final_result", '{"name": "Bonn", "inhabitants": 5}')]),
    )
    agent = Agent(model, output_type=City)

    @agent.tool_plain
    def look() -> str:
        return "seen"

    runner: Flujo[Any, Any] = Flujo(Step("ask", agent), usage_limits=_usd(1))
    *values, result = [item async for item in runner.run_async("go")]

    assert values[-1] == result.output == City(name="Bonn", inhabitants=5)
    assert (len(provider.bill), result.total_cost) == (3, provider.total_usd)


@pytest.mark.parametrize("kind", ["function", "tool", "list", "text", "class"])
async def test_a_function_of_the_answer_runs_once_while_it_streams(
    provider: Provider, model: Model[Any], kind: str
) -> None:
    """It may send or pay something, so it does not get what has come so far."""
    said = '{"name": "Bonn", "inhabitants": 5}'
    provider.script(Text(said) if kind == "text" else ToolCalls([("final_result", said)]))
    given = list[object]()

    def send(city: City) -> str:
        given.append(city)
        return "sent"

    def read(text: str) -> str:
        given.append(text)
        return "sent"

    output: Any = {"function": send, "tool": ToolOutput(send, name="final_result"), "text": TextOutput(read)}.get(kind)
    agent = Agent(model, output_type=[send] if kind == "list" else City if kind == "class" else output)
    runner: Flujo[Any, Any] = Flujo(Step("ask", agent), usage_limits=_usd(1))

    *values, result = [item async for item in runner.run_async("go")]

    if kind == "class":
        assert values == [City(name="Bonn", inhabitants=5)], "the whole is not given twice"
    else:
        assert (values, result.output, len(given)) == ([], "sent", 1)
    assert (len(provider.bill), result.total_cost) == (1, provider.total_usd)


async def test_a_prompt_is_the_same_in_every_process(provider: Provider, model: Model[Any]) -> None:
    """A set in it has an order, so that a stored run finds what it was answered."""
    await Flujo(Step("ask", Agent(model))).run_async({"tags": set("hgfedcba")})

    assert provider.requests[0].body["messages"][-1]["content"] == '{"tags":["a","b","c","d","e","f","g","h"]}'


async def test_a_stream_that_is_cut_is_charged_in_full(provider: Provider, model: Model[Any]) -> None:
    """Nobody knows what the provider bills for it."""
    provider.script(Cut(_LONG, after_chunks=2))
    runner = Flujo(Step("ask", Agent(model), max_retries=0), usage_limits=_usd("0.1"))

    result = [item async for item in runner.run_async("go")][-1]

    assert result.status == "failed"
    assert provider.total_usd <= result.total_cost <= Decimal("0.1")


async def test_a_model_without_a_price_is_refused_under_a_limit_in_dollars(
    provider: Provider, model: Model[Any]
) -> None:
    """The error names the model and the call that gives it a price; without a limit only its tokens count."""
    reset_prices()

    with pytest.raises(PricingNotConfiguredError, match=r"set_price\('openai:model'") as refused:
        await Flujo(Step("ask", Agent(model)), usage_limits=_usd(1)).run_async("go")
    assert refused.value.model == "openai:model"
    assert provider.requests == []
    result = await _run(Step("ask", Agent(model)))

    assert (result.status, result.total_cost) == ("completed", ZERO)
    assert result.total_tokens > 0


async def test_a_missing_price_is_found_before_the_run(model: Model[Any]) -> None:
    """No step has begun, wherever in the workflow the model is, and whatever limit is around it."""
    reset_prices()
    begun = list[str]()

    async def begin(text: str) -> str:
        begun.append(text)
        return text

    ask = Step.parallel("both", {"a": Step("ask", Agent(FallbackModel(TestModel(), model)))})
    loop: Any = Step.loop_until("loop", ask, lambda output, context: True, usage_limits=_usd(1))
    runners: list[Flujo[Any, Any]] = [
        Flujo(Step("begin", begin) >> ask, usage_limits=_usd(1)),
        Flujo(Step("begin", begin) >> loop),
    ]
    for runner in runners:
        with pytest.raises(PricingNotConfiguredError):
            await runner.run_async("go")

    assert begun == []
    assert (await Flujo(Step("ask", Agent(TestModel())), usage_limits=_usd(1, mode="after")).run_async("go")).success


async def test_tokens_are_limited_like_dollars(provider: Provider, model: Model[Any]) -> None:
    """A limit in tokens needs no price, and holds over input and output together."""
    reset_prices()
    provider.script(_LONG)
    limits = UsageLimits(total_tokens_limit=300)

    result = await Flujo(Step("ask", Agent(model)), usage_limits=limits).run_async("Name a river.")

    assert result.status == "completed"
    assert 100 < result.total_tokens <= 300


async def test_files_need_a_bound_of_the_users(provider: Provider, model: Model[Any]) -> None:
    """Nobody knows how many tokens an image is; `max_cost_usd` says what the call costs at the most."""
    image: list[ImageUrl | str] = [ImageUrl("https://example.com/a.png"), "What is this?"]
    with pytest.raises(UnboundedCallError, match=r"how many tokens a ImageUrl is.*max_cost_usd"):
        await Flujo(Step("look", Agent(model)), usage_limits=_usd(1)).run_async(image)
    assert provider.requests == []

    result = await _run(Step("look", Agent(model), max_cost_usd=0.5), image, limit=1)
    dear = await _run(Step("look", Agent(model), max_cost_usd=2), image, limit=1)

    assert (result.status, result.total_cost) == ("completed", provider.total_usd)
    assert (dear.status, len(provider.requests)) == ("stopped", 1)


async def test_limits_that_are_checked_afterwards_let_every_call_through(provider: Provider, model: Model[Any]) -> None:
    """With `mode="after"` calls are as the user made them, and the breach is found behind them."""
    provider.script(_LONG)

    with pytest.raises(UsageLimitExceededError, match=r"the run passed its limit of \$0.01: \$0.05"):
        await Flujo(Step("ask", Agent(model)), usage_limits=_usd("0.01", mode="after")).run_async("go")

    assert provider.requests[0].max_output_tokens is None


async def test_a_step_that_falls_back_has_its_limit_for_both(provider: Provider, model: Model[Any]) -> None:
    """What the primary has spent is not there for the fallback."""
    provider.script(Text("x" * 400), _LONG)
    primary = Step("primary", Agent(model), validators=[_Never()], max_retries=0, usage_limits=_usd("0.03"))
    primary.fallback(Step("fallback", Agent(model)))

    result = await _run(primary)

    assert len(provider.bill) == 2
    assert result.total_cost == provider.total_usd <= Decimal("0.03")


class _Never:
    name = "never"

    async def validate(self, output: Any, context: Any = None) -> ValidationResult:
        return ValidationResult(is_valid=False, feedback="no", validator_name=self.name)


async def test_tools_depend_on_the_context_or_the_resources() -> None:
    """The agent's dependencies are whichever of the two is of the declared type."""

    class Notes(PipelineContext):
        word: str = "river"

    seen = list[Any]()
    agent: Agent[Notes, str] = Agent(TestModel(), deps_type=Notes)

    @agent.tool
    def look(context: RunContext[Notes]) -> str:
        seen.append(context.deps.word)
        return context.deps.word

    await Flujo(Step("ask", agent), context_model=Notes).run_async("go")

    assert seen == ["river"]


async def test_an_agent_is_made_by_the_name_of_its_model(provider: Provider) -> None:
    """A base URL leads to any server that speaks as OpenAI's does."""
    provider.script(Text("yes"))
    agent = make_agent_async("openai:model", "Answer yes.", base_url=provider.base_url, max_tokens=9)

    result = await _run(Step("ask", agent), limit=1)
    assert isinstance(agent.model, OpenAIChatModel)
    await agent.model.client.close()

    (request,) = provider.requests
    assert (result.output, result.total_cost) == ("yes", provider.total_usd)
    assert request.max_output_tokens == 9
    with pytest.raises(ConfigurationError, match="no agent can be made of the model 'nonsense'"):
        make_agent_async("nonsense")


async def test_a_mistake_of_one_agent_hurts_no_other(provider: Provider, model: Model[Any]) -> None:
    """Steps that run at once share the limit, and each has its own output."""

    def echo(request: ReceivedRequest) -> Text:
        return Text(str(request.body["messages"][-1]["content"]))

    provider.script(echo)
    branches = {name: Step("ask", Agent(model)) for name in ("a", "b", "c")}

    result = await _run(Step.map_over("each", Step("ask", Agent(model))), list(branches), limit=1)

    assert result.output == ["a", "b", "c"]
    assert result.total_cost == provider.total_usd
