"""Identical cached steps that run at once: one makes the call, and the others wait for its result."""

import asyncio
import threading
from typing import Any

import pytest

from flujo import Flujo, InMemoryCache, PipelineResult, Step, UsageLimitExceededError, UsageLimits
from tests.steps.workflows import CENT, Paid, PaidError


class Held:
    """An agent that answers when it is let; it fails the first times.

    Attributes:
        calls: How often it was called.
        called: Set once it was called.
        answer: Set it to let it answer.
    """

    def __init__(self, failures: int = 0) -> None:
        self._failures = failures
        self.calls = 0
        self.most = 0
        self.inside = 0
        self.called = asyncio.Event()
        self.answer = asyncio.Event()

    async def run(self, data: Any) -> Any:
        """Answer, for a cent."""
        self.calls += 1
        call = self.calls
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.called.set()
        try:
            await self.answer.wait()
        finally:
            self.inside -= 1
        if call <= self._failures:
            raise PaidError("busy")
        return Paid([data])


async def _turns(count: int = 50) -> None:
    """Let all other tasks go as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0)


def _hits(result: PipelineResult[Any]) -> list[bool]:
    return [child.metadata_["cache_hit"] for child in result.step_history[0].step_history]


@pytest.mark.parametrize("max_concurrency", [None, 3])
async def test_a_hundred_identical_steps_call_the_agent_once(max_concurrency: int | None) -> None:
    """The others are hits and cost nothing, also if the items of a map are fewer at once; none shares its output."""
    agent = Held()
    cached = Step.cached(Step("call", agent, max_retries=0))
    flujo = Flujo(Step.map_over("m", cached, max_concurrency=max_concurrency))
    run = asyncio.ensure_future(_run(flujo, [1] * 100))
    await _turns()
    agent.answer.set()

    result = await run

    assert (agent.calls, result.total_cost, result.output) == (1, CENT, [[1]] * 100)
    assert sorted(_hits(result)) == [False] + [True] * 99
    assert result.output is not None
    assert len({id(each) for each in result.output}) == 100


async def _run(flujo: Flujo[Any, Any], data: Any) -> PipelineResult[Any]:
    return await flujo.run_async(data)


async def test_runs_share_a_flight_if_they_share_a_cache() -> None:
    """Also those of pipelines that were built apart; with caches of their own each calls."""
    agent, cache = Held(), InMemoryCache()
    shared = [asyncio.ensure_future(_run(Flujo(Step.cached(Step("call", agent), cache)), "x")) for _ in range(5)]
    apart = [asyncio.ensure_future(_run(Flujo(Step.cached(Step("call", agent))), "x")) for _ in range(2)]
    await _turns()
    agent.answer.set()

    results = await asyncio.gather(*shared, *apart)

    assert [result.output for result in results] == [["x"]] * 7
    assert agent.calls == 3


async def test_if_the_first_fails_the_next_one_tries() -> None:
    """One after the other, never two at once, until one has a result that all others share."""
    agent = Held(failures=2)
    step = Step.cached(Step("call", agent, max_retries=0))
    flujo = Flujo(Step.map_over("m", step, max_concurrency=None))
    run = asyncio.ensure_future(_run(flujo, [1] * 10))
    await _turns()
    agent.answer.set()

    result = await run

    statuses = sorted(child.status for child in result.step_history[0].step_history)
    assert (agent.calls, agent.most, result.total_cost) == (3, 1, 3 * CENT)
    assert statuses == ["completed"] * 8 + ["failed"] * 2


async def test_if_the_first_is_cancelled_the_others_go_on() -> None:
    """The one that waits longest makes the call."""
    agent, cache = Held(), InMemoryCache()
    flujo = Flujo(Step.cached(Step("call", agent), cache))
    first, second, third = (asyncio.ensure_future(_run(flujo, "x")) for _ in range(3))
    await _turns()

    first.cancel()
    second.cancel()
    await _turns()
    agent.answer.set()

    assert (await third).output == ["x"]
    assert (first.cancelled(), second.cancelled(), agent.calls) == (True, True, 2)


async def test_who_waits_may_be_told_to_lead_and_be_cancelled_at_once() -> None:
    """The flight goes to the next one."""
    agent, cache = Held(failures=1), InMemoryCache()
    flujo = Flujo(Step.cached(Step("call", agent, max_retries=0), cache))
    first, second, third = (asyncio.ensure_future(_run(flujo, "x")) for _ in range(3))
    await _turns()
    agent.answer.set()
    while not first.done():
        await asyncio.sleep(0)
        second.cancel()

    assert (await third).output == ["x"]
    assert (await first).status == "failed"
    assert agent.calls == 2


async def test_if_the_run_of_the_first_breaches_a_limit_the_others_go_on() -> None:
    """A run that was stopped gives nobody its answer."""
    agent, cache = Held(), InMemoryCache()
    cached = Step.cached(Step("call", agent), cache)

    async def spend(data: Any) -> Any:
        await agent.called.wait()
        return Paid(data)

    limited = Flujo(
        Step.parallel("p", {"cached": cached, "spend": Step("spend", spend)}),
        usage_limits=UsageLimits(total_cost_usd_limit=0.001),
    )
    stopped = asyncio.ensure_future(_run(limited, "x"))
    await agent.called.wait()
    other = asyncio.ensure_future(_run(Flujo(cached), "x"))
    with pytest.raises(UsageLimitExceededError):
        await stopped
    agent.answer.set()

    assert (await other).output == ["x"]
    assert agent.calls == 2


async def test_who_waits_is_cut_short_by_the_limit_of_its_own_run() -> None:
    """It does not wait until the leader, in another run, is done."""
    agent, cache = Held(), InMemoryCache()
    cached = Step.cached(Step("call", agent), cache)
    leader = asyncio.ensure_future(_run(Flujo(cached), "x"))
    await agent.called.wait()
    spending = asyncio.Event()

    async def spend(data: Any) -> Any:
        await spending.wait()
        return Paid(data)

    limited = Flujo(
        Step.parallel("p", {"cached": cached, "spend": Step("spend", spend)}),
        usage_limits=UsageLimits(total_cost_usd_limit=0.001),
    )
    waiting = asyncio.ensure_future(_run(limited, "x"))
    await _turns()
    spending.set()

    with pytest.raises(UsageLimitExceededError) as caught:
        await waiting

    assert [child.status for child in caught.value.result.step_history[0].step_history] == ["stopped", "completed"]
    agent.answer.set()
    assert (await leader).output == ["x"]


async def test_an_agent_may_run_its_own_step() -> None:
    """Whoever would wait for itself goes alone."""
    depth = 0

    async def nest(data: Any) -> Any:
        nonlocal depth
        depth += 1
        return data if depth == 3 else (await _run(flujo, data)).output

    flujo = Flujo(Step.cached(Step("nest", nest)))

    assert (await _run(flujo, "x")).output == "x"
    assert depth == 3


async def test_two_that_wait_for_each_other_do_not_wait_for_ever() -> None:
    """One of them goes alone."""
    cache = InMemoryCache()
    both = asyncio.Barrier(2)
    crossed = set[str]()

    async def cross(data: str) -> str:
        if data in crossed:
            return data
        crossed.add(data)
        await both.wait()
        return str((await _run(flujo, "b" if data == "a" else "a")).output) + data

    flujo = Flujo(Step.cached(Step("cross", cross, max_retries=0), cache))

    results = await asyncio.gather(_run(flujo, "a"), _run(flujo, "b"))

    assert all(result.success for result in results)


async def test_nested_cached_steps_do_not_wait_for_each_other() -> None:
    """Each layer has a key of its own."""
    agent = Held()
    agent.answer.set()
    inner = Step.cached(Step("call", agent), cache := InMemoryCache())

    result = await _run(Flujo(Step.cached(Step.cached(inner, cache), cache)), "x")

    assert (result.output, agent.calls) == (["x"], 1)


def test_threads_with_loops_of_their_own_share_a_flight() -> None:
    """Each is woken in its own loop."""
    calls: list[int] = []
    all_wait = threading.Event()
    arrivals = threading.Barrier(4, action=all_wait.set)

    async def call(data: Any) -> Any:
        calls.append(1)
        await asyncio.to_thread(all_wait.wait, 10)
        return data

    flujo = Flujo(Step.cached(Step("call", call)))
    outputs: list[Any] = []

    async def main() -> None:
        run = asyncio.ensure_future(_run(flujo, "x"))
        await _turns()
        await asyncio.to_thread(arrivals.wait, 10)
        outputs.append((await run).output)

    def work() -> None:
        asyncio.run(main())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert (outputs, len(calls)) == (["x"] * 4, 1)


async def test_what_cannot_be_stored_is_not_shared(caplog: pytest.LogCaptureFixture) -> None:
    """Everyone makes the call, and the log says once why."""
    made: list[object] = []

    class Opaque:
        pass

    async def make(data: Any) -> Any:
        await asyncio.sleep(0)
        made.append(Opaque())
        return made[-1]

    result = await _run(Flujo(Step.map_over("m", Step.cached(Step("make", make)))), [1] * 5)

    assert (result.output, len(made)) == (made, 5)
    assert caplog.text.count("output is a") == 1
    assert "Opaque" in caplog.text
