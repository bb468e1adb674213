"""`Step.branch_on`: one branch by key."""

from enum import Enum
from typing import Any

import pytest

from flujo import Flujo, PipelineAbortSignal, Step, UsageLimitExceededError, UsageLimits
from tests.steps.workflows import CENT, Notes, assert_adds_up, failing, paid, plain


class Route(Enum):
    LEFT = 1
    RIGHT = 2


def _itself(data: Any, context: Any) -> Any:
    return data


def _length(data: Any, context: Any) -> int:
    return len(data)


def _raises(*args: Any) -> Any:
    raise LookupError("no way")


def test_only_the_branch_of_the_key_runs() -> None:
    """The branch's output is the step's; the key that the condition returned is in the metadata."""
    step = Step.branch_on("route", _length, {1: paid("one"), 2: paid("two") >> paid("more")})

    result = Flujo(step).run("ab")
    (route,) = result.step_history

    assert (route.name, route.output, route.success, route.attempts) == ("route", "ab", True, 1)
    assert route.metadata_["executed_branch_key"] == 2
    assert result.total_cost == 2 * CENT
    assert_adds_up(result)


@pytest.mark.parametrize("key", ["a", 1, 1.5, None, True, (1, "x"), Route.LEFT, frozenset({1})])
def test_any_hashable_is_a_key(key: Any) -> None:
    """Keys are compared as the keys of a dict are."""
    step = Step.branch_on("route", _itself, {key: plain("chosen", str), "other": failing("other")})

    result = Flujo(step).run(key)

    assert result.output == str(key)
    assert result.step_history[0].metadata_ == {"executed_branch_key": key}


def test_an_unknown_key_takes_the_default() -> None:
    """The metadata names the key that the condition returned, not the default."""
    step = Step.branch_on("route", _itself, {"a": failing("a")}, paid("default"))

    result = Flujo(step).run("z")

    assert result.output == "z"
    assert result.step_history[0].metadata_["executed_branch_key"] == "z"


def test_a_key_without_branch_or_default_fails_the_step() -> None:
    """The feedback names the key and the keys there are; nothing is paid."""
    step = Step.branch_on("route", _itself, {"a": paid("a"), 1: paid("one")})

    result = Flujo(step >> paid("never")).run("z")
    (route,) = result.step_history

    assert (result.status, route.status) == ("failed", "failed")
    assert route.feedback == "no branch for the key 'z' and no default; the branches are 'a', 1"
    assert result.total_cost == 0


def test_mappers_shape_what_a_branch_gets_and_gives() -> None:
    """The input mapper gets input and context; the output mapper gets output, key and context."""

    def by_length(data: str, context: Notes) -> str:
        return "long" if len(data) > context.count else "short"

    def repeat(data: str, context: Notes) -> str:
        return data * context.count

    def describe(output: str, key: str, context: Notes) -> str:
        return f"{key}/{output}/{context.count}"

    step = Step.branch_on(
        "route",
        by_length,
        {"long": plain("cut", lambda data: data[:3]), "short": plain("same")},
        branch_input_mapper=repeat,
        branch_output_mapper=describe,
    )
    flujo = Flujo(step, context_model=Notes, initial_context_data={"count": 2})

    assert [flujo.run("abc").output, flujo.run("a").output] == ["long/abc/2", "short/aa/2"]


@pytest.mark.parametrize(
    ("options", "cost"),
    [
        ({"condition_callable": _raises}, 0),
        ({"branch_input_mapper": _raises}, 0),
        ({"branch_output_mapper": _raises}, CENT),
    ],
)
def test_a_callable_that_raises_fails_the_step(options: dict[str, Any], cost: Any) -> None:
    """The feedback says which one and what it raised; the chosen key and a branch that was paid for are kept."""
    branch_on: Any = Step.branch_on
    step = branch_on("route", **{"condition_callable": _itself, "branches": {"a": paid("a")}, **options})

    result = Flujo(step).run("a")

    (route,) = result.step_history
    assert route.feedback == f"{next(iter(options))}: LookupError: no way"
    assert route.metadata_ == ({} if "condition_callable" in options else {"executed_branch_key": "a"})
    assert result.total_cost == cost
    assert_adds_up(result)


def test_a_key_that_is_not_hashable_fails_the_step() -> None:
    """A list is no key; the feedback says so."""
    result = Flujo(Step.branch_on("route", _itself, {"a": paid("a")}, paid("default"))).run(["a"])

    assert result.status == "failed"
    assert "unhashable" in str(result.step_history[0].feedback)


def test_a_failed_branch_fails_the_step() -> None:
    """The feedback names the failed step; key, cost and history are kept."""
    step = Step.branch_on("route", _itself, {"a": paid("first") >> failing("second")})

    result = Flujo(step).run("a")
    (route,) = result.step_history

    assert (route.status, route.metadata_["executed_branch_key"]) == ("failed", "a")
    assert "step 'second': PaidError: no luck" in str(route.feedback)
    assert result.total_cost == 2 * CENT
    assert_adds_up(result)


def test_a_branch_works_on_the_context_itself() -> None:
    """Only parallel branches have copies: what a chosen branch writes stays."""

    async def write(data: Any, *, context: Notes) -> None:
        context.count = 9

    result = Flujo(Step.branch_on("route", _itself, {"a": Step("write", write)}), context_model=Notes).run("a")

    assert isinstance(result.final_pipeline_context, Notes)
    assert result.final_pipeline_context.count == 9


def test_keys_that_read_the_same_have_paths_of_their_own() -> None:
    """The key `1`, the key `"1"` and the default are three addresses."""
    ask = Step.human_in_the_loop("ask", "?")
    flujo = Flujo(Step.branch_on("route", _itself, {1: ask, "1": ask, "default": ask}, ask))

    paths = {flujo.run(key).waiting[0].path[1] for key in (1, "1", "default", "other")}

    assert len(paths) == 4


async def test_a_branch_streams_what_the_step_streams() -> None:
    """Chunks of the last step of the chosen branch are handed out as they come."""

    async def talk(data: str) -> Any:
        for character in data:
            yield character

    branch: Any = Step("talk", talk)

    items = [item async for item in Flujo(Step.branch_on("route", _itself, {"ab": branch})).run_async("ab")]

    assert items[:-1] == ["a", "b"]
    assert items[-1].output == "ab"


async def test_a_mapped_output_is_not_streamed() -> None:
    """Chunks would not be what the step gives in the end."""

    async def talk(data: str) -> Any:
        yield data

    branch: Any = Step("talk", talk)
    step = Step.branch_on("route", _itself, {"ab": branch}, branch_output_mapper=lambda output, key, context: "mapped")

    items = [item async for item in Flujo(step).run_async("ab")]

    assert [item.output for item in items] == ["mapped"]


def test_a_limit_on_the_step_counts_its_branch() -> None:
    """The branch that breaks the limit is in the history."""
    limits = UsageLimits(total_cost_usd_limit=0.01)
    step = Step.branch_on("route", _itself, {"a": paid("first") >> paid("second")}, usage_limits=limits)

    with pytest.raises(UsageLimitExceededError, match="step 'route'") as error:
        Flujo(step).run("a")

    assert error.value.result.total_cost == 2 * CENT


class _Odd:
    """A key that does not let itself be compared."""

    def __hash__(self) -> int:
        return hash("a")

    def __eq__(self, other: object) -> bool:
        raise LookupError("not comparable")

    def __repr__(self) -> str:
        return "_Odd()"


@pytest.mark.parametrize(
    ("key", "shown", "why"),
    [(["a"], "['a']", "TypeError: unhashable type: 'list'"), (_Odd(), "_Odd()", "LookupError: not comparable")],
)
def test_a_key_that_no_branch_can_have_is_named(key: Any, shown: str, why: str) -> None:
    """The feedback has the step, the key and the branches there are; the default is for keys, and does not run."""
    step = Step.branch_on("route", lambda data, context: key, {"a": paid("a"), 2: paid("b")}, paid("default"))

    result = Flujo(step).run("x")

    assert result.step_history[0].feedback == (
        f"condition_callable: step 'route' has no branch for the key {shown} ({why}); the branches are 'a', 2"
    )
    assert result.total_cost == 0


def test_a_mistake_in_a_condition_is_raised() -> None:
    """What flujo itself raises keeps its kind, as everywhere."""

    def abort(data: Any, context: Any) -> Any:
        raise PipelineAbortSignal("enough")

    result = Flujo(Step.branch_on("route", abort, {"a": paid("a")})).run("x")

    assert (result.status, result.step_history[0].feedback) == ("aborted", "enough")
