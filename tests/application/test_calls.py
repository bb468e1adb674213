"""What a step's result says of each call that was metered."""

import asyncio
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flujo import (
    Flujo,
    PausedException,
    PipelineResult,
    SQLiteBackend,
    Step,
    StepResult,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.cache.backends import InMemoryCache
from flujo.cli.json_output import result_document
from flujo.domain.metering import Bound, FixedCall, Meter, MeteredCall
from flujo.domain.results import CALLS, UNCERTAIN
from tests.agents.calls import assert_calls_add_up

_CENT = Decimal("0.01")


class _Caller:
    """An agent that makes calls by a script: each is a label, and what it is charged or how it ends."""

    def __init__(self, *attempts: list[tuple[str | None, Decimal | str]], ending: Exception | None = None) -> None:
        self.attempts = list(attempts)
        self.ending = ending

    async def run(self, data: Any, *, meter: Meter) -> str:
        """Make the calls of one attempt; every one but the last fails."""
        for label, charged in self.attempts.pop(0):
            reservation = await meter.reserve(FixedCall(Bound(_CENT, 10)), label=label)
            if isinstance(charged, Decimal):
                reservation.settle(charged, 7)
            elif charged == "released":
                reservation.release()
            elif charged == "lost":
                reservation.lose()  # or else nobody ends it
        if self.attempts:
            raise RuntimeError("once more")
        if self.ending is not None:
            raise self.ending
        return str(data).upper()


async def _run(step: Step[Any, Any], **options: Any) -> StepResult:
    (result,) = (await Flujo(step, **options).run_async("go")).step_history
    return result


async def test_every_call_of_every_attempt_is_shown() -> None:
    """Settled, lost and forgotten calls of failed attempts and of the last one, and none that cost nothing."""
    agent = _Caller(
        [("one", Decimal("0.0031")), (None, "lost"), ("two", "released"), ("three", "forgotten")],
        [("one", Decimal("1E-10"))],
    )

    result = await _run(Step("call", agent, max_retries=1))

    assert result.output == "GO"
    assert result.calls == [
        MeteredCall("one", Decimal("0.0031"), 7),
        MeteredCall(None, _CENT, 10, is_uncertain=True),
        MeteredCall("three", _CENT, 10, is_uncertain=True),
        MeteredCall("one", Decimal("1E-10"), 7),
    ]
    assert result.metadata_[CALLS] == result.calls
    assert_calls_add_up([result])


async def test_an_agent_that_meters_nothing_has_no_calls() -> None:
    """Its result says nothing of them, nor does it keep anything for them."""
    result = await _run(Step.from_callable(str.upper, name="shout"))

    assert result.calls == ()
    assert CALLS not in result.metadata_


async def test_calls_that_are_parts_of_an_attempt_are_shown_with_what_it_reports_besides() -> None:
    """Under `max_cost_usd` the parts and the rest add up to what the attempt was charged."""

    class Report:
        output = "done"
        cost_usd = Decimal("0.5")
        token_counts = 3

    async def call(text: str, *, meter: Meter) -> Any:
        for label, end in (("known", "settle"), ("unknown", "lose")):
            part = await meter.reserve(FixedCall(Bound(_CENT, 10)), label=label)
            part.settle(Decimal("0.004"), 7) if end == "settle" else part.lose()
        return Report()

    result = await _run(Step("call", call, max_cost_usd=1))

    assert result.calls == [
        MeteredCall("known", Decimal("0.004"), 7),
        MeteredCall("unknown", _CENT, 10, is_uncertain=True),
        MeteredCall(None, Decimal("0.5"), 3),
    ]
    assert_calls_add_up([result])


async def test_an_attempt_of_which_nothing_is_known_is_one_call() -> None:
    """All that it may cost is charged, and marked."""

    async def fail(text: str) -> str:
        raise RuntimeError("no")

    result = await _run(Step("call", fail, max_cost_usd=0.25, max_retries=1))

    assert result.calls == [MeteredCall(None, Decimal("0.25"), 0, is_uncertain=True)] * 2
    assert_calls_add_up([result])


@pytest.mark.parametrize("is_stored", [False, True])
async def test_a_person_s_answer_keeps_what_was_called_before_the_question(tmp_path: Path, *, is_stored: bool) -> None:
    """The agent is not called again, and its calls are those that led to the question."""
    agent = _Caller([("one", Decimal("0.002")), (None, "lost")], ending=PausedException("well?"))
    backend = SQLiteBackend(tmp_path / "runs.db") if is_stored else None
    runner: Flujo[Any, Any] = Flujo(Step("call", agent), state_backend=backend)

    paused: PipelineResult[Any] = await runner.run_async("go", run_id="run")
    assert_calls_add_up(paused.step_history)
    result = await runner.resume_async("run" if is_stored else paused, "yes")

    assert result.output == "yes"
    assert result.step_history[0].calls == paused.step_history[0].calls
    assert len(result.step_history[0].calls) == 2
    assert_calls_add_up(result.step_history)
    if backend is not None:
        await backend.close()


async def test_calls_are_stored_exactly(tmp_path: Path) -> None:
    """A stored run that is looked at again has them as they were; those of a failed try come first."""
    backend = SQLiteBackend(tmp_path / "runs.db")
    calls: list[tuple[str | None, Decimal | str]] = [("one", Decimal("1E-10")), (None, "lost")]
    agent = _Caller(calls, calls, calls)

    def runner(retries: int) -> Flujo[Any, Any]:
        return Flujo(Step("call", agent, max_retries=retries), state_backend=backend)

    failed = await runner(0).run_async("go", run_id="run")
    done = await runner(1).run_async("go", run_id="run")
    again = await runner(1).run_async("go", run_id="run")
    await backend.close()

    assert (failed.status, done.status) == ("failed", "completed")
    assert len(failed.step_history[0].calls) == 2
    assert len(done.step_history[0].calls) == 6
    assert again.step_history[0].calls == done.step_history[0].calls
    for result in (failed, done, again):
        assert_calls_add_up(result.step_history)
        assert result.total_cost == sum((call.cost for call in result.step_history[0].calls), Decimal(0))


@pytest.mark.parametrize("max_cost", [None, 1])
async def test_calls_of_an_attempt_that_was_cut_off_add_up(tmp_path: Path, max_cost: int | None) -> None:
    """What was kept is recalled, and the rest of what was reserved is one uncertain call."""
    backend, called, is_first = SQLiteBackend(tmp_path / "runs.db"), asyncio.Event(), True

    async def call(text: str, *, meter: Meter) -> str:
        if meter.recall("first") is None:
            first = await meter.reserve(FixedCall(Bound(_CENT, 10)), label="first")
            first.settle(Decimal("0.004"), 7)
            await meter.keep("first", "answer", Decimal("0.004"), 7)
        await meter.keep("a tool", "what it gave", Decimal(0), 0)
        second = await meter.reserve(FixedCall(Bound(_CENT, 10)), label="second")
        if is_first:
            called.set()
            await asyncio.Event().wait()
        second.settle(Decimal("0.002"), 3)
        return text

    runner: Flujo[Any, Any] = Flujo(Step("call", call, max_cost_usd=max_cost), state_backend=backend)
    running = asyncio.create_task(runner.run_async("go", run_id="run"))
    await called.wait()
    running.cancel()
    await asyncio.wait([running])
    is_first = False
    result = await runner.run_async("go", run_id="run")
    await backend.close()

    (step,) = result.step_history
    assert_calls_add_up([step])
    told = {call.label: call for call in step.calls if not call.is_uncertain}
    assert told == {
        "first": MeteredCall("first", Decimal("0.004"), 7),
        "second": MeteredCall("second", Decimal("0.002"), 3),
    }
    (lost,) = [call for call in step.calls if call.is_uncertain]
    cut_off = MeteredCall("second", _CENT, 10, is_uncertain=True)
    assert lost == (cut_off if max_cost is None else MeteredCall(None, Decimal("0.996"), 0, is_uncertain=True))


async def test_a_fallback_leaves_each_call_where_it_was_made() -> None:
    """The step around both has none of its own; what is uncertain of both is added up."""
    primary = Step("primary", _Caller([("one", "lost")], ending=RuntimeError("no")), max_retries=0)
    primary.fallback(Step("fallback", _Caller([("two", "lost")])))

    result = await _run(primary)

    assert [[call.label for call in each.calls] for each in result.step_history] == [["one"], ["two"]]
    assert result.metadata_[UNCERTAIN] == result.cost == 2 * _CENT
    assert_calls_add_up([result])


async def test_a_hit_of_a_cache_called_nothing() -> None:
    """What is remembered is the output, and not what it cost once."""

    async def call(text: str, *, meter: Meter) -> str:
        (await meter.reserve(FixedCall(Bound(_CENT)))).lose()
        return text

    runner: Flujo[Any, Any] = Flujo(Step.cached(Step("call", call), InMemoryCache()))

    first, second = [(await runner.run_async("go")).step_history[0] for _ in range(2)]

    assert (len(first.calls), first.metadata_["cache_hit"]) == (1, False)
    assert (len(second.calls), second.cost) == (0, Decimal(0))
    assert second.metadata_ == {"cache_hit": True}


async def test_calls_are_part_of_the_result_as_json() -> None:
    """With exact costs, as text."""
    result = await Flujo(Step("call", _Caller([("one", Decimal("1E-10"))]))).run_async("go")

    assert '"calls":[{"label":"one","cost":"1E-10","tokens":7,"is_uncertain":false}]' in result_document(result)


@pytest.mark.parametrize("seed", range(60))
async def test_calls_always_add_up(seed: int) -> None:
    """Whatever the calls of any attempts come to, with whatever limits around them."""
    chance = random.Random(seed)
    endings: list[Callable[[], Decimal | str]] = [
        lambda: Decimal(chance.randint(0, 10 ** chance.randint(1, 9))).scaleb(-11),
        lambda: chance.choice(["released", "lost", "forgotten"]),
    ]

    def attempt() -> list[tuple[str | None, Decimal | str]]:
        return [(chance.choice(["a", "b", None]), chance.choice(endings)()) for _ in range(chance.randint(0, 6))]

    def step(name: str) -> Step[Any, Any]:
        agent = _Caller(*(attempt() for _ in range(chance.randint(1, 3))))
        whole = chance.choice([None, None, Decimal("0.05")])
        made: Step[Any, Any] = Step(name, agent, max_retries=chance.randint(0, 2), max_cost_usd=whole)
        return made.fallback(Step("fallback", _Caller(attempt()))) if chance.random() < 0.3 else made

    pipeline = Step.parallel("all", {name: step(name) for name in "abc"[: chance.randint(1, 3)]}) >> step("last")
    limits = UsageLimits(total_cost_usd_limit=chance.choice([None, Decimal("0.15"), Decimal(1)]))
    try:
        result: PipelineResult[Any] = await Flujo(pipeline, usage_limits=limits).run_async("go")
    except UsageLimitExceededError as stopped:
        result = stopped.result

    assert_calls_add_up(result.step_history)
