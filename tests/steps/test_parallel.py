"""`Step.parallel`: branches at once, on copies of the context, with outputs in order of declaration."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from flujo import BaseStep, BranchFailureStrategy, Flujo, Step, UsageLimitExceededError, UsageLimits
from tests.steps.workflows import CENT, Gate, Notes, Paid, assert_adds_up, failing, leaves, paid, setting

IGNORE = BranchFailureStrategy.IGNORE


async def test_all_branches_run_at_once_and_give_a_dict() -> None:
    """Every branch is started before any has ended, and each output is under its branch's name."""
    gate = Gate(3)
    step = Step.parallel("p", {name: Step(name, gate) for name in "abc"})

    result = await Flujo(step).run_async("x")

    assert result.output == {"a": "x", "b": "x", "c": "x"}
    assert gate.most == 3


async def test_outputs_are_in_order_of_declaration_whatever_finishes_first() -> None:
    """Branches that finish last to first give outputs, results and children first to last."""
    done = {name: asyncio.Event() for name in "abcd"}
    done["d"].set()
    finished: list[str] = []

    def after(name: str, following: str) -> Step[Any, Any]:
        async def answer(data: Any) -> str:
            await done[following].wait()
            finished.append(name)
            done[name].set()
            return name

        return Step(name, answer)

    step = Step.parallel("p", {"a": after("a", "b"), "b": after("b", "c"), "c": after("c", "d")})

    result = await Flujo(step).run_async(None)

    assert finished == ["c", "b", "a"]
    assert list(result.output or ()) == ["a", "b", "c"]
    assert [child.name for child in result.step_history[0].step_history] == ["a", "b", "c"]


@pytest.mark.parametrize(("max_concurrency", "most"), [(1, 1), (3, 3), (50, 12), (None, 12)])
async def test_max_concurrency_bounds_how_many_run(max_concurrency: int | None, most: int) -> None:
    """The bound is reached and never passed, and all branches run."""
    gate = Gate(most)
    step = Step.parallel("p", {str(i): Step(str(i), gate) for i in range(12)}, max_concurrency=max_concurrency)

    result = await Flujo(step).run_async("x")

    assert gate.most == most
    assert list(result.output or ()) == [str(i) for i in range(12)]


def test_a_parallel_step_says_what_it_took() -> None:
    """Cost and tokens are the sums over the branches, of steps and of pipelines, each counted once."""
    step = Step.parallel("p", {"one": paid("one"), "two": paid("first") >> paid("second")})

    result = Flujo(step).run("x")
    (parallel,) = result.step_history

    assert (parallel.name, parallel.success, parallel.status, parallel.attempts) == ("p", True, "completed", 1)
    assert (parallel.cost, parallel.token_counts, parallel.feedback) == (3 * CENT, 30, None)
    assert_adds_up(result)


def test_a_failed_branch_fails_the_step_and_the_others_run_to_their_end() -> None:
    """By default the step fails, names branch, step and error, and keeps every output and every cent."""
    step = Step.parallel("p", {"bad": failing("call", "no luck", max_retries=1), "good": paid("good") >> paid("more")})

    result = Flujo(step >> paid("never")).run("x")
    (parallel,) = result.step_history
    bad, good = parallel.step_history

    assert (result.success, result.status, result.output) == (False, "failed", None)
    assert parallel.feedback == "branch bad: step 'call': PaidError: no luck"
    assert (good.success, good.output, bad.success, bad.attempts) == (True, "x", False, 2)
    assert parallel.output == {"bad": bad, "good": "x"}
    assert result.total_cost == 4 * CENT
    assert_adds_up(result)


def test_ignored_failures_are_in_the_output_as_results() -> None:
    """With `IGNORE` one good branch is enough; a failed one stands in the output as its failed result."""
    step = Step.parallel("p", {"bad": failing("bad"), "good": paid("good")}, on_branch_failure=IGNORE)

    result = Flujo(step).run("x")
    (parallel,) = result.step_history

    assert result.success
    assert parallel.feedback is None
    assert result.output == {"bad": parallel.step_history[0], "good": "x"}
    assert parallel.step_history[0].feedback == "PaidError: no luck"
    assert parallel.cost == 2 * CENT


def test_ignoring_failures_still_needs_one_success() -> None:
    """With `IGNORE` a step of which every branch failed has failed; its feedback stays of bounded length."""
    branches = {f"b{i}": failing("call") for i in range(10)}

    result = Flujo(Step.parallel("p", branches, on_branch_failure=IGNORE)).run("x")
    (parallel,) = result.step_history

    assert not result.success
    assert parallel.feedback is not None
    assert parallel.feedback.startswith("branch b0: step 'call'")
    assert parallel.feedback.endswith("; and 7 more")
    assert parallel.cost == 10 * CENT


@pytest.mark.parametrize("name", ["a/b", "branch:a", "", " ", "0", "ключ", "a\nb", "{x}", "iteration:1"])
def test_a_branch_may_have_any_name(name: str) -> None:
    """Odd names are kept as they are in the output and in the path of what waits."""
    step = Step.parallel("p", {name: Step.human_in_the_loop("ask", "?"), "plain": paid("plain")})
    flujo = Flujo(step)

    paused = flujo.run("x")
    result = flujo.resume(paused, "yes")

    assert paused.waiting[0].path == ("0", f"branch:{name}", "0")
    assert result.output == {name: "yes", "plain": "x"}


def test_names_that_read_the_same_have_paths_of_their_own() -> None:
    """Keys such as `1` and `"1"` are two branches at two addresses."""
    ask = Step.human_in_the_loop("ask", "?")
    branches: Mapping[Any, BaseStep[Any, Any]] = {1: ask, "1": ask, "1#2": ask}
    flujo = Flujo(Step.parallel("p", branches))

    paused = flujo.run("x")
    for answer in ("first", "second"):
        paused = flujo.resume(paused, answer, path=paused.waiting[0].path)
    result = flujo.resume(paused, "third")

    assert result.output == {1: "first", "1": "second", "1#2": "third"}


def test_a_step_may_stand_in_several_branches() -> None:
    """One step object in many branches runs once in each."""
    same = paid("same", lambda data: data + 1)

    result = Flujo(Step.parallel("p", {"a": same, "b": same, "c": same >> same})).run(0)

    assert result.output == {"a": 1, "b": 1, "c": 2}
    assert result.total_cost == 4 * CENT


def test_branches_have_contexts_of_their_own() -> None:
    """What a branch writes, deep inside too, is seen neither by another branch nor, without a merge, after the step."""

    async def write(data: str, *, context: Notes) -> list[str]:
        context.tags.append(data)
        context.table.setdefault("seen", []).append(data)
        context.count += 1
        return list(context.tags)

    branch = Step("write", write) >> Step.from_callable(len, name="len")
    step = Step.parallel("p", {"a": Step("write", write), "b": branch})

    result = Flujo(step, context_model=Notes, initial_context_data={"tags": ["old"]}).run("x")
    context = result.final_pipeline_context
    first, second = result.step_history[0].step_history

    assert result.output == {"a": ["old", "x"], "b": 2}
    assert isinstance(context, Notes)
    assert (context.tags, context.table, context.count) == (["old"], {}, 0)
    assert first.branch_context.tags == second.branch_context.tags == ["old", "x"]
    assert first.branch_context is not second.branch_context


def test_only_included_fields_reach_the_branches() -> None:
    """With `context_include_keys` the other fields have their defaults in the branches, the run's own apart."""

    async def look(data: Any, *, context: Notes) -> tuple[int, list[str], str]:
        return context.count, context.tags, context.initial_prompt

    step = Step.parallel("p", {"a": Step("look", look)}, context_include_keys=["count"])

    result = Flujo(step, context_model=Notes, initial_context_data={"count": 7, "tags": ["t"]}).run("ask")

    assert result.output == {"a": (7, [], "ask")}


def test_what_is_declared_is_not_changed_from_outside() -> None:
    """A caller who goes on with the dicts and lists that declared a step does not change it."""
    branches: dict[str, BaseStep[Any, Any]] = {"a": paid("a")}
    include = ["count"]
    step = Step.parallel("p", branches, context_include_keys=include)

    branches["b"] = failing("b")
    include.append("nothing")

    assert Flujo(step, context_model=Notes).run("x").output == {"a": "x"}


class Frozen(BaseModel):
    """A context without anything flujo knows, that cannot be assigned to."""

    model_config = ConfigDict(frozen=True)

    count: int = 0
    words: tuple[str, ...] = ()


def test_any_model_may_be_the_context_of_branches() -> None:
    """A frozen model without `run_id` or scratchpad is copied for branches as well."""

    async def look(data: Any, *, context: Frozen) -> int:
        return context.count

    step = Step.parallel("p", {"a": Step("look", look), "b": Step("look", look)})

    result = Flujo(step, context_model=Frozen, initial_context_data={"count": 3}).run(None)

    assert result.output == {"a": 3, "b": 3}
    assert result.final_pipeline_context == Frozen(count=3)


def test_a_limit_on_a_parallel_step_counts_all_branches() -> None:
    """Branches that stay below the limit one by one break it together; what was paid for is in the history."""
    branches = {f"b{i}": paid("call") for i in range(5)}
    step = Step.parallel("p", branches, usage_limits=UsageLimits(total_cost_usd_limit=0.03), max_concurrency=1)

    with pytest.raises(UsageLimitExceededError, match=r"step 'p' passed its limit of \$0.03: \$0.04 spent") as error:
        Flujo(step).run("x")
    result = error.value.result

    assert (result.status, result.total_cost) == ("stopped", 4 * CENT)
    assert [child.status for child in result.step_history[0].step_history] == ["completed"] * 4
    assert_adds_up(result)


async def test_a_breach_in_one_branch_cuts_short_the_calls_of_the_others() -> None:
    """A call in flight is cut short, and what its branch had finished before stays in the history."""
    started = asyncio.Event()

    async def hang(data: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    async def spend(data: Any) -> Paid:
        await started.wait()
        return Paid("dear", Decimal(1))

    step = Step.parallel("p", {"slow": paid("first") >> Step("hang", hang), "dear": Step("dear", spend)})

    with pytest.raises(UsageLimitExceededError) as error:
        await Flujo(step, usage_limits=UsageLimits(total_cost_usd_limit=0.5)).run_async("x")
    result = error.value.result

    assert {leaf.name: leaf.status for leaf in leaves(result.step_history)} == {
        "first": "completed",
        "hang": "stopped",
        "dear": "completed",
    }
    assert result.total_cost == Decimal(1) + CENT
    assert_adds_up(result)


def test_a_limit_on_one_branch_is_its_own() -> None:
    """A branch with limits counts only what it spends itself."""
    limited = Step("limited", paid("x").agent, usage_limits=UsageLimits(total_cost_usd_limit=0.01))

    result = Flujo(Step.parallel("p", {"limited": limited, "free": paid("a") >> paid("b")})).run("x")

    assert result.success
    assert result.total_cost == 3 * CENT


def test_running_leaves_the_step_as_it_was() -> None:
    """A step is a value: running it, also when branches fail, changes none of its attributes."""
    step = Step.parallel("p", {"a": setting("a", count=1), "b": failing("b")})
    before = {name: repr(value) for name, value in vars(step).items()}

    Flujo(step, context_model=Notes).run("x")

    assert {name: repr(value) for name, value in vars(step).items()} == before
