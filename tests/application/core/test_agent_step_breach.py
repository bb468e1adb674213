"""What a passed limit means for the calls in flight, and for those that have their answer."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from flujo import (
    AgentProcessors,
    ConfigurationError,
    Flujo,
    PipelineContext,
    PreStepPayload,
    Step,
    StepResult,
    UsageLimitExceededError,
    UsageLimits,
    ValidationResult,
    validator,
)
from flujo.domain.results import PipelineResult
from flujo.testing import StubAgent
from tests.application.core.agent_answers import Paid, PaidError

_LIMIT = UsageLimits(total_cost_usd_limit=1)
Agent = Callable[[Any], Awaitable[Any]]


async def _breach(step: Any, limits: UsageLimits | None = _LIMIT, **options: Any) -> PipelineResult[Any]:
    with pytest.raises(UsageLimitExceededError) as raised:
        await Flujo(step, usage_limits=limits, **options).run_async("go")
    return raised.value.result


def _branches(result: PipelineResult[Any]) -> dict[str, StepResult]:
    return {branch.name: branch for branch in result.step_history[0].step_history}


def _after(event: asyncio.Event, answer: Any) -> Agent:
    async def agent(data: Any) -> Any:
        await event.wait()
        return answer

    return agent


def _hangs(*, began: asyncio.Event, ended: list[str]) -> Agent:
    async def agent(data: Any) -> Any:
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("ended")

    return agent


async def test_a_breach_cuts_short_the_calls_in_flight() -> None:
    """A plain Python agent that would never answer ends, and what had finished stays in the history."""
    began, ended = asyncio.Event(), list[str]()
    step = Step.parallel(
        "all",
        {
            "done": Step("done", StubAgent([Paid("done", 0.3)])),
            "hangs": Step("hangs", _hangs(began=began, ended=ended), max_retries=5, timeout_s=60),
            "spends": Step("spends", _after(began, Paid("spent", 0.8))),
        },
    )

    result = await _breach(step)

    ran = _branches(result)
    assert ended == ["ended"]
    assert (result.status, result.total_cost) == ("stopped", Decimal("1.1"))
    assert [ran[name].status for name in ("done", "hangs", "spends")] == ["completed", "stopped", "completed"]
    assert ran["hangs"].feedback == "cut short: the run passed its limit of $1: $1.1 spent"
    assert ran["hangs"].attempts == 1


async def _direct(answer: "asyncio.Future[Any]") -> Any:
    return await answer


async def _gathered(answer: "asyncio.Future[Any]") -> Any:
    return (await asyncio.gather(_direct(answer)))[0]


async def _waited_for(answer: "asyncio.Future[Any]") -> Any:
    return await asyncio.wait_for(answer, 60)


async def _in_a_task(answer: "asyncio.Future[Any]") -> Any:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_direct(answer))
    return task.result()


@pytest.mark.parametrize("wait", [_direct, _gathered, _waited_for, _in_a_task])
@pytest.mark.parametrize("timeout_s", [None, 60])
async def test_an_answer_that_is_there_when_a_sibling_passes_the_limit_is_kept(
    wait: Callable[["asyncio.Future[Any]"], Awaitable[Any]], timeout_s: float | None
) -> None:
    """It has been paid for, so its charge and its result are in the history."""
    loop = asyncio.get_running_loop()
    answers = {name: loop.create_future() for name in ("spends", "late")}
    waiting = asyncio.Event()

    async def late(data: Any) -> Any:
        waiting.set()
        return await wait(answers["late"])

    async def spends(data: Any) -> Any:
        return await answers["spends"]

    async def both_answer(data: Any) -> Any:
        await waiting.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answers["spends"].set_result(Paid("spent", 2))
        answers["late"].set_result(Paid("late", 0.5))

    branches = {
        "spends": Step("spends", spends),
        "late": Step("late", late, timeout_s=timeout_s),
        "net": Step("net", both_answer),
    }
    result = await _breach(Step.parallel("all", branches))

    ran = _branches(result)
    assert (ran["late"].status, ran["late"].output) == ("completed", "late")
    assert result.total_cost == Decimal("2.5")


@pytest.mark.parametrize(("turns", "status"), [(0, "completed"), (1, "completed"), (1_000_000, "stopped")])
async def test_an_answer_that_was_there_is_judged_if_that_takes_no_time(turns: int, status: str) -> None:
    """What came with the breach keeps its output; a judgement that waits for something is cut short."""
    go = asyncio.Event()

    class Slow:
        async def validate(self, output: Any, *, context: Any = None) -> Any:
            for _ in range(turns):
                await asyncio.sleep(0)
            return _ACCEPTED

    branches = {
        "spends": Step("spends", _after(go, Paid("spent", 2))),
        "late": Step("late", _after(go, Paid("late", 0.5)), validators=[Slow()]),
        "net": Step("net", _sets(go)),
    }
    result = await _breach(Step.parallel("all", branches))

    late = _branches(result)["late"]
    assert (late.status, late.output, late.cost) == (status, "late", Decimal("0.5"))


async def test_a_judgement_that_never_ends_does_not_keep_a_stopped_run() -> None:
    """The answer that broke the limit is kept, paid for and not judged."""

    class Hangs:
        async def validate(self, output: Any, *, context: Any = None) -> Any:
            await asyncio.get_running_loop().create_future()

    result = await _breach(Step("ask", StubAgent([Paid("dear", 2)]), validators=[Hangs()]))

    (ask,) = result.step_history
    assert (ask.status, ask.output, ask.cost) == ("stopped", "dear", Decimal(2))


def _sets(event: asyncio.Event) -> Agent:
    async def agent(data: Any) -> Any:
        await asyncio.sleep(0)
        event.set()

    return agent


@validator
def _refuses(output: Any) -> tuple[bool, str | None]:
    return False, "no"


_ACCEPTED = ValidationResult(is_valid=True)


async def test_a_judgement_in_flight_is_cut_short() -> None:
    """The step is stopped with the output and the cost that it has, also if it would pass what is refused."""
    began, ended = asyncio.Event(), list[str]()

    class Hangs:
        async def validate(self, output: Any, *, context: Any = None) -> Any:
            await _hangs(began=began, ended=ended)(output)

    branches = {
        "judged": Step("judged", StubAgent([Paid("draft", 0.5), "never"]), validators=[Hangs()], strict=False),
        "spends": Step("spends", _after(began, Paid("spent", 0.8))),
    }
    result = await _breach(Step.parallel("all", branches))

    judged = _branches(result)["judged"]
    assert ended == ["ended"]
    assert (judged.status, judged.output, judged.cost, judged.metadata_) == ("stopped", "draft", Decimal("0.5"), {})


async def test_a_refused_output_that_passes_the_limit_is_not_tried_again() -> None:
    """The step that broke the limit is in the history with its charge, once, and its agent was asked once."""
    agent = StubAgent([Paid("draft", 2), "never"])

    result = await _breach(Step("draft", agent, validators=[_refuses], max_retries=5))

    (draft,) = result.step_history
    assert (draft.status, draft.cost, draft.attempts, agent.call_count) == ("stopped", Decimal(2), 1, 1)


async def test_a_failed_call_that_passes_the_limit_is_not_tried_again() -> None:
    """An error that reports a cost is charged like an answer."""
    agent = StubAgent([PaidError("cut"), "never"])

    result = await _breach(Step("draft", agent, max_retries=5), UsageLimits(total_tokens_limit=2))

    assert (result.total_tokens, agent.call_count) == (3, 1)


class _Written(PipelineContext):
    count: int = 0


class _RaisesIn:
    """A validator, plugin or processor that raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def validate(self, output: Any, *, context: Any = None) -> Any:
        raise self.error

    async def process(self, data: Any, context: Any) -> Any:
        raise self.error


_CHARGED: list[tuple[str, dict[str, Any], Any]] = [
    ("accepted", {}, "x"),
    ("refused", {"validators": [_refuses]}, "x"),
    ("validator raises", {"validators": [_RaisesIn(ValueError("bug"))]}, "x"),
    ("plugin raises", {"plugins": [(_RaisesIn(ValueError("bug")), 1)]}, "x"),
    ("processor raises", {"processors": AgentProcessors(output_processors=[_RaisesIn(ValueError("bug"))])}, "x"),
    ("update fails", {"updates_context": True}, {"count": "many"}),
    ("persisting fails", {"validators": [_refuses], "persist_feedback_to_context": "count"}, "x"),
]


@pytest.mark.parametrize(("options", "output"), [case[1:] for case in _CHARGED], ids=[case[0] for case in _CHARGED])
async def test_an_answer_is_charged_exactly_once(options: dict[str, Any], output: Any) -> None:
    """Whatever becomes of an answer, the run, the step and the governor agree on what it cost."""
    step = Step("ask", StubAgent([Paid(output, 0.1, 7)]), max_retries=0, **options)

    result = await Flujo(step, context_model=_Written).run_async("go")
    with pytest.raises(UsageLimitExceededError, match=r"\$0.1 spent"):
        await Flujo(
            Step("ask", StubAgent([Paid(output, 0.1, 7)]), max_retries=0, **options),
            context_model=_Written,
            usage_limits=UsageLimits(total_cost_usd_limit=0.09),
        ).run_async("go")

    assert (result.total_cost, result.total_tokens) == (Decimal("0.1"), 7)
    assert (result.step_history[0].cost, result.step_history[0].attempts) == (Decimal("0.1"), 1)


async def test_no_agent_is_asked_after_a_breach_that_came_while_its_input_was_processed() -> None:
    """A step between its start and its first call does not get to the call."""
    processing, spent = asyncio.Event(), asyncio.Event()
    agent = StubAgent(["never"])

    class Slow:
        async def process(self, data: Any, context: Any) -> Any:
            processing.set()
            try:
                await spent.wait()
            except asyncio.CancelledError:
                return data

    branches = {
        "late": Step("late", agent, processors=AgentProcessors(prompt_processors=[Slow()])),
        "spends": Step("spends", _after(processing, Paid("spent", 2))),
    }
    result = await _breach(Step.parallel("all", branches))

    late = _branches(result)["late"]
    assert (late.status, late.attempts, agent.call_count) == ("stopped", 0, 0)


async def test_no_agent_is_asked_after_a_breach_that_came_while_a_hook_ran() -> None:
    """A step whose hooks take their time is not started when a sibling passes the limit meanwhile."""
    hooked, spent = asyncio.Event(), asyncio.Event()
    agent = StubAgent(["never"])

    async def slow(payload: PreStepPayload) -> None:
        if payload.step.name == "late":
            hooked.set()
            await spent.wait()

    async def spend(data: Any) -> Any:
        await hooked.wait()
        asyncio.get_running_loop().call_soon(spent.set)
        return Paid("spent", 2)

    branches = {"late": Step("late", agent), "spends": Step("spends", spend)}
    result = await _breach(Step.parallel("all", branches), hooks=[slow])

    assert agent.call_count == 0
    assert _branches(result)["late"].feedback == "not started: the run passed its limit of $1: $2 spent"


@pytest.mark.parametrize("swallows", ["answers", "raises"])
async def test_an_agent_that_handles_being_cut_short_keeps_what_it_paid(swallows: str) -> None:
    """Its late answer, or the error it raises, is charged as any other, and is not tried again."""
    began = asyncio.Event()
    calls: list[Any] = []

    async def stubborn(data: Any) -> Any:
        calls.append(data)
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if swallows == "raises":
                raise PaidError("cut") from None
            return Paid("late", 0.1)

    branches = {
        "stubborn": Step("stubborn", stubborn, max_retries=5),
        "spends": Step("spends", _after(began, Paid("spent", 2))),
    }
    result = await _breach(Step.parallel("all", branches))

    assert len(calls) == 1
    assert result.total_cost == Decimal("2.1")
    assert _branches(result)["stubborn"].status == ("completed" if swallows == "answers" else "stopped")


async def test_a_cancelled_run_that_is_being_cut_short_is_cancelled() -> None:
    """A cancellation from outside is not taken for the breach that comes at the same time."""
    began, ended = asyncio.Event(), list[str]()

    async def spend(data: Any) -> Any:
        await began.wait()
        asyncio.get_running_loop().call_soon(run.cancel)
        return Paid("spent", 2)

    branches = {"hangs": Step("hangs", _hangs(began=began, ended=ended)), "spends": Step("spends", spend)}
    run = asyncio.create_task(Flujo(Step.parallel("all", branches), usage_limits=_LIMIT).run_async("go"))
    with pytest.raises(asyncio.CancelledError):
        await run

    assert ended == ["ended"]


def test_limits_have_to_be_limits() -> None:
    """A dict would limit nothing, so it is refused when the step is declared."""
    wrong: Any = {"total_cost_usd_limit": 1}

    with pytest.raises(ConfigurationError, match=r"step 'ask': usage_limits is .* give UsageLimits"):
        Step("ask", StubAgent([]), usage_limits=wrong)


async def test_two_thousand_calls_in_flight_are_cut_short_at_once() -> None:
    """Every one of them is stopped and in the history, however many breaches follow."""
    began = asyncio.Event()
    count = 2000

    async def hang(data: int) -> Any:
        if data == count:
            await began.wait()
            return Paid("spent", 2)
        if data == count - 1:
            began.set()
        return await asyncio.get_running_loop().create_future()

    step = Step.map_over("all", Step("hang", hang), max_concurrency=None)
    with pytest.raises(UsageLimitExceededError) as raised:
        await Flujo(step, usage_limits=_LIMIT).run_async(list(range(count + 1)))

    statuses = [result.status for result in raised.value.result.step_history[0].step_history]
    assert statuses == ["stopped"] * count + ["completed"]
