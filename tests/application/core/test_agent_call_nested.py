"""An agent that runs another pipeline is an agent like any other."""

import asyncio
from typing import Any

import pytest

from flujo import Flujo, Step, UsageLimitExceededError, UsageLimits
from flujo.testing import StubAgent
from tests.application.core.agent_answers import Paid

_ONE_DOLLAR = UsageLimits(total_cost_usd_limit=1)
_FIVE_DOLLARS = UsageLimits(total_cost_usd_limit=5)


async def test_a_nested_run_that_passes_its_own_limit_fails_the_outer_step() -> None:
    """The limit of the inner run is an error of the agent, and stops nothing but the inner run."""
    inner = Flujo(Step("inner", StubAgent([Paid("x", 2)] * 2)), usage_limits=_ONE_DOLLAR)

    async def nest(data: str) -> Any:
        return await inner.run_async(data)

    outer = Step("outer", nest, max_retries=0).fallback(Step("rescue", StubAgent(["saved"])))
    result = await Flujo(outer, usage_limits=_FIVE_DOLLARS).run_async("go")

    assert (result.status, result.output) == ("completed", "saved")
    assert result.total_cost == 2
    assert "the run passed its limit of $1: $2 spent" in result.step_history[0].metadata_["original_error"]


async def test_a_breach_of_the_outer_run_ends_the_nested_one() -> None:
    """The inner run is cut short with the call that it is, and its task is not left cancelled."""
    began, ended = asyncio.Event(), list[str]()

    async def hang(data: str) -> Any:
        began.set()
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            ended.append("ended")

    inner = Flujo(Step("hang", hang, timeout_s=60, max_retries=5), usage_limits=_ONE_DOLLAR)

    async def nest(data: str) -> Any:
        return await inner.run_async(data)

    async def spend(data: str) -> Any:
        await began.wait()
        return Paid("spent", 2)

    branches = {"nest": Step("nest", nest, max_retries=5), "spend": Step("spend", spend)}
    with pytest.raises(UsageLimitExceededError) as raised:
        await Flujo(Step.parallel("both", branches), usage_limits=_ONE_DOLLAR).run_async("go")

    nested, spent = raised.value.result.step_history[0].step_history
    assert ended == ["ended"]
    assert (nested.status, nested.attempts, spent.status) == ("stopped", 1, "completed")


async def test_a_breach_of_a_nested_run_leaves_the_outer_call_alone() -> None:
    """Branches of the inner run are cut short; the agent goes on and answers."""
    began = asyncio.Event()

    async def hang(data: str) -> Any:
        began.set()
        return await asyncio.get_running_loop().create_future()

    async def spend(data: str) -> Any:
        await began.wait()
        return Paid("spent", 2)

    branches = {"hang": Step("hang", hang), "spend": Step("spend", spend)}
    inner = Flujo(Step.parallel("both", branches), usage_limits=_ONE_DOLLAR)

    async def nest(data: str) -> str:
        try:
            await inner.run_async(data)
        except UsageLimitExceededError as exceeded:
            await asyncio.sleep(0)
            return exceeded.result.status
        return "no limit"

    result = await Flujo(Step("nest", nest, timeout_s=60), usage_limits=_FIVE_DOLLARS).run_async("go")

    assert result.output == "stopped"
