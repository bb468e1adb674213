"""What an answer costs, as the answer itself reports it."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from flujo import Flujo, Step, StepResult, UsageLimitExceededError, UsageLimits


async def _run(answer: Any, **options: Any) -> StepResult:
    async def ask(data: str) -> Any:
        return answer

    return (await Flujo(Step("ask", ask, **options)).run_async("go")).step_history[0]


@dataclass
class _Spent:
    cost_usd: Any = None
    token_counts: Any = None


class _PydanticAiResult:
    """Shaped as the result of a pydantic-ai agent: the usage is a method."""

    output = "text"

    def usage(self) -> Any:
        return SimpleNamespace(input_tokens=3, output_tokens=4, total_tokens=7)


_REPORTS: list[tuple[Any, Any, str, int]] = [
    (SimpleNamespace(output="text", cost_usd=0.1, token_counts=5), "text", "0.1", 5),
    (SimpleNamespace(output="text", cost_usd=0.1), "text", "0.1", 0),
    (SimpleNamespace(output="text", token_counts=5), "text", "0", 5),
    (SimpleNamespace(output=None, cost_usd=2), None, "2", 0),
    (SimpleNamespace(output="text", cost_usd=Decimal("0.10"), token_counts=None), "text", "0.1", 0),
    (SimpleNamespace(output="text", usage=SimpleNamespace(total_tokens=9)), "text", "0", 9),
    (SimpleNamespace(output="text", usage=SimpleNamespace(input_tokens=4, output_tokens=5)), "text", "0", 9),
    (SimpleNamespace(output="text", cost_usd=0.5, usage=SimpleNamespace(total_tokens=9)), "text", "0.5", 9),
    (_PydanticAiResult(), "text", "0", 7),
]


@pytest.mark.parametrize(("answer", "output", "cost", "tokens"), _REPORTS)
async def test_a_report_is_charged_and_the_output_unpacked(answer: Any, output: Any, cost: str, tokens: int) -> None:
    """An answer with `cost_usd`, `token_counts` or provider usage is charged, and its `output` is the step's."""
    result = await _run(answer)

    assert (result.output, result.cost, result.token_counts) == (output, Decimal(cost), tokens)


@pytest.mark.parametrize("answer", [_Spent(cost_usd=0.25, token_counts=8), _Spent(cost_usd=0.25)])
async def test_an_answer_without_an_output_is_the_output(answer: Any) -> None:
    """A report that has no `output` attribute is charged, and goes on as it is."""
    result = await _run(answer)

    assert result.output is answer
    assert result.cost == Decimal("0.25")


@pytest.mark.parametrize(
    "answer",
    [
        SimpleNamespace(output="text"),
        SimpleNamespace(output="text", usage="heavy"),
        SimpleNamespace(output="text", usage=SimpleNamespace(total_tokens=None)),
        SimpleNamespace(usage=lambda: SimpleNamespace(total_tokens=9)),
        _Spent(),
        {"output": "text", "cost_usd": 0.1},
        None,
        0,
    ],
)
async def test_an_answer_without_a_report_is_the_output(answer: Any) -> None:
    """Only attributes report a cost; without one the answer is not touched, an `output` of its own included."""
    result = await _run(answer)

    assert result.output is answer
    assert (result.cost, result.token_counts) == (Decimal(0), 0)


@pytest.mark.parametrize(
    ("reported", "charged"),
    [
        (0.1, "0.1"),
        (1e-7, "1e-7"),
        (0.30000000000000004, "0.30000000000000004"),
        (Decimal("0.1234567890123456789012345678901234567890"), "0.1234567890123456789012345678901234567890"),
        (3, "3"),
    ],
)
async def test_a_float_is_read_as_the_decimal_it_prints_as(reported: Any, charged: str) -> None:
    """A cost of `0.1` is one tenth of a dollar, and a decimal loses no digit."""
    result = await _run(_Spent(cost_usd=reported))

    assert result.cost == Decimal(charged)


async def test_ten_thousand_charges_add_up_exactly() -> None:
    """A cent in a hundred parts is a cent again, in a stream of charged chunks too."""

    async def count(number: int) -> Any:
        for _ in range(number):
            yield SimpleNamespace(output="x", cost_usd=0.0001)

    result = await Flujo(Step("count", count)).run_async(10_000)

    assert result.total_cost == 1
    assert len(result.output or "") == 10_000


@pytest.mark.parametrize(
    "answer",
    [
        _Spent(cost_usd=-0.1),
        _Spent(cost_usd=float("nan")),
        _Spent(cost_usd=float("inf")),
        _Spent(cost_usd=Decimal("-Infinity")),
        _Spent(cost_usd="0.1"),
        _Spent(cost_usd=True),
        _Spent(cost_usd=1e300),
        _Spent(token_counts=-1),
        _Spent(token_counts=1.5),
        _Spent(token_counts=True),
    ],
)
async def test_a_report_that_is_no_amount_fails_the_step_without_a_retry(answer: Any) -> None:
    """Calling again would only pay again, so the step fails at once and says what was reported."""
    result = await _run(answer, max_retries=5)

    assert (result.success, result.attempts) == (False, 1)
    assert result.feedback is not None
    assert "_Spent reports" in result.feedback


@pytest.mark.parametrize(
    "spend", [lambda: _Spent(cost_usd=0.6), lambda: _Spent(token_counts=60)], ids=["dollars", "tokens"]
)
async def test_reported_usage_counts_against_the_limits(spend: Callable[[], Any]) -> None:
    """What answers report is what limits are checked against, exactly and after each step."""

    async def ask(data: Any) -> Any:
        return spend()

    limits = UsageLimits(total_cost_usd_limit=1.2, total_tokens_limit=120)
    steps = Step("a", ask) >> Step("b", ask) >> Step("c", ask) >> Step("d", ask)
    with pytest.raises(UsageLimitExceededError) as raised:
        await Flujo(steps, usage_limits=limits).run_async("go")

    assert [result.name for result in raised.value.result.step_history] == ["a", "b", "c"]
