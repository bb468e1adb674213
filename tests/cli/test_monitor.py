"""The monitor of a run knows which steps run, though of the steps around a waiting one no end is told."""

from decimal import Decimal
from typing import Any

import pytest

from flujo import Flujo, Step, UsageLimitExceededError, UsageLimits
from flujo.cli.monitor import RunMonitor
from tests.steps.nesting import AROUND
from tests.steps.workflows import CENT, paid


@pytest.mark.parametrize("kind", AROUND)
def test_no_step_of_a_paused_run_is_left_running(kind: str) -> None:
    """Whatever is around the question; what was paid before it counts, once."""
    monitor = RunMonitor()
    body: Any = paid("before") >> Step.human_in_the_loop("ask", "?")

    result = Flujo(AROUND[kind](body), hooks=[monitor]).run("x")

    assert result.status == "paused"
    assert monitor.running == {}
    assert (monitor.cost, monitor.tokens) == (CENT, 10)


def test_a_resumed_run_is_followed_to_its_end() -> None:
    """A monitor that saw the pause sees the rest, and counts what is spent then."""
    monitor = RunMonitor()
    loop = Step.loop_until("loop", Step.human_in_the_loop("ask", "?") >> paid("after"), lambda output, context: True)
    flujo = Flujo(loop, hooks=[monitor])

    flujo.resume(flujo.run("x"), "yes")

    assert monitor.running == {}
    assert (monitor.cost, monitor.finished_steps) == (Decimal("0.01"), 2)


def test_steps_that_a_breach_ends_are_no_longer_running() -> None:
    """The breaching step and those around it are told of as failures."""
    monitor = RunMonitor()
    loop = Step.loop_until("loop", paid("dear"), lambda output, context: False, max_loops=9)

    with pytest.raises(UsageLimitExceededError):
        Flujo(loop, hooks=[monitor], usage_limits=UsageLimits(total_tokens_limit=15)).run("x")

    assert monitor.running == {}
    assert monitor.tokens == 20
