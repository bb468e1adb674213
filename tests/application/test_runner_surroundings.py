"""What surrounds a run: resources and hooks."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from pydantic import Field

from flujo import (
    AmountLimits,
    Amounts,
    AppResources,
    Flujo,
    InfiniteRedirectError,
    PipelineAbortSignal,
    PipelineResult,
    PostRunPayload,
    PreRunPayload,
    Step,
    UsageLevel,
    UsageLimits,
)
from flujo.domain.metering import Bound, FixedCall, Meter
from flujo.domain.observers import ReadUsage
from flujo.testing import StubAgent
from tests.application.mistakes import circle
from tests.integration.paid import paid_step


class Counted(AppResources):
    """Resources that log what happens to them."""

    log: list[str] = Field(default_factory=list)

    async def __aenter__(self) -> None:
        self.log.append("entered")

    async def __aexit__(self, *_: object) -> None:
        self.log.append("left")


def _upper() -> Step[str, str]:
    return Step.from_callable(str.upper, name="upper")


@pytest.mark.parametrize("agent", [StubAgent(["fine"]), StubAgent([ValueError("broken")])])
async def test_resources_are_entered_once_and_left_once(agent: StubAgent) -> None:
    """Whether the run completes or fails, what was entered is left."""
    resources = Counted()

    await Flujo(Step("ask", agent, max_retries=0), resources=resources).run_async("x")

    assert resources.log == ["entered", "left"]


async def test_resources_that_give_something_else_are_that() -> None:
    """Agents get what entering gives."""

    class Pool:
        async def __aenter__(self) -> Mapping[str, int]:
            return {"connections": 3}

        async def __aexit__(self, *_: object) -> None: ...

    def use(data: Any, resources: Any) -> Any:
        return resources

    assert (await Flujo(Step("use", use), resources=Pool()).run_async("x")).output == {"connections": 3}


async def test_hooks_hear_the_start_and_the_end() -> None:
    """The first payload has the input, the last one the result; both have context and resources."""
    heard: list[PreRunPayload | PostRunPayload] = []
    resources = AppResources()

    async def listen(payload: PreRunPayload | PostRunPayload) -> None:
        heard.append(payload)

    result = await Flujo(_upper(), hooks=[listen], resources=resources).run_async("x")

    start, end = heard
    assert isinstance(start, PreRunPayload)
    assert isinstance(end, PostRunPayload)
    assert (start.initial_input, end.pipeline_result) == ("x", result)
    assert start.context is end.context is result.final_pipeline_context
    assert start.resources is end.resources is resources


async def test_a_hook_may_look_at_what_is_spent_and_reserved_at_any_time() -> None:
    """From the start of the run on, and while a call is in flight."""
    seen: list[UsageLevel] = []
    read: list[ReadUsage] = []

    async def listen(payload: PreRunPayload) -> None:
        read.append(payload.usage)
        seen.extend(payload.usage())

    async def call(text: str, *, meter: Meter) -> str:
        (await meter.reserve(FixedCall(Bound(Decimal("0.1"), 50)))).lose()
        reservation = await meter.reserve(FixedCall(Bound(Decimal("0.04"), 500)))
        seen.extend(read[0]())
        reservation.settle(Decimal("0.01"), 7)
        return text

    await Flujo(Step("call", call), hooks=[listen], usage_limits=UsageLimits(total_cost_usd_limit=1)).run_async("x")

    before, within, after = [*seen, *read[0]()]
    lost = Amounts(Decimal("0.1"), 50)
    assert {level.label for level in (before, within, after)} == {"the run"}
    assert (before.spent, before.reserved, before.limit) == (Amounts(), Amounts(), AmountLimits(usd=Decimal(1)))
    assert (within.spent, within.reserved, within.uncertain_usd) == (lost, Amounts(Decimal("0.04"), 500), lost.usd)
    assert (after.spent, after.reserved) == (lost + Amounts(Decimal("0.01"), 7), Amounts())


async def test_hooks_hear_of_a_run_that_ends_in_an_error() -> None:
    """A mistake that shows only while running is told as a failed run, and raised."""
    ends: list[PipelineResult[Any]] = []

    async def listen(payload: PostRunPayload) -> None:
        ends.append(payload.pipeline_result)

    with pytest.raises(InfiniteRedirectError):
        await Flujo(paid_step("first", 0.1) >> circle("wrong", 0.5), hooks=[listen]).run_async("x")
    (end,) = ends
    assert (end.status, end.total_cost) == ("failed", Decimal("0.6"))


async def test_a_hook_may_abort_before_the_first_step() -> None:
    """The run ends gracefully, and no agent is called."""
    agent = StubAgent([])

    async def stop(payload: PreRunPayload) -> None:
        raise PipelineAbortSignal("not today")

    result = await Flujo(Step("ask", agent), hooks=[stop]).run_async("x")

    assert (result.status, agent.call_count) == ("aborted", 0)
    assert "not today" in (result.step_history[0].feedback or "")


async def test_an_abort_at_the_very_end_comes_too_late() -> None:
    """A hook cannot abort a run that is over."""

    async def stop(payload: PostRunPayload) -> None:
        raise PipelineAbortSignal("too late")

    assert (await Flujo(_upper(), hooks=[stop]).run_async("x")).status == "completed"
