"""Agents of models that run within a step, wherever, are paid by it: reserved, charged, kept and shown."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import pytest
from pydantic_ai import Agent
from pydantic_ai.direct import model_request, model_request_batch
from pydantic_ai.embeddings import Embedder, TestEmbeddingModel
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models import Model
from pydantic_ai.models.batch import BatchRequest
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from flujo import (
    AgentProcessors,
    Flujo,
    InMemoryBackend,
    PipelineResult,
    PluginOutcome,
    PricingNotConfiguredError,
    Step,
    UnboundedCallError,
    UsageLimits,
    ValidationResult,
    make_agent_async,
    set_price,
)
from flujo.agents.prices import reset_prices
from flujo.cli.stored_steps import stored_steps
from flujo.domain.budgets import Budget
from flujo.domain.money import add_usd, exact_usd
from tests.agents.calls import assert_calls_add_up
from tests.integration.paid import ended
from tests.providers.server import Provider, ReceivedRequest, Text, ToolCalls

_MAX_TOKENS = 50
_MOST = Decimal("0.06")  # that one request may cost; most of it is for its output


class _Killed(BaseException):
    """Stands for the end of the process."""


@dataclass
class _Mind:
    """A model that says what it is asked to say, and bills for it.

    Attributes:
        dies_at: Which of the requests kills the process, counted from 0.
        answered: What it was asked, in order.
        bill: What it has billed for, in dollars.
    """

    dies_at: int = -1
    answered: list[str] = field(default_factory=list[str])
    bill: Decimal = Decimal(0)

    def agent(self) -> Agent[None, str]:
        """Return an agent that asks it, made as pydantic-ai's documentation says."""
        return Agent(FunctionModel(self._answer, model_name="mind"), model_settings={"max_tokens": _MAX_TOKENS})

    async def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        part = messages[-1].parts[-1]
        asked = str(getattr(part, "content", ""))
        if len(self.answered) == self.dies_at:
            self.dies_at = -1
            raise _Killed
        self.answered.append(asked)
        usage = RequestUsage(input_tokens=len(asked), output_tokens=2)
        self.bill = add_usd(self.bill, Decimal(len(asked)) / 100_000 + Decimal("0.002"))
        if info.function_tools and not isinstance(part, ToolReturnPart):
            return ModelResponse([ToolCallPart(info.function_tools[0].name, {"question": asked})], usage=usage)
        return ModelResponse([TextPart(f"on {asked}")], usage=usage)


@pytest.fixture(autouse=True)
def _prices() -> Iterator[None]:
    set_price("function:mind", input_usd_per_mtok=10, output_usd_per_mtok=1000)
    yield
    reset_prices()


Ask = Callable[[str], Awaitable[Any]]


class _Asks:
    """A processor, a plugin and a validator that ask a model first."""

    def __init__(self, ask: Ask, about: str, *, refuses_first: bool = False) -> None:
        self.ask, self.about, self.refuses_first = ask, about, refuses_first

    async def process(self, data: Any, context: Any) -> Any:
        await self.ask(f"{self.about} {data}")
        return data


class _Plugin(_Asks):
    async def validate(self, data: dict[str, Any]) -> PluginOutcome:
        await self.ask(f"{self.about} {data['output']}")
        return PluginOutcome(success=True)


class _Validator(_Asks):
    name = "judge"

    async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
        said = await self.ask(f"{self.about} {output}")
        is_first = "previous" not in str(said)
        return ValidationResult(is_valid=not (self.refuses_first and is_first), feedback="no", validator_name=self.name)


def _step_that_asks(where: str, ask: Ask) -> Step[Any, Any]:
    """Return a step that asks a model in one place of it."""

    async def function(data: str) -> str:
        return data

    match where:
        case "function":

            async def asks(data: str) -> str:
                return str(await ask(f"function {data}"))

            return Step("step", asks)
        case "branches of a function":

            async def at_once(data: str) -> str:
                return str(await asyncio.gather(*(ask(f"{number} {data}") for number in range(3))))

            return Step("step", at_once)
        case "task of a function":

            async def in_task(data: str) -> str:
                return str(await asyncio.create_task(_awaited(ask(data))))

            return Step("step", in_task)
        case "prompt processor":
            return Step("step", function, processors=AgentProcessors(prompt_processors=[_Asks(ask, "prompt")]))
        case "output processor":
            return Step("step", function, processors=AgentProcessors(output_processors=[_Asks(ask, "output")]))
        case "plugin":
            return Step("step", function, plugins=[(_Plugin(ask, "plugin"), 0)])
        case _:
            return Step("step", function, validators=[_Validator(ask, "validator")])


async def _awaited(given: Awaitable[Any]) -> Any:
    return await given


PLACES = (
    *("function", "branches of a function", "task of a function"),
    *("prompt processor", "output processor", "plugin", "validator"),
)


def _limit(usd: Decimal | float | None) -> UsageLimits | None:
    return None if usd is None else UsageLimits(total_cost_usd_limit=usd)


async def _run(step: Any, limit: Decimal | float | None = None, **settings: Any) -> PipelineResult[Any]:
    """Run to the end or to the limit; what was metered of a step adds up to what it cost."""
    runner: Flujo[Any, Any] = Flujo(step, usage_limits=_limit(limit), **settings)
    result = await ended(runner.run_async("rivers", run_id="run"))
    if result.step_history[0].calls:
        assert_calls_add_up(result.step_history)
    return result


@pytest.mark.parametrize("where", PLACES)
async def test_what_runs_within_a_step_is_charged(where: str) -> None:
    """Each request is shown by itself; they add up to the bill."""
    mind = _Mind()
    result = await _run(_step_that_asks(where, mind.agent().run))

    assert result.status == "completed"
    assert result.total_cost == mind.bill > 0
    assert len(result.step_history[0].calls) == len(mind.answered)
    assert {call.label for call in result.step_history[0].calls} == {"function:mind"}


@pytest.mark.parametrize("where", PLACES)
async def test_what_runs_within_a_step_is_reserved(where: str) -> None:
    """What could pass a limit is not asked; the step is stopped, and not failed."""
    mind = _Mind()

    result = await _run(_step_that_asks(where, mind.agent().run), limit=0.015)

    assert result.status == "stopped"
    assert "refused" in (result.step_history[0].feedback or "")
    assert mind.bill == result.total_cost == 0


@pytest.mark.parametrize("where", PLACES)
async def test_what_runs_within_a_step_counts_in_budgets(where: str) -> None:
    """Budgets that runs share have each request, too."""
    mind, backend = _Mind(), InMemoryBackend()

    await _run(_step_that_asks(where, mind.agent().run), state_backend=backend, budgets=[Budget("team", usd=1)])

    status = await backend.budget_status("team")
    assert (status.spent.usd, status.spent.requests) == (mind.bill, len(mind.answered))
    assert status.reserved.usd == 0


def _everything(mind: _Mind) -> Step[Any, Any]:
    """Return a step that asks in all places; its first answer is refused by a judge."""
    helper, outer = mind.agent(), mind.agent()

    @outer.tool_plain
    async def get_help(question: str) -> str:
        return (await helper.run(f"help {question}")).output

    async def function(data: str) -> str:
        first, second = await asyncio.gather(outer.run(data), helper.run(f"second {data}"))
        return f"{first.output}; {second.output}"

    return Step(
        "step",
        function,
        processors=AgentProcessors(
            prompt_processors=[_Asks(helper.run, "prompt")], output_processors=[_Asks(helper.run, "output")]
        ),
        plugins=[(_Plugin(helper.run, "plugin"), 0)],
        validators=[_Validator(helper.run, "validator", refuses_first=True), _Validator(helper.run, "other")],
        max_retries=1,
    )


_REQUESTS_OF_EVERYTHING = 17  # one of a processor, and in each of two attempts 3 + 1 of the function and 4 of judges


@pytest.mark.parametrize("dies_at", range(_REQUESTS_OF_EVERYTHING))
async def test_a_run_that_is_killed_asks_nothing_again(dies_at: int) -> None:
    """Only the requests that were in flight are made again; what those may have cost comes on top."""
    whole, mind, backend = _Mind(), _Mind(dies_at), InMemoryBackend()
    uninterrupted = await _run(_everything(whole))
    with pytest.raises(_Killed):
        await _run(_everything(mind), limit=5, state_backend=backend)

    result = await _run(_everything(mind), limit=5, state_backend=backend)

    assert len(whole.answered) == _REQUESTS_OF_EVERYTHING
    assert (result.status, result.output) == (uninterrupted.status, uninterrupted.output)
    in_flight = Counter(mind.answered) - Counter(whole.answered)  # two are asked at once
    assert set(mind.answered) == set(whole.answered)
    assert in_flight.total() <= 1
    uncertain = [call.cost for call in result.step_history[0].calls if call.is_uncertain]
    assert 0 < sum(uncertain) <= _MOST * 2
    assert mind.bill < result.total_cost == add_usd(whole.bill, sum(uncertain, Decimal(0)))


@pytest.mark.parametrize("share", range(1, 40))
async def test_a_run_that_is_stopped_asks_nothing_again(share: int) -> None:
    """Whichever request a limit refuses, with more money the run goes on from there, and costs what it would have."""
    whole, mind, backend = _Mind(), _Mind(), InMemoryBackend()
    uninterrupted = await _run(_everything(whole))
    limit = exact_usd(whole.bill * share / 40)

    stopped = await _run(_everything(mind), limit=limit, state_backend=backend)
    assert stopped.status == "stopped"
    assert mind.bill == stopped.total_cost <= limit
    (told,) = stored_steps(await backend.load("run"))
    assert (told.name, told.status, told.cost) == ("step", "stopped", mind.bill)
    assert told.feedback is not None
    assert told.feedback.startswith("refused: the run has")
    result = await _run(_everything(mind), limit=5, state_backend=backend)

    assert (result.status, result.output) == (uninterrupted.status, uninterrupted.output)
    assert sorted(mind.answered) == sorted(whole.answered)
    assert result.total_cost == whole.bill
    assert result.step_history[0].attempts == uninterrupted.step_history[0].attempts == 2


@dataclass
class _Reported:
    """An answer that reports what it cost."""

    output: str
    cost_usd: Decimal


@pytest.mark.parametrize("moment", ["killed", "stopped"])
async def test_a_paid_answer_that_was_not_judged_is_not_paid_for_again(moment: str) -> None:
    """A function that reports what it cost is not called again only because its judge could not be asked."""
    mind, backend, calls = _Mind(dies_at=0 if moment == "killed" else -1), InMemoryBackend(), list[str]()

    async def translate(text: str) -> _Reported:
        calls.append(text)
        return _Reported(f"{text} {len(calls)}", Decimal("0.3"))

    step = Step("step", translate, validators=[_Validator(mind.agent().run, "is this good?")])
    if moment == "killed":
        with pytest.raises(_Killed):
            await _run(step, limit=1, state_backend=backend)
    else:
        assert (await _run(step, limit=Decimal("0.31"), state_backend=backend)).status == "stopped"
    result = await _run(step, limit=1, state_backend=backend)

    assert (result.status, result.output, calls) == ("completed", "rivers 1", ["rivers"])
    uncertain = [call.cost for call in result.step_history[0].calls if call.is_uncertain]
    assert len(uncertain) == (moment == "killed")
    assert result.total_cost == add_usd(Decimal("0.3"), add_usd(mind.bill, sum(uncertain, Decimal(0))))


@pytest.mark.parametrize(
    ("reported", "charged"), [("0.3", "0.3"), ("0.001", None)], ids=["more than was metered", "less than was metered"]
)
async def test_what_a_function_reports_is_all_that_it_cost(reported: str, charged: str | None) -> None:
    """It knows of no meter, so its report includes what was metered; what was metered is charged at the least."""
    mind = _Mind()
    agent = mind.agent()

    async def translate(text: str) -> _Reported:
        return _Reported((await agent.run(text)).output, Decimal(reported))

    result = await _run(Step("step", translate), limit=1)

    assert result.total_cost == (mind.bill if charged is None else Decimal(charged))


async def test_calls_at_once_within_steps_never_cost_more_than_the_limit() -> None:
    """A thousand functions and their judges share one limit; what could be spent is spent."""
    mind = _Mind()
    agent = mind.agent()

    async def function(data: int) -> str:
        return (await agent.run(f"number {data}")).output

    step = Step("step", function, validators=[_Validator(agent.run, "judge")])
    all_of_them = Flujo(Step.map_over("all", step), usage_limits=_limit(0.5))
    result = await ended(all_of_them.run_async(list(range(1000))))

    assert result.status == "stopped"
    assert Decimal("0.5") - _MOST < mind.bill == result.total_cost <= Decimal("0.5")


async def test_a_judge_without_a_price_ends_the_run_and_asks_nothing_again() -> None:
    """With a price the run goes on with the answer that it has."""
    mind, backend = _Mind(), InMemoryBackend()
    judge = Agent(FunctionModel(lambda messages, info: ModelResponse([TextPart("ok")]), model_name="unknown"))
    step = Step("step", mind.agent(), validators=[_Validator(judge.run, "judge")])
    with pytest.raises(PricingNotConfiguredError):
        await _run(step, limit=1, state_backend=backend)
    set_price("function:unknown", input_usd_per_mtok=1, output_usd_per_mtok=1)

    result = await _run(step, limit=1, state_backend=backend)

    assert (result.status, mind.answered) == ("completed", ["rivers"])


async def test_an_embedder_within_a_step_is_paid_by_it() -> None:
    """What it embeds is charged by itself, and known again when the run goes on."""
    set_price("test:test", input_usd_per_mtok=1000, output_usd_per_mtok=0)
    embedder, backend = Embedder(TestEmbeddingModel()), InMemoryBackend()
    has_died = list[bool]()

    async def search(text: str) -> int:
        found = await embedder.embed_query(text)
        if not has_died:
            has_died.append(True)
            raise _Killed
        return len(found.embeddings)

    with pytest.raises(_Killed):
        await _run(Step("search", search), limit=1, state_backend=backend)
    result = await _run(Step("search", search), limit=1, state_backend=backend)

    (call,) = result.step_history[0].calls
    assert (result.output, call.label, call.is_uncertain) == (1, "test:test", False)
    assert result.total_cost == call.cost > 0
    assert (await _run(Step("search", search), limit=Decimal("0.0001"))).status == "stopped"


@pytest.mark.parametrize("is_made", [False, True], ids=["by hand", "by name"])
async def test_agents_that_a_tool_runs_are_charged_what_the_provider_bills(
    provider: Provider, model: Model[Any], *, is_made: bool
) -> None:
    """What they ask is reserved and charged with the step, and its limit holds for all of them together."""
    inner = Agent(model, model_settings={"max_tokens": 100})
    if is_made:
        inner = make_agent_async("openai:model", "Help.", base_url=provider.base_url, max_tokens=100)
    outer = Agent(model, model_settings={"max_tokens": 100})

    @outer.tool_plain
    async def get_help(question: str) -> str:
        return (await inner.run(question)).output

    def answer(request: ReceivedRequest) -> Text | ToolCalls:
        if not request.body.get("tools"):
            return Text("helped " * 40)
        has_help = any(message["role"] == "tool" for message in request.body["messages"])
        return Text("done") if has_help else ToolCalls([("get_help", '{"question": "what?"}')] * 3)

    provider.script(answer)
    whole = await _run(Step("ask", outer), limit=1)
    spent = provider.total_usd
    tight = await _run(Step("ask", outer), limit=Decimal("0.03"))
    if is_made and isinstance(inner.model, OpenAIChatModel):
        await inner.model.client.close()

    assert (whole.output, whole.total_cost) == ("done", spent)
    assert tight.total_cost == provider.total_usd - spent <= Decimal("0.03")


async def test_a_model_that_a_step_asks_directly_is_paid_by_it() -> None:
    """Without an agent, too."""
    mind = _Mind()
    model = mind.agent().model
    assert isinstance(model, FunctionModel)

    async def function(data: str) -> int:
        return len((await model_request(model, [ModelRequest.user_text_prompt(data)])).parts)

    result = await _run(Step("step", function), limit=1)

    assert (result.output, result.total_cost) == (1, mind.bill)
    assert (await _run(Step("step", function), limit=Decimal("0.001"))).status == "stopped"
    assert len(mind.answered) == 1


async def test_a_batch_of_requests_needs_a_bound_of_the_users(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody reserves for it; without a limit it is said once that it is not counted."""

    async def batch(data: str) -> Any:
        return await model_request_batch(
            TestModel(), [BatchRequest(custom_id="one", messages=[ModelRequest.user_text_prompt(data)])]
        )

    with pytest.raises(UnboundedCallError, match="a batch"):
        await _run(Step("step", batch), limit=1)
    assert (await _run(Step("step", batch, max_cost_usd=0.5), limit=1)).total_cost == Decimal("0.5")
    assert (await _run(Step("step", batch))).total_cost == 0
    assert "as a batch is not counted" in caplog.text


async def test_an_agent_in_a_thread_is_refused_under_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    """A limit cannot hold there, and the error says what to do; without one it is said once."""
    mind = _Mind()
    inner, outer = mind.agent(), mind.agent()

    @outer.tool_plain
    def get_help(question: str) -> str:
        return asyncio.run(inner.run(question)).output

    with pytest.raises(UnboundedCallError, match="make the function that does async"):
        await _run(Step("ask", outer), limit=1)
    await _run(Step("ask", outer))

    assert "is not counted" in caplog.text


async def test_outside_of_steps_agents_are_as_they_were() -> None:
    """Before, between and after steps nobody pays."""
    mind = _Mind()
    agent = mind.agent()
    await _run(Step("step", agent), limit=1)

    assert (await agent.run("Who?")).output == "on Who?"
    assert (await Embedder(TestEmbeddingModel()).embed_query("Who?")).model_name == "test"


_LATE = """
import asyncio, sys
from flujo import Flujo, Step, UsageLimits, set_price, UsageLimitExceededError
assert "pydantic_ai" not in sys.modules

async def late(data: str) -> str:
    import pydantic_ai
    from pydantic_ai.models.test import TestModel
    assert type(pydantic_ai.__loader__).__module__ != "flujo.agents.nested_runs"
    return (await pydantic_ai.Agent(TestModel()).run(data)).output

set_price("test:test", input_usd_per_mtok=1000, output_usd_per_mtok=1000)
result = Flujo(Step("late", late)).run("go")
assert len(result.step_history[0].calls) == 1, result.step_history[0]
assert result.total_cost > 0
"""


def test_agents_are_paid_for_that_are_imported_within_a_step() -> None:
    """Flujo does not import pydantic-ai, but notices when a step does."""
    subprocess.run([sys.executable, "-c", _LATE], check=True, timeout=60)


def _runs(inner: Any, **settings: Any) -> Step[Any, Any]:
    """Return a step whose function runs another pipeline."""

    async def nest(data: str) -> str:
        return str((await Flujo(inner, **settings).run_async(data)).output)

    return Step("nest", nest)


def _asks(mind: _Mind) -> Any:
    return Step("first", mind.agent()) >> Step("second", mind.agent())


@pytest.mark.parametrize("inner", [{}, {"usage_limits": _limit(1)}], ids=["without limit", "with limit"])
async def test_a_run_within_a_step_is_paid_by_it(inner: dict[str, Any]) -> None:
    """The limits of both hold, and both know what it cost."""
    mind = _Mind()

    result = await _run(_runs(_asks(mind), **inner), limit=0.5)
    tight = await _run(_runs(_asks(mind), **inner), limit=Decimal("0.015"))

    assert (result.status, result.output) == ("completed", "on on rivers")
    assert (result.total_cost, len(result.step_history[0].calls)) == (mind.bill, 2)
    assert (tight.status, tight.total_cost, len(mind.answered)) == ("stopped", Decimal(0), 2)


async def test_the_limit_of_a_run_within_a_step_holds_too() -> None:
    """It fails the step as any error does; what was spent counts."""
    mind = _Mind()

    result = await _run(_runs(_asks(mind), usage_limits=_limit(0.018)), limit=0.5)

    assert (result.status, mind.answered) == ("failed", ["rivers", "rivers"]), "each attempt gets one answer"
    assert result.total_cost == mind.bill


@pytest.mark.parametrize("dies_at", [0, 1, -1], ids=["killed at first", "killed at second", "stopped"])
async def test_a_run_within_a_step_asks_nothing_again(dies_at: int) -> None:
    """It begins again, and knows from the outer run what it was answered."""
    mind, backend = _Mind(dies_at), InMemoryBackend()
    if dies_at >= 0:
        with pytest.raises(_Killed):
            await _run(_runs(_asks(mind)), limit=1, state_backend=backend)
    else:
        assert (await _run(_runs(_asks(mind)), limit=0.018, state_backend=backend)).status == "stopped"

    result = await _run(_runs(_asks(mind)), limit=1, state_backend=backend)

    assert (result.status, mind.answered) == ("completed", ["rivers", "on rivers"])
    uncertain = [call.cost for call in result.step_history[0].calls if call.is_uncertain]
    assert result.total_cost == add_usd(mind.bill, sum(uncertain, Decimal(0)))
    assert len(uncertain) == (dies_at >= 0)


@pytest.mark.parametrize("shares_store", [True, False])
async def test_a_budget_counts_what_a_run_within_a_step_pays_once(*, shares_store: bool) -> None:
    """Two runs that declare one budget of one store do not charge it twice; of two stores each has its own."""
    mind, outer = _Mind(), InMemoryBackend()
    inner = outer if shares_store else InMemoryBackend()
    budget = Budget("team", usd=1)

    step = _runs(_asks(mind), budgets=[budget], state_backend=inner)
    await _run(step, state_backend=outer, budgets=[budget])

    for store in (outer, inner):
        status = await store.budget_status("team")
        assert (status.spent.usd, status.spent.requests) == (mind.bill, 2)


async def test_a_function_in_a_run_within_a_step_reports_to_both() -> None:
    """What is only reported counts for the outer run as well, and once."""

    async def translate(text: str) -> _Reported:
        return _Reported(text, Decimal("0.3"))

    inner: Flujo[Any, Any] = Flujo(Step("translate", translate))

    async def nest(data: str) -> _Reported:
        result = await inner.run_async(data)
        return _Reported(data, result.total_cost)

    assert (await _run(Step("nest", nest), limit=1)).total_cost == Decimal("0.3")
    assert (await _run(Step("nest", nest), limit=Decimal("0.2"))).status == "stopped"


@pytest.mark.parametrize("limit", [None, 1])
async def test_what_runs_on_after_its_step_is_not_paid_by_it(limit: float | None) -> None:
    """Under a limit it is refused; without one it runs as it would without flujo."""
    mind = _Mind()
    agent, tasks = mind.agent(), list[asyncio.Task[Any]]()

    async def forget(data: str) -> str:
        tasks.append(asyncio.create_task(_later(agent.run, data)))
        return data

    result = await _run(Step("forget", forget), limit=limit)
    (ended,) = await asyncio.gather(*tasks, return_exceptions=True)

    assert (result.status, result.total_cost) == ("completed", Decimal(0))
    assert isinstance(ended, UnboundedCallError) == (limit is not None)
    assert len(mind.answered) == (limit is None)


async def _later(ask: Ask, data: str) -> Any:
    await asyncio.sleep(0.01)
    return await ask(data)


async def test_a_refusal_that_code_wraps_is_a_refusal_all_the_same() -> None:
    """A group of errors, or another error, stops the step where it stands, and asks nothing again."""
    mind, backend = _Mind(), InMemoryBackend()
    agent = mind.agent()

    async def grouped(data: str) -> str:
        first = await agent.run(data)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(_awaited(agent.run(f"more {first.output}")))
        return str(second.result().output)

    stopped = await _run(Step("step", grouped, max_retries=3), limit=Decimal("0.018"), state_backend=backend)
    result = await _run(Step("step", grouped, max_retries=3), limit=1, state_backend=backend)

    assert (stopped.status, stopped.step_history[0].attempts) == ("stopped", 1)
    assert (result.status, mind.answered) == ("completed", ["rivers", "more on rivers"])
    assert result.total_cost == mind.bill


async def test_an_answer_that_was_kept_is_not_one_of_the_next_attempt() -> None:
    """What the kept answer's own calls gave is part of it; another attempt asks anew."""
    mind, backend = _Mind(dies_at=1), InMemoryBackend()
    agent, judged = mind.agent(), list[str]()

    async def translate(text: str) -> _Reported:
        return _Reported((await agent.run("rivers")).output, Decimal("0.3"))

    async def is_second(output: str) -> str:
        await agent.run(f"judge {output}")
        judged.append(output)
        return "previous" if len(judged) > 1 else "first"

    step = Step("step", translate, validators=[_Validator(is_second, "", refuses_first=True)], max_retries=1)
    with pytest.raises(_Killed):
        await _run(step, limit=2, state_backend=backend)
    result = await _run(step, limit=2, state_backend=backend)

    assert (result.status, result.step_history[0].attempts) == ("completed", 2)
    assert [asked.split()[0] for asked in mind.answered] == ["rivers", "judge", "rivers", "judge"]


async def test_a_run_within_a_step_gets_no_more_than_the_step_has_left() -> None:
    """The limit of the outer run lowers what the inner one may say."""
    granted = list[int]()

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        granted.append(cast("dict[str, Any]", info.model_settings)["max_tokens"])
        return ModelResponse([TextPart("me")], usage=RequestUsage(input_tokens=1, output_tokens=1))

    agent = Agent(FunctionModel(answer, model_name="mind"), model_settings={"max_tokens": _MAX_TOKENS})
    await _run(_runs(Step("inner", agent)), limit=0.03)

    (tokens,) = granted
    assert 16 <= tokens < 30
