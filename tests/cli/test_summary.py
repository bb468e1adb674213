"""The table that a run ends with."""

import asyncio
import re
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from flujo import BaseStep, BranchFailureStrategy, Flujo, RefinementCheck, Step
from flujo.cli.summary import summary_table
from flujo.domain.results import PipelineResult


def double(number: int) -> int:
    """Return twice a number."""
    return 2 * number


def refuse(number: int) -> int:
    """Raise an error."""
    raise ValueError("refused")


def first_branch(number: int, context: object) -> str:
    """Choose the branch `a`."""
    return "a"


class Paid:
    output, cost_usd, token_counts = 1, 0.25, 1000


def pay(number: int) -> Any:
    """Return an answer that costs."""
    return Paid()


def draft(request: dict[str, Any]) -> int:
    """Return another draft once there is feedback."""
    return 1 if request["feedback"] is None else 2


def judge(number: int) -> RefinementCheck:
    """Accept the second draft."""
    return RefinementCheck(is_complete=number == 2, feedback="larger")


def table_of(step: BaseStep[Any, Any], data: Any, width: int = 100) -> list[list[str]]:
    """Run a pipeline and return the cells of its table, the time left out."""
    runner = Flujo(step)
    result: PipelineResult[Any] = asyncio.run(_run(runner, data))
    table = summary_table(result, runner.pipeline, elapsed_s=0, width=width)
    console = Console(file=StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, StringIO)
    rows = re.sub(r"\d[\d.]* m?s\b|Time", "", console.file.getvalue()).splitlines()
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]


async def _run(runner: Flujo[Any, Any], data: Any) -> PipelineResult[Any]:
    return await runner.run_async(data)


@pytest.mark.parametrize(
    ("step", "data", "rows"),
    [
        (Step.map_over("each", Step("pay", pay)), [1, 2], [["2 items", "completed", "2", "$0.5", "2,000"]]),
        (
            Step.loop_until("loop", Step("double", double), lambda number, _: number > 7),
            1,
            [["3 iterations", "completed", "3", "$0", "0"]],
        ),
        (
            Step.refine_until("refine", Step("draft", draft), Step("judge", judge)),
            1,
            [["generator (2)", "completed", "2", "$0", "0"], ["critic (2)", "completed", "2", "$0", "0"]],
        ),
        (
            Step.branch_on("choose", first_branch, {"a": Step("double", double), "b": Step("pay", pay)}),
            1,
            [["branch a", "completed", "1", "$0", "0"]],
        ),
        (
            Step.parallel("both", {"a": Step("double", double), "b": Step("pay", pay)}),
            1,
            [["branch a", "completed", "1", "$0", "0"], ["branch b", "completed", "1", "$0.25", "1,000"]],
        ),
        (
            Step("refuse", refuse, max_retries=0).fallback(Step("double", double)),
            1,
            [["first try", "failed", "1", "$0", "0"], ["fallback", "completed", "1", "$0", "0"]],
        ),
        (
            Step.map_over(
                "each",
                Step.branch_on("choose", lambda n, _: n, {1: Step("double", double)}),
                on_branch_failure=BranchFailureStrategy.IGNORE,
            ),
            [1, 2, 1],
            [["3 items", "2 completed, 1 failed", "3", "$0", "0"]],
        ),
    ],
    ids=["map", "loop", "refine", "branch", "parallel", "fallback", "mixed"],
)
def test_what_ran_within_a_step_stands_below_it(step: BaseStep[Any, Any], data: Any, rows: list[list[str]]) -> None:
    """Branches stand by name, and what runs repeatedly in one row with its number."""
    assert table_of(step, data)[2:-1] == rows


def test_a_wide_parallel_is_cut() -> None:
    """After a dozen branches the others share a row."""
    rows = table_of(Step.parallel("all", {f"b{i}": Step("pay", pay) for i in range(20)}), 1)

    assert len(rows) == 1 + 1 + 12 + 1 + 1
    assert rows[-2] == ["and 8 more", "completed", "8", "$2", "8,000"]
    assert rows[-1] == ["total", "completed", "$5", "20,000"]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (100, ["Step", "Status", "Attempts", "Cost", "Tokens"]),
        (50, ["Step", "Status", "Cost", "Tokens"]),
        (44, ["Step", "Status", "Cost"]),
        (24, ["Step", "Status"]),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns(width: int, columns: list[str]) -> None:
    """Columns are left out rather than squeezed, and long names are shortened."""
    rows = table_of(Step("a step with a very long name that goes on and on and on and on", double), 1, width)

    assert rows[0] == columns
    assert rows[1][0].endswith("…")
    assert rows[1][1] == "completed"


def test_the_total_is_exact() -> None:
    """A thousand small costs make a round sum."""

    class Cheap:
        output, cost_usd, token_counts = 1, Decimal("0.0001"), 1

    def pay_little(number: int) -> Any:
        return Cheap()

    rows = table_of(Step.map_over("each", Step("pay", pay_little)), list(range(1000)))

    assert rows[-1] == ["total", "completed", "$0.1", "1,000"]
