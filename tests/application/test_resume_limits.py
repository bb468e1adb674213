"""What cannot be resumed, and what holds over a pause: limits, resources, hooks."""

from decimal import Decimal
from typing import Any

import pytest

from flujo import (
    BaseStep,
    Flujo,
    HookPayload,
    InMemoryBackend,
    Pipeline,
    PipelineResult,
    PostRunPayload,
    StateError,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.testing import StubAgent
from tests.integration.paid import leaves, paid_step
from tests.integration.people import ask, pause


@pytest.mark.parametrize("output", ["fine", ValueError("broken")])
async def test_what_does_not_wait_cannot_be_resumed(output: Any) -> None:
    """A run that completed or failed is refused with its status."""
    runner = Flujo(Step("agent", StubAgent([output]), max_retries=0))
    result = await runner.run_async("x", run_id="r1")

    with pytest.raises(StateError, match=f"run r1 does not wait for an answer: it is {result.status}"):
        await runner.resume_async(result, "yes")


async def test_a_stopped_run_cannot_be_resumed() -> None:
    """The result of a breach does not wait for anybody."""
    runner = Flujo(paid_step("dear", 1), usage_limits=UsageLimits(total_cost_usd_limit=0.5))
    with pytest.raises(UsageLimitExceededError) as error:
        await runner.run_async("x")

    with pytest.raises(StateError, match="it is stopped"):
        await runner.resume_async(error.value.result, "yes")


async def test_a_run_of_another_pipeline_is_refused() -> None:
    """Only a runner of the same steps can go on."""
    paused = await pause(Flujo(ask() >> paid_step("send")), run_id="r1")

    with pytest.raises(StateError, match="run r1 is of another pipeline; resume it with the runner that paused it"):
        await Flujo(ask() >> paid_step("throw away")).resume_async(paused, "yes")


async def test_another_runner_of_the_same_pipeline_may_resume() -> None:
    """The runner is not part of a paused result."""
    pipeline = ask() >> paid_step("send", 0.01)

    result = await Flujo(pipeline).resume_async(await pause(Flujo(pipeline)), "yes")

    assert result.status == "completed"


async def test_a_copy_that_lost_its_place_is_refused() -> None:
    """A result that was written and read back does not know where it stood."""
    runner = Flujo(ask())
    paused = await pause(runner, run_id="r1")
    copy = PipelineResult[Any].model_construct(**{**dict(paused), "resume_point": None})

    with pytest.raises(StateError, match="this copy of run r1 does not know where it stands"):
        await runner.resume_async(copy, "yes")


async def test_the_identity_of_a_run_needs_a_store_to_find_it_in() -> None:
    """A runner without a state backend knows no runs by their identity."""
    with pytest.raises(StateError, match="no store to find run 'r1' in; give the runner a state_backend"):
        await Flujo(ask()).resume_async("r1", "yes")


@pytest.mark.parametrize("paused", [b"r1", None, 3])
async def test_only_a_result_can_be_resumed(paused: Any) -> None:
    """Anything else is refused with what it is."""
    with pytest.raises(StateError, match="is no PipelineResult; resume takes the result of a paused run"):
        await Flujo(ask()).resume_async(paused, "yes")


# Limits and hooks


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (UsageLimits(total_cost_usd_limit=0.05), r"passed its limit of \$0.05: \$0.06 spent"),
        (UsageLimits(total_tokens_limit=15), "passed its limit of 15 tokens: 20 spent"),
    ],
)
async def test_limits_count_over_the_pause(limits: UsageLimits, message: str) -> None:
    """What was spent before a pause counts after it."""
    pipeline = paid_step("before", 0.03, 10) >> ask() >> paid_step("after", 0.03, 10)
    runner = Flujo(pipeline, usage_limits=limits)
    paused = await pause(runner)

    with pytest.raises(UsageLimitExceededError, match=message) as error:
        await runner.resume_async(paused, "yes")
    assert [step.name for step in error.value.result.step_history] == ["before", "ask", "after"]


@pytest.mark.parametrize("pauses", [1, 3])
async def test_the_limit_of_a_step_counts_over_its_pauses(pauses: int) -> None:
    """A step with limits that pauses within has spent what it had spent."""
    steps: list[BaseStep[Any, Any]] = [paid_step("before", 0.03)]
    steps += [ask(f"ask {number}") for number in range(pauses)]
    limited = Pipeline(steps=[*steps, paid_step("after", 0.03)], usage_limits=UsageLimits(total_cost_usd_limit=0.05))
    runner = Flujo(paid_step("first", 1) >> Step.parallel("both", {"a": limited}))
    result = await pause(runner)
    for _ in range(pauses - 1):
        result = await runner.resume_async(result, "yes")

    with pytest.raises(UsageLimitExceededError, match=r"passed its limit of \$0.05: \$0.06 spent"):
        await runner.resume_async(result, "yes")


async def test_a_run_that_has_spent_too_much_already_starts_nothing() -> None:
    """Resumed under a limit that is passed already, no step starts; under a larger one the same pause goes on."""
    agent = StubAgent(["sent"])
    inner: BaseStep[Any, Any] = Step.branch_on("inner", lambda data, context: 1, {1: ask() >> Step("after", agent)})
    pipeline = paid_step("before", 0.03) >> inner
    paused = await pause(Flujo(pipeline))

    with pytest.raises(UsageLimitExceededError, match=r"limit of \$0.01: \$0.03 spent") as error:
        await Flujo(pipeline, usage_limits=UsageLimits(total_cost_usd_limit=0.01)).resume_async(paused, "yes")
    assert agent.call_count == 0
    assert error.value.result.total_cost == Decimal("0.03")
    assert (await Flujo(pipeline).resume_async(paused, "yes")).output == "sent"


async def test_resources_are_entered_for_each_part_of_a_run() -> None:
    """A pause leaves the resources, and a resume enters them again."""
    log: list[str] = []

    class Resources:
        async def __aenter__(self) -> str:
            log.append("entered")
            return "client"

        async def __aexit__(self, *_: object) -> None:
            log.append("left")

    def use(data: Any, resources: Any) -> Any:
        log.append(resources)
        return data

    runner = Flujo(Step("use", use) >> ask() >> Step("use again", use), resources=Resources())

    await runner.resume_async(await pause(runner), "yes")

    assert log == ["entered", "client", "left", "entered", "client", "left"]


async def test_hooks_hear_how_each_part_ends() -> None:
    """The end of a run is told when it pauses and when it completes."""
    heard: list[HookPayload] = []

    async def listen(payload: PostRunPayload) -> None:
        heard.append(payload)

    runner = Flujo(ask(), hooks=[listen])

    await runner.resume_async(await pause(runner), "yes")

    statuses = [each.pipeline_result.status for each in heard if isinstance(each, PostRunPayload)]
    assert statuses == ["paused", "completed"]


class _Picks:
    """A router that always names one branch."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self, data: Any) -> str:
        return self.name


@pytest.mark.parametrize("is_stored", [False, True], ids=["in memory", "stored"])
async def test_what_waits_beside_a_breach_keeps_what_it_paid(*, is_stored: bool) -> None:
    """The error has what was paid in every branch, those too that did not get to go on."""
    dear = ask("dear?") >> paid_step("dear", 0.5)
    cheap = paid_step("cheap", 0.25) >> ask("cheap?") >> paid_step("never", 0.1)
    routed = Step.dynamic_parallel_branch("routed", _Picks("asks"), {"asks": paid_step("first", 0.25) >> ask("asks?")})
    both = Step.parallel("both", {"dear": dear, "cheap": cheap, "routed": routed})
    backend = InMemoryBackend() if is_stored else None
    runner = Flujo(both, usage_limits=UsageLimits(total_cost_usd_limit=0.75), state_backend=backend)
    result = await runner.run_async("x", run_id="run")
    paths = {asked.step_name: asked.path for asked in result.waiting}

    with pytest.raises(UsageLimitExceededError) as error:
        await runner.resume_async("run" if is_stored else result, "yes", path=paths["dear?"])

    stopped = error.value.result
    assert stopped.total_cost == 1
    names = {leaf.name for leaf in leaves(stopped.step_history) if leaf.cost}
    assert names == {"dear", "cheap", "first"}


async def test_what_waits_on_a_part_of_its_input_keeps_what_it_paid() -> None:
    """A step that does not get to go on, because less may be spent by now, is looked at with the input that it had."""
    branches = {"long": paid_step("cheap", 0.25) >> ask("cheap?")}
    picked = Step.branch_on("picked", lambda data, context: data["kind"], branches).use_input("text")
    both = Step.parallel("both", {"dear": paid_step("dear", 0.5) >> ask("dear?"), "picked": picked})
    backend = InMemoryBackend()
    await Flujo(both, state_backend=backend).run_async({"text": {"kind": "long"}}, run_id="run")
    poorer = Flujo(both, state_backend=backend, usage_limits=UsageLimits(total_cost_usd_limit=0.4))

    with pytest.raises(UsageLimitExceededError) as error:
        await poorer.run_async({"text": {"kind": "long"}}, run_id="run")

    assert {leaf.name for leaf in leaves(error.value.result.step_history) if leaf.cost} == {"dear", "cheap"}
