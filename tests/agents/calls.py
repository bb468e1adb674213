"""What the results of steps whose every call was metered say of their calls."""

from collections.abc import Iterable

from flujo import StepResult
from flujo.domain.money import ZERO, add_usd
from flujo.domain.results import UNCERTAIN


def assert_calls_add_up(results: Iterable[StepResult]) -> None:
    """Compare, at every depth, what a step cost with the sum over its calls, to the last digit."""
    for result in results:
        if result.step_history:
            assert not result.calls, "calls are those of one agent"
            assert_calls_add_up(result.step_history)
            continue
        cost, uncertain = ZERO, ZERO
        for call in result.calls:
            cost = add_usd(cost, call.cost)
            uncertain = add_usd(uncertain, call.cost) if call.is_uncertain else uncertain
        assert (cost, sum(call.tokens for call in result.calls)) == (result.cost, result.token_counts)
        assert uncertain == result.metadata_.get(UNCERTAIN, ZERO)
