"""Running again by `run_id`: whatever a run came to, it goes on at what did not finish, and pays for nothing twice."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from flujo import (
    Flujo,
    InMemoryBackend,
    PipelineAbortSignal,
    PipelineChangedError,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
    RunNotFoundError,
    RunOwnedError,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.state.backend import StateBackend
from flujo.testing import StubAgent
from tests.application.mistakes import circle
from tests.integration.paid import Paid, waiting_step

_DOLLAR = UsageLimits(total_cost_usd_limit=1)


def _paid(name: str, *answers: Any) -> tuple[StubAgent, Step[Any, Any]]:
    """Return an agent, and a step of one attempt that calls it."""
    agent = StubAgent(list(answers))
    return agent, Step(name, agent, max_retries=0)


async def test_a_finished_run_returns_what_is_stored(backend: StateBackend) -> None:
    """Nobody is called again, whatever the input is now; the result is equal, and counts what was spent."""
    agent, step = _paid("ask", Paid("x", 0.5, 7))

    first = await Flujo(step, state_backend=backend).run_async("one", run_id="r")
    second = await Flujo(step, state_backend=backend).run_async("two", run_id="r")

    assert (agent.call_count, second.status, second.output) == (1, "completed", "x")
    assert (second.run_id, second.total_cost, second.total_tokens) == ("r", Decimal("0.5"), 7)
    assert second.step_history == first.step_history
    assert second.final_pipeline_context == first.final_pipeline_context


async def test_a_failed_run_goes_on_at_the_step_that_failed(backend: StateBackend) -> None:
    """With the input it began with; the new input plays no part."""
    seen: list[Any] = []
    first, before = _paid("first", Paid("x", 0.5))
    answers = iter([OSError("down"), Paid("done", 0.25)])

    async def unreliable(data: Any) -> Any:
        seen.append(data)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    runner = Flujo(before >> Step("second", unreliable, max_retries=0), state_backend=backend)
    failed = await runner.run_async("one", run_id="r")
    result = await runner.run_async("two", run_id="r")

    assert (failed.status, result.status, result.output) == ("failed", "completed", "done")
    assert (first.call_count, seen) == (1, ["x", "x"])
    assert result.total_cost == Decimal("0.75")
    context: Any = result.final_pipeline_context
    assert context.initial_prompt == "one"


async def test_a_stopped_run_goes_on_with_a_larger_limit(backend: StateBackend) -> None:
    """A limit that is still too small stops it again before anything is paid; none has anything repeated."""
    first, one = _paid("first", Paid("x", 2))
    second, two = _paid("second", Paid("y", 1))
    runner: Flujo[Any, Any] = Flujo(one >> two, state_backend=backend, usage_limits=_DOLLAR)

    for _ in range(2):
        with pytest.raises(UsageLimitExceededError) as raised:
            await runner.run_async("go", run_id="r")
        assert (raised.value.result.status, raised.value.result.total_cost) == ("stopped", Decimal(2))
        assert second.call_count == 0
    larger = runner.with_settings(usage_limits=UsageLimits(total_cost_usd_limit=10))
    result = await larger.run_async("go", run_id="r")

    assert (result.output, result.total_cost, first.call_count) == ("y", Decimal(3), 1)


async def test_an_aborted_run_goes_on(backend: StateBackend) -> None:
    """The step that a hook did not let start is the next one."""
    first, one = _paid("first", Paid("x", 2))
    second, two = _paid("second", Paid("y", 1))

    async def stop(payload: PreStepPayload) -> None:
        if payload.step.name == "second":
            raise PipelineAbortSignal("not today")

    aborted = await Flujo(one >> two, state_backend=backend, hooks=[stop]).run_async("go", run_id="r")
    assert (aborted.status, second.call_count) == ("aborted", 0)
    result = await Flujo(one >> two, state_backend=backend).run_async("go", run_id="r")

    assert (result.status, result.total_cost, first.call_count) == ("completed", Decimal(3), 1)


async def test_a_cancelled_run_goes_on(backend: StateBackend) -> None:
    """What had finished when it was cancelled is kept, and the run belongs to nobody any more."""
    first, one = _paid("first", Paid("x", 2))
    started = asyncio.Event()

    run = asyncio.create_task(
        Flujo(one >> waiting_step("second", started), state_backend=backend).run_async("go", run_id="r")
    )
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (await backend.load("r")).record.status == "cancelled"
    _, two = _paid("second", "y")
    result = await Flujo(one >> two, state_backend=backend).run_async("go", run_id="r")

    assert (result.status, result.total_cost, first.call_count) == ("completed", Decimal(2), 1)


async def test_a_run_that_this_process_runs_already_is_refused(backend: StateBackend) -> None:
    """The error says who owns it; the run itself is not disturbed."""
    started, go = asyncio.Event(), asyncio.Event()

    async def wait(data: Any) -> str:
        started.set()
        await go.wait()
        return "done"

    runner = Flujo(Step("wait", wait), state_backend=backend)
    run = asyncio.create_task(runner.run_async("go", run_id="r"))
    await started.wait()
    for again in (runner.run_async("go", run_id="r"), runner.resume_async("r", "yes")):
        with pytest.raises(RunOwnedError, match="'r'") as raised:
            await again
        assert raised.value.run_id == "r"
        assert raised.value.owner.startswith("process ")
    go.set()

    assert (await run).output == "done"


async def test_a_run_with_an_identity_of_its_own_begins_anew(backend: StateBackend) -> None:
    """Without a `run_id` nothing is remembered between runs."""
    agent, step = _paid("ask", "x", "y")
    runner = Flujo(step, state_backend=backend)

    outputs = [(await runner.run_async("go")).output for _ in range(2)]

    assert (outputs, agent.call_count) == (["x", "y"], 2)


async def test_a_completed_run_may_be_forgotten(backend: StateBackend) -> None:
    """With `delete_on_completion` it is gone once it completed, and is there as long as it did not."""
    _, step = _paid("ask", OSError("down"), "x")
    runner = Flujo(step, state_backend=backend, delete_on_completion=True)

    await runner.run_async("go", run_id="r")
    assert (await backend.load("r")).record.status == "failed"
    await runner.run_async("go", run_id="r")

    with pytest.raises(RunNotFoundError) as raised:
        await backend.load("r")
    assert raised.value.run_id == "r"


async def test_a_finished_step_that_changed_is_refused(backend: StateBackend) -> None:
    """The error has its path; what lies beyond may differ, and everything may if the caller says so."""
    _, one = _paid("first", "x")
    _, two = _paid("second", OSError("down"))
    await Flujo(one >> two, state_backend=backend).run_async("go", run_id="r")

    _, renamed = _paid("renamed", "never")
    other, last = _paid("other", "y", "y")
    changed = Flujo(renamed >> last, state_backend=backend)
    with pytest.raises(PipelineChangedError) as raised:
        await changed.run_async("go", run_id="r")
    assert (raised.value.run_id, raised.value.path, other.call_count) == ("r", ("0",), 0)
    assert (await changed.continue_async("r", allow_changes=True)).output == "y"


async def test_hooks_are_told_only_of_steps_that_run(backend: StateBackend) -> None:
    """A finished step is recalled, not run; the run itself starts and ends as ever."""
    heard: list[str] = []

    async def listen(payload: PreRunPayload | PostRunPayload | PreStepPayload | PostStepPayload) -> None:
        kind = type(payload).__name__.removesuffix("Payload")
        heard.append(f"{kind} {payload.step.name}" if isinstance(payload, PreStepPayload) else kind)

    _, one = _paid("first", "x")
    _, two = _paid("second", OSError("down"), "y")
    runner = Flujo(one >> two, state_backend=backend, hooks=[listen])
    await runner.run_async("go", run_id="r")
    heard.clear()
    await runner.run_async("go", run_id="r")

    assert heard == ["PreRun", "PreStep second", "PostStep", "PostRun"]


async def test_a_streaming_run_is_durable_too(backend: StateBackend) -> None:
    """Its chunks come as they are produced; of a finished run there is only the result."""

    class Speaker:
        async def stream(self, data: Any) -> AsyncIterator[str]:
            for word in ("one ", "two"):
                yield word

    runner = Flujo(Step("speak", Speaker()), state_backend=backend)
    first = [item async for item in runner.stream_async("go", run_id="r")]
    second = [item async for item in runner.stream_async("go", run_id="r")]

    assert first[:-1] == ["one ", "two"]
    assert [item.output for item in (first[-1], *second)] == ["one two", "one two"]


async def test_a_run_that_a_mistake_ended_goes_on(backend: StateBackend) -> None:
    """Once the workflow is corrected; the finished steps and what the wrong one paid count."""
    first, one = _paid("first", Paid("x", 2))
    wrong = Flujo(one >> circle("second", 0.5), state_backend=backend)
    with pytest.raises(Exception, match="already had its turn"):
        await wrong.run_async("go", run_id="r")
    _, two = _paid("second", Paid("y", 1))

    result = await Flujo(one >> two, state_backend=backend).run_async("go", run_id="r")

    assert (result.output, result.total_cost, first.call_count) == ("y", Decimal("3.5"), 1)


class _Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize(("durability", "calls"), [("full", 1), ("fast", 1), ("exit", 2)])
async def test_durability_says_what_survives_the_death_of_the_process(durability: Any, calls: int) -> None:
    """With `exit` only the end of a run is stored, so that its steps run again."""
    store = InMemoryBackend(durability=durability)
    first, one = _paid("first", *[Paid("x", 2)] * 2)

    async def die(data: Any) -> Any:
        raise _Crash

    with pytest.raises(_Crash):
        await Flujo(one >> Step("second", die), state_backend=store).run_async("go", run_id="r")
    _, two = _paid("second", "y")
    result = await Flujo(one >> two, state_backend=store).run_async("go", run_id="r")

    assert (result.output, first.call_count) == ("y", calls)


@pytest.mark.parametrize("ending", ["failed", "paused", "completed"])
async def test_with_durability_exit_the_end_of_a_run_is_stored(ending: str) -> None:
    """A failure and a pause are such ends; what finished before is not run again."""
    store = InMemoryBackend(durability="exit")
    first, one = _paid("first", *[Paid("x", 2)] * 2)
    last: Any = {
        "failed": Step("last", StubAgent([OSError("down"), "y"]), max_retries=0),
        "paused": Step.human_in_the_loop("last"),
        "completed": Step("last", StubAgent(["y"])),
    }[ending]
    runner: Flujo[Any, Any] = Flujo(one >> last, state_backend=store)

    ended = await runner.run_async("go", run_id="r")
    again = await (runner.resume_async("r", "y") if ending == "paused" else runner.run_async("go", run_id="r"))

    assert (ended.status, again.output, first.call_count) == (ending, "y", 1)
