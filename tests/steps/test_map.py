"""`Step.map_over`: a pipeline once for each item."""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from flujo import BranchFailureStrategy, Flujo, Step, UsageLimitExceededError, UsageLimits
from tests.steps.workflows import CENT, Gate, Notes, PaidError, assert_adds_up, leaves, paid, plain

DOUBLE = paid("double", lambda item: item * 2)


def _odd_fails(item: int) -> int:
    if item % 2:
        raise PaidError(f"odd {item}")
    return item


async def test_outputs_are_in_the_order_of_the_items() -> None:
    """Items that finish last to first give outputs and results first to last."""
    done = [asyncio.Event() for _ in range(6)]
    done[-1].set()
    finished: list[int] = []

    async def after_the_next(item: int) -> int:
        await done[item + 1].wait()
        finished.append(item)
        done[item].set()
        return item * 10

    result = await Flujo(Step.map_over("m", Step("call", after_the_next))).run_async(range(5))

    assert finished == [4, 3, 2, 1, 0]
    assert result.output == [0, 10, 20, 30, 40]
    assert [child.output for child in result.step_history[0].step_history] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(("options", "most"), [({}, 10), ({"max_concurrency": 1}, 1), ({"max_concurrency": 4}, 4)])
async def test_at_most_so_many_items_are_in_work(options: dict[str, Any], most: int) -> None:
    """Ten by default; the bound is reached and never passed."""
    gate = Gate(most)
    map_over: Any = Step.map_over

    result = await Flujo(map_over("m", Step("call", gate), **options)).run_async(range(20))

    assert gate.most == most
    assert result.output == list(range(20))


async def test_all_items_at_once_without_a_bound() -> None:
    """`max_concurrency=None` starts every item before any has ended."""
    gate = Gate(50)

    await Flujo(Step.map_over("m", Step("call", gate), max_concurrency=None)).run_async(range(50))

    assert gate.most == 50


def _generated() -> Iterator[int]:
    yield from (1, 2)


@pytest.mark.parametrize("items", [[1, 2], (1, 2), deque([1, 2]), range(1, 3), {1: "x", 2: "y"}.keys(), _generated()])
def test_anything_made_of_items_is_mapped_over(items: Any) -> None:
    """Lists, tuples, ranges, views and iterators give their items once each."""
    result = Flujo(Step.map_over("m", DOUBLE)).run(items)

    assert result.output == [2, 4]
    assert result.total_cost == 2 * CENT
    assert_adds_up(result)


@pytest.mark.parametrize("items", [[], (), set[int](), iter(())])
def test_no_items_give_an_empty_list(items: Any) -> None:
    """An empty input is a success that costs nothing."""
    result = Flujo(Step.map_over("m", DOUBLE)).run(items)

    assert (result.success, result.output, result.step_history[0].step_history) == (True, [], [])


class Text(BaseModel):
    words: list[str]


@pytest.mark.parametrize("data", ["text", b"bytes", 5, None, {"a": 1}, Text(words=["a"])])
def test_what_has_no_items_fails_the_step(data: Any) -> None:
    """Neither text nor a dict nor a model is taken apart; the feedback says what to give."""
    result = Flujo(Step.map_over("m", DOUBLE)).run(data)

    assert result.status == "failed"
    assert f"is a {type(data).__name__}; give a list" in str(result.step_history[0].feedback)


def test_a_context_field_is_mapped_over() -> None:
    """With `iterable_input` the items come from the context, and the step's own input is not looked at."""
    step = Step.map_over("m", plain("upper", str.upper), iterable_input="tags")

    result = Flujo(step, context_model=Notes, initial_context_data={"tags": ["a", "b"]}).run("unused")

    assert result.output == ["A", "B"]


def test_a_context_field_that_is_no_list_fails_the_step() -> None:
    """The feedback names the field and what it holds."""
    result = Flujo(Step.map_over("m", DOUBLE, iterable_input="count"), context_model=Notes).run("x")

    assert "the context field 'count' is a int; give a list" in str(result.step_history[0].feedback)


def test_a_failed_item_fails_the_step_and_the_others_are_kept() -> None:
    """The feedback says which item failed and why; outputs, results and costs of all are there."""
    result = Flujo(Step.map_over("m", paid("call", _odd_fails))).run([0, 1, 2, 3])
    (mapped,) = result.step_history

    assert mapped.status == "failed"
    assert mapped.feedback == "item 1: step 'call': PaidError: odd 1; item 3: step 'call': PaidError: odd 3"
    assert mapped.output == [0, mapped.step_history[1], 2, mapped.step_history[3]]
    assert result.total_cost == 4 * CENT
    assert_adds_up(result)


def test_failed_items_may_be_ignored() -> None:
    """With `IGNORE` they stand in the output as their results; when every item failed the step has failed."""
    step = Step.map_over("m", paid("call", _odd_fails), on_branch_failure=BranchFailureStrategy.IGNORE)

    some, none = Flujo(step).run([0, 1]), Flujo(step).run([1, 3])

    assert some.output == [0, some.step_history[0].step_history[1]]
    assert none.status == "failed"


def test_items_have_contexts_of_their_own() -> None:
    """What an item writes, no other item sees, and without a merge nothing comes back."""

    async def count(item: int, *, context: Notes) -> int:
        context.count += item
        return context.count

    result = Flujo(Step.map_over("m", Step("count", count)), context_model=Notes).run([1, 2, 3])

    assert result.output == [1, 2, 3]
    assert isinstance(result.final_pipeline_context, Notes)
    assert result.final_pipeline_context.count == 0


def test_items_may_be_equal_and_unhashable() -> None:
    """Equal items are items all the same."""
    assert Flujo(Step.map_over("m", plain("same"))).run([{"a": 1}, {"a": 1}, [], []]).output == [
        {"a": 1},
        {"a": 1},
        [],
        [],
    ]


def test_no_item_starts_after_a_breach() -> None:
    """One at a time, the item that breaks the limit is the last one that ran."""
    step = Step.map_over("m", paid("call"), max_concurrency=1)

    with pytest.raises(UsageLimitExceededError) as error:
        Flujo(step, usage_limits=UsageLimits(total_tokens_limit=25)).run(range(10))
    result = error.value.result

    assert [leaf.output for leaf in leaves(result.step_history)] == [0, 1, 2]
    assert result.step_history[0].status == "stopped"
    assert_adds_up(result)


def test_many_items_add_up_exactly() -> None:
    """Five thousand charges make exactly fifty dollars."""
    result = Flujo(Step.map_over("m", paid("call"), max_concurrency=None)).run(range(5000))

    assert result.total_cost == 5000 * CENT
    assert result.total_tokens == 50_000


def test_a_fallback_gets_the_items_of_an_iterator_too() -> None:
    """An iterator gives its items only once, and the fallback of a map still maps over all of them."""
    odd = Step.map_over("odd", plain("fails", _odd_fails))

    result = Flujo(odd.fallback(Step.map_over("again", plain("same")))).run(iter([2, 3, 4]))

    assert result.output == [2, 3, 4]
