"""The scenarios do the work that they claim to do."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from flujo.bench import scenarios
from flujo.bench.measuring import count_steps
from flujo.bench.scenarios import COST_USD, SCENARIOS, PaidAgent, Scenario, Work
from flujo.domain.results import PipelineResult

_SIZE = 25

_OUTPUTS: dict[str, Any] = {
    "sequence": _SIZE,
    "durable": _SIZE,
    "loop": _SIZE,
    "parallel": {str(i): 1 for i in range(_SIZE)},
    "map": list(range(1, _SIZE + 1)),
}

every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


def _run_flujo(work: Work) -> PipelineResult[Any]:
    async def run() -> PipelineResult[Any]:
        return await work.flujo()

    return asyncio.run(run())


@every_scenario
def test_both_sides_come_to_the_same(scenario: Scenario) -> None:
    """Both flujo and plain asyncio give the output that takes one call for each step."""

    async def run() -> tuple[Any, Any]:
        work = scenario.prepare(_SIZE)
        return (await work.flujo()).output, (await work.plain()).output

    outputs = asyncio.run(run())

    assert outputs == (_OUTPUTS[scenario.name], _OUTPUTS[scenario.name])


@every_scenario
def test_every_step_is_in_the_history(scenario: Scenario) -> None:
    """A scenario of size N runs N steps."""
    result = _run_flujo(scenario.prepare(_SIZE))

    assert count_steps(result.step_history) == _SIZE


@every_scenario
def test_both_sides_call_the_agent_once_a_step(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither side leaves a call out or makes one twice."""
    calls = _Calls()
    monkeypatch.setattr(scenarios, "increment", calls.counted(scenarios.increment))
    monkeypatch.setattr(PaidAgent, "run", calls.counted(PaidAgent.run))

    async def run() -> tuple[int, int]:
        work = scenario.prepare(_SIZE)
        await work.flujo()
        by_flujo = calls.made
        await work.plain()
        return by_flujo, calls.made - by_flujo

    assert asyncio.run(run()) == (_SIZE, _SIZE)


def test_branches_are_charged() -> None:
    """Each branch reports its usage, and both sides add it up."""
    (parallel,) = (scenario for scenario in SCENARIOS if scenario.name == "parallel")
    work = parallel.prepare(_SIZE)
    result = _run_flujo(work)

    async def run_plain() -> tuple[float, int]:
        plain = await work.plain()
        return plain.cost_usd, plain.tokens

    assert (result.total_cost, result.total_tokens) == (_SIZE * Decimal(repr(COST_USD)), _SIZE * 10)
    cost_usd, tokens = asyncio.run(run_plain())
    assert cost_usd == pytest.approx(_SIZE * COST_USD)
    assert tokens == _SIZE * 10


class _Calls:
    """Counts the calls of async functions."""

    def __init__(self) -> None:
        self.made = 0

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, counted."""

        async def counting(*args: Any) -> Any:
            self.made += 1
            return await function(*args)

        return counting
