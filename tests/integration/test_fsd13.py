"""The acceptance criteria of FSD-13, one test for each, named after its requirement."""

import ast
import asyncio
import dataclasses
import inspect
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import flujo
from flujo import (
    ExecutionFrame,
    ExecutorCore,
    Flujo,
    Pipeline,
    PipelineContext,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.application.core import ultra_executor
from flujo.application.core.usage_governor import UsageGovernor
from tests.house.files import REMOVED_MODULE, occurrences, repository_files
from tests.integration.paid import Paid, leaves, paid_step

PACKAGE = Path(flujo.__file__).parent


def _calls(module: Path) -> list[ast.Call]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _prompt(data: Any, context: PipelineContext) -> str:
    return context.initial_prompt


def test_req_core_001_execution_frame_is_a_dataclass() -> None:
    """An `ExecutionFrame` dataclass is defined, and carries the state of one step."""
    assert dataclasses.is_dataclass(ExecutionFrame)
    assert {"step", "data", "context", "scope", "path"} <= {field.name for field in dataclasses.fields(ExecutionFrame)}


def test_req_core_001_execute_takes_only_a_frame() -> None:
    """`ExecutorCore.execute` has no argument besides the frame."""
    assert list(inspect.signature(ExecutorCore.execute).parameters) == ["self", "frame"]


def test_req_core_001_recursion_passes_a_frame() -> None:
    """Every call of `execute` below the runner passes one argument, a frame made by `child`."""
    modules = [*(PACKAGE / "application" / "core").glob("*.py"), *(PACKAGE / "steps").glob("*.py")]
    calls = [call for module in modules for call in _calls(module) if ast.unparse(call.func).endswith(".execute")]
    made = [
        ast.unparse(target)
        for module in modules
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and ".child(" in ast.unparse(node.value)
        for target in node.targets
    ]
    passed = [ast.unparse(call.args[0]) for call in calls]

    assert len(calls) >= 8
    assert all(len(call.args) == 1 and not call.keywords for call in calls)
    assert [argument for argument in passed if ".child(" not in argument and argument not in made] == []


def test_req_core_002_the_removed_module_is_nowhere() -> None:
    """Neither the file nor its name is left in the codebase."""
    repository = PACKAGE.parent

    assert occurrences(REMOVED_MODULE, repository_files(repository), within=repository) == []


def test_req_core_003_step_executor_lives_beside_the_core() -> None:
    """`StepExecutor` is defined in `ultra_executor`, and there only."""
    definitions = [
        module.name
        for module in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and "StepExecutor" in map(ast.unparse, node.targets)
    ]

    assert definitions == ["ultra_executor.py"]
    assert flujo.StepExecutor is ultra_executor.StepExecutor


async def test_req_ctx_001_run_and_run_async_instantiate_the_context() -> None:
    """The runner makes the context for either way to run."""
    runner = Flujo(Step("prompt", _prompt))

    awaited = await runner.run_async("hello")
    called = await asyncio.to_thread(runner.run, "hello")

    assert type(awaited.final_pipeline_context) is type(called.final_pipeline_context) is PipelineContext


def test_req_ctx_001_the_core_creates_no_context() -> None:
    """`ExecutionManager` and `ExecutorCore` contain no call that makes a `PipelineContext`."""
    core = PACKAGE / "application" / "core"

    calls = [call for name in ("execution_manager.py", "ultra_executor.py") for call in _calls(core / name)]

    assert calls
    assert [call for call in calls if ast.unparse(call.func).endswith("Context")] == []


def test_req_ctx_002_the_runner_sets_the_initial_prompt() -> None:
    """A context that the runner creates has the run's input as `initial_prompt`."""
    result = Flujo(Step("prompt", _prompt)).run("Summarise this.")

    assert result.output == "Summarise this."


@pytest.mark.parametrize("inherit_context", [True, False])
def test_req_ctx_002_a_sub_pipeline_has_a_valid_initial_prompt(*, inherit_context: bool) -> None:
    """The context of a pipeline nested by `as_step`, twice deep, has a valid `initial_prompt`."""

    def shout(data: str) -> str:
        return data.upper()

    inner = Pipeline.from_step(Step("prompt", _prompt)).as_step("inner", inherit_context=inherit_context)
    middle = Pipeline.from_step(inner).as_step("middle", inherit_context=inherit_context)

    output: Any = Flujo(Step("shout", shout) >> middle).run("hello").output

    assert output.output.output == ("hello" if inherit_context else "HELLO")


async def test_req_gov_001_limits_are_checked_after_every_step() -> None:
    """The step after the one that passes the limit is not started."""
    pipeline = paid_step("one", 0.02) >> paid_step("two", 0.02) >> paid_step("three", 0.02) >> paid_step("four", 0.02)

    with pytest.raises(UsageLimitExceededError) as error:
        await Flujo(pipeline, usage_limits=UsageLimits(total_cost_usd_limit=0.05)).run_async("x")
    assert [step.name for step in error.value.result.step_history] == ["one", "two", "three"]


async def test_req_gov_002_the_history_has_the_breaching_step() -> None:
    """The error's result includes the step that passed the limit, and what it cost."""
    pipeline = paid_step("cheap", 0.01, 10) >> paid_step("dear", 0.05, 50)

    with pytest.raises(UsageLimitExceededError) as error:
        await Flujo(pipeline, usage_limits=UsageLimits(total_cost_usd_limit=0.02)).run_async("x")
    result = error.value.result
    assert (result.step_history[-1].name, result.step_history[-1].cost) == ("dear", Decimal("0.05"))
    assert (result.total_cost, result.total_tokens, result.status) == (Decimal("0.06"), 60, "stopped")


def test_req_gov_003_add_usage_takes_a_lock() -> None:
    """`_ParallelUsageGovernor.add_usage` changes its counters under an `asyncio.Lock`."""
    branches = UsageGovernor(None, label="the run", on_breach=print).for_branches()
    add_usage = inspect.getsource(type(branches).add_usage)

    assert type(branches).__name__ == "_ParallelUsageGovernor"
    assert "async with self._lock" in add_usage
    assert any(isinstance(value, asyncio.Lock) for value in vars(branches).values())


async def test_req_gov_003_parallel_charges_are_all_counted() -> None:
    """Two thousand branches with many small charges each, nested parallel steps included, add up exactly."""
    charge, calls, nested = Decimal("0.0000317"), 5, 4

    async def spend(data: Any) -> Any:
        await asyncio.sleep(0)  # lets the branches take turns
        return Paid(data, charge, 3)

    def one_after_the_other(name: str) -> Pipeline[Any, Any]:
        return Pipeline(steps=[Step(f"{name} {number}", spend) for number in range(calls)])

    inner = Step.parallel("inner", {f"n{number}": one_after_the_other("call") for number in range(nested)})
    outer = Step.parallel("outer", {f"b{number}": inner for number in range(500)})
    exact = 500 * nested * calls * charge
    runner = Flujo(outer, usage_limits=UsageLimits(total_cost_usd_limit=exact, total_tokens_limit=30_000))

    result = await runner.run_async("x")

    assert (result.total_cost, result.total_tokens) == (exact, 30_000)
    assert sum(step.cost for step in leaves(result.step_history)) == exact
