"""What an answer costs, as the answer itself reports it."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from flujo import BranchFailureStrategy, Flujo, Pipeline, Step, StepResult, UsageLimitExceededError, UsageLimits


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


class _Integer:
    """As the integers of numpy are: no `int`, but an integer."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self.number == other

    __hash__ = None  # type: ignore[assignment]  # none is needed


class _SinglePrecision:
    def __str__(self) -> str:
        return "0.1"


Real.register(_SinglePrecision)


async def test_numbers_of_other_libraries_are_numbers() -> None:
    """Whatever is an integer counts as one, and a real number as the decimal it prints as."""
    paid = await _run(SimpleNamespace(output="text", cost_usd=_SinglePrecision(), token_counts=_Integer(5)))
    whole = await _run(SimpleNamespace(output="text", cost_usd=_Integer(2)))

    assert (paid.output, paid.cost, paid.token_counts) == ("text", Decimal("0.1"), 5)
    assert (whole.output, whole.cost) == ("text", Decimal(2))


class _NoUsage:
    output = "text"
    cost_usd = 0.25

    def usage(self) -> Any:
        raise LookupError("not yet")


@pytest.mark.parametrize(
    ("answer", "cost", "tokens"),
    [
        (SimpleNamespace(output="text", cost_usd=0.1, token_counts={"input": 5, "output": 6}), "0.1", 0),
        (SimpleNamespace(output="text", cost_usd=0.1, token_counts=3.0), "0.1", 0),
        (SimpleNamespace(output="text", cost_usd=-1, token_counts=5000), "0", 5000),
        (SimpleNamespace(output="text", cost_usd="free", usage=SimpleNamespace(total_tokens=7)), "0", 7),
        (_NoUsage(), "0.25", 0),
        (MagicMock(output="text", token_counts=7), "0", 7),
        (MagicMock(output="text", cost_usd=0.5), "0.5", 0),
        (MagicMock(output="text"), "0", 0),
    ],
)
async def test_what_can_be_read_of_an_odd_report_is_charged(answer: Any, cost: str, tokens: int) -> None:
    """The step fails and says what is odd, with the paid output and the half of the report that is good."""
    result = await _run(answer, max_retries=5)

    assert (result.status, result.attempts, result.output) == ("failed", 1, "text")
    assert (result.cost, result.token_counts) == (Decimal(cost), tokens)
    assert result.feedback is not None
    assert f"{type(answer).__name__} reports" in result.feedback


async def test_an_odd_report_is_told_in_one_line() -> None:
    """Both halves are told, each with what belongs there."""
    result = await _run(_Spent(cost_usd="free", token_counts=1.5))

    assert result.feedback == (
        "NonRetryableError: _Spent reports cost_usd='free': dollars are a number, or None for none; "
        "token_counts=1.5: a count of tokens is an integer, 0 or more, or None for none"
    )


async def test_an_odd_report_counts_against_the_limits() -> None:
    """What can be read of it may pass a limit."""

    async def ask(data: Any) -> Any:
        return _Spent(cost_usd=0.6, token_counts="many")

    with pytest.raises(UsageLimitExceededError, match=r"\$0.6 spent"):
        await Flujo(Step("ask", ask), usage_limits=UsageLimits(total_cost_usd_limit=0.5)).run_async("go")


async def test_a_chunk_with_an_odd_report_is_charged_too() -> None:
    """The stream ends there, and what came before counts as well."""

    async def stream(data: str) -> Any:
        yield _Spent(cost_usd=0.25)
        yield _Spent(cost_usd=0.5, token_counts="many")
        yield _Spent(cost_usd=1)

    result = await Flujo(Step("stream", stream, max_retries=5)).run_async("go")

    assert (result.status, result.total_cost_usd) == ("failed", 0.75)


async def test_an_error_with_an_odd_report_is_charged_too() -> None:
    """The error says why the call failed, and the half of its report that is good counts."""

    class OddError(Exception):
        cost_usd = 0.5
        token_counts = "many"

    async def ask(data: str) -> Any:
        raise OddError("no luck")

    result = await Flujo(Step("ask", ask, max_retries=0)).run_async("go")

    assert (result.step_history[0].feedback, result.total_cost_usd) == ("OddError: no luck", 0.5)


async def test_a_result_of_a_step_is_a_value() -> None:
    """A failed branch's `StepResult` that passes through a step is not unpacked, and not charged again."""

    async def fail(data: str) -> Any:
        raise _SpentError

    def same(data: Any) -> Any:
        return data

    branches = {"a": Step("a", fail, max_retries=0), "b": Step("b", same)}
    parallel = Step.parallel("both", branches, on_branch_failure=BranchFailureStrategy.IGNORE)
    result = await Flujo(parallel >> Step("pass", same).use_input("a")).run_async("go")

    assert isinstance(result.output, StepResult)
    assert (result.output.name, result.total_cost_usd) == ("a", 0.5)


class _SpentError(Exception):
    cost_usd = 0.5


async def test_a_result_of_a_run_is_a_value() -> None:
    """It counts where it was spent, in the step that `as_step` made, and not where it passes through."""

    async def ask(data: str) -> Any:
        return _Spent(cost_usd=0.5)

    def same(data: Any) -> Any:
        return data

    inner = Flujo(Step("ask", ask)).as_step("inner")
    steps: Pipeline[Any, Any] = Pipeline(steps=[inner, Step("pass", same)])
    result = await Flujo(steps).run_async("go")

    assert result.output is result.step_history[0].output
    assert result.total_cost_usd == 0.5


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
