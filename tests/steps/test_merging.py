"""What branches changed in the context comes back the same way through parallel steps, maps and routers."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from flujo import (
    BranchFailureStrategy,
    ConfigurationError,
    Flujo,
    HumanInteraction,
    MergeStrategy,
    PipelineContext,
    PipelineResult,
    Step,
)
from tests.steps.workflows import CENT, Notes, failing, paid, setting

Kind = Literal["parallel", "map", "router"]
KINDS: tuple[Kind, ...] = ("parallel", "map", "router")
Change = Callable[[Notes], object]


def _run(kind: Kind, changes: Sequence[Change], merge: Any, start: dict[str, Any] | None = None) -> PipelineResult[Any]:
    """Run one branch or item for each change of its context; the last one declared is the first to finish."""
    ended: list[asyncio.Event] = [asyncio.Event() for _ in range(len(changes) + 1)]
    ended[-1].set()

    async def apply(position: int, *, context: Notes) -> Any:
        await ended[position + 1].wait()
        changes[position](context)
        ended[position].set()
        return position

    def pinned(position: int) -> Step[Any, Any]:
        async def apply_one(data: Any, *, context: Notes) -> Any:
            return await apply(position, context=context)

        return Step(f"change {position}", apply_one)

    branches = {str(i): pinned(i) for i in range(len(changes))}

    def route(data: Any) -> list[str]:
        return list(reversed(branches))

    steps: dict[Kind, Any] = {
        "parallel": lambda: Step.parallel("s", branches, merge_strategy=merge),
        "map": lambda: Step.map_over("s", Step("change", apply), merge_strategy=merge),
        "router": lambda: Step.dynamic_parallel_branch("s", route, branches, merge_strategy=merge),
    }
    flujo = Flujo(steps[kind](), context_model=Notes, initial_context_data=start)
    return flujo.run(list(range(len(changes))))


def _context(result: PipelineResult[Any]) -> Any:
    return result.final_pipeline_context


def _set(**fields: Any) -> Change:
    def change(context: Notes) -> None:
        for name, value in fields.items():
            setattr(context, name, value)

    return change


def _note(**items: Any) -> Change:
    return lambda context: context.scratchpad.update(items)


def _tag(*tags: str) -> Change:
    return lambda context: context.tags.extend(tags)


def _nothing(context: Notes) -> None:
    return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("merge", "changes", "expected"),
    [
        (MergeStrategy.NO_MERGE, [_set(count=1), _tag("a"), _note(k=1)], {"count": 0, "tags": [], "scratchpad": {}}),
        (MergeStrategy.OVERWRITE, [_set(count=1), _set(count=2), _nothing], {"count": 2}),
        (MergeStrategy.OVERWRITE, [_tag("a"), _tag("b")], {"tags": ["b"]}),
        (MergeStrategy.KEEP_FIRST, [_nothing, _set(count=1), _set(count=2)], {"count": 1}),
        (MergeStrategy.MERGE_SCRATCHPAD, [_note(a=1), _note(b=2), _set(count=5)], {"scratchpad": {"a": 1, "b": 2}}),
        (MergeStrategy.MERGE_SCRATCHPAD, [_note(a=1), _note(a=1)], {"scratchpad": {"a": 1}, "count": 0}),
        (MergeStrategy.CONTEXT_UPDATE, [_tag("a"), _tag("b", "c"), _tag("d")], {"tags": ["a", "b", "c", "d"]}),
        (MergeStrategy.CONTEXT_UPDATE, [_note(a=1), _note(b=2)], {"scratchpad": {"a": 1, "b": 2}}),
        (MergeStrategy.CONTEXT_UPDATE, [_set(count=1), _set(count=2)], {"count": 2}),
        (MergeStrategy.ERROR_ON_CONFLICT, [_set(count=4), _tag("a"), _nothing], {"count": 4, "tags": ["a"]}),
        (MergeStrategy.ERROR_ON_CONFLICT, [_set(count=4), _set(count=4)], {"count": 4}),
    ],
)
def test_a_merge_goes_by_declaration_and_counts_only_changes(
    kind: Kind, merge: MergeStrategy, changes: list[Change], expected: dict[str, Any]
) -> None:
    """Every strategy gives the same in every kind of step, though the last branch finishes first."""
    result = _run(kind, changes, merge)
    context = result.final_pipeline_context

    assert result.success
    assert {name: getattr(context, name) for name in expected} == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("merge", "changes", "named"),
    [
        (MergeStrategy.ERROR_ON_CONFLICT, [_set(count=1), _set(count=2)], ["'0'", "'1'", "'count'"]),
        (MergeStrategy.ERROR_ON_CONFLICT, [_note(a=1), _nothing, _note(a=2)], ["'0'", "'2'", "'a'"]),
        (MergeStrategy.MERGE_SCRATCHPAD, [_note(a=1), _note(a=2)], ["'0'", "'1'", "'a'"]),
    ],
)
def test_a_conflict_fails_the_step_and_leaves_the_context(
    kind: Kind, merge: MergeStrategy, changes: list[Change], named: list[str]
) -> None:
    """The feedback names branches and field or key; the branches' results are kept."""
    result = _run(kind, [*changes, _tag("later")], merge)
    context, step = result.final_pipeline_context, result.step_history[0]

    assert result.status == "failed"
    assert step.feedback is not None
    assert all(name in step.feedback for name in named)
    assert isinstance(context, Notes)
    assert (context.count, context.tags, context.scratchpad) == (0, [], {})
    assert [child.success for child in step.step_history[-len(changes) - 1 :]] == [True] * (len(changes) + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merge_of_ones_own_gets_every_branch_by_name(kind: Kind) -> None:
    """A callable is given a context to change and the branches' contexts in order of declaration."""
    seen: list[str] = []

    def add_up(context: Notes, branches: dict[str, Notes]) -> None:
        seen.extend(branches)
        context.count = sum(branch.count for branch in branches.values())

    result = _run(kind, [_set(count=1), _set(count=20), _set(count=300)], add_up)

    assert seen == ["0", "1", "2"]
    assert isinstance(result.final_pipeline_context, Notes)
    assert result.final_pipeline_context.count == 321


@pytest.mark.parametrize("kind", KINDS)
def test_a_merge_of_ones_own_that_raises_fails_the_step(kind: Kind) -> None:
    """The context stays as it was, whatever the callable had changed before it raised."""

    def give_up(context: Notes, branches: dict[str, Notes]) -> None:
        context.tags.append("half done")
        raise LookupError("cannot decide")

    result = _run(kind, [_set(count=1)], give_up)

    assert result.step_history[0].feedback == "merge_strategy: LookupError: cannot decide"
    assert isinstance(result.final_pipeline_context, Notes)
    assert (result.final_pipeline_context.tags, result.final_pipeline_context.count) == ([], 0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_update_is_lost_under_a_merge_that_adds_up(kind: Kind) -> None:
    """Two hundred branches that each append one item make two hundred items."""
    result = _map_of(200) if kind == "map" else _run(kind, [_tag("x")] * 200, MergeStrategy.CONTEXT_UPDATE)

    assert isinstance(result.final_pipeline_context, Notes)
    assert len(result.final_pipeline_context.tags) == 200


def _map_of(items: int) -> PipelineResult[Any]:
    async def tag(data: int, *, context: Notes) -> None:
        context.tags.append(str(data))

    step = Step.map_over("m", Step("tag", tag), merge_strategy=MergeStrategy.CONTEXT_UPDATE)
    return Flujo(step, context_model=Notes).run(list(range(items)))


def test_a_merge_function_finds_what_is_not_mapped_as_it_was() -> None:
    """It cannot bring back what the branch may not, nor write to the context through it."""

    def merge(context: Notes, branches: dict[str, Notes]) -> None:
        branches["a"].table["from"] = "merge"
        context.count = branches["a"].count
        context.tags = [*branches["a"].tags, *branches["b"].tags]

    step = Step.parallel(
        "s",
        {"a": setting("a", count=1, tags=["a"], table={"a": 1}), "b": setting("b", tags=["b"])},
        merge_strategy=merge,
        field_mapping={"a": ["count"]},
    )

    context: Any = Flujo(step, context_model=Notes).run(0).final_pipeline_context

    assert (context.count, context.tags, context.table) == (1, ["b"], {})


def test_a_merge_function_finds_no_extra_field_that_is_not_mapped() -> None:
    """A field that only the branch has does not exist for it."""

    class Open(PipelineContext):
        model_config = ConfigDict(extra="allow")

    found: list[dict[str, Any]] = []

    def merge(context: Open, branches: dict[str, Open]) -> None:
        found.append(dict(branches["a"].model_extra or {}))

    step = Step.parallel("s", {"a": setting("a", mine=1, other=2)}, merge_strategy=merge, field_mapping={"a": ["mine"]})

    Flujo(step, context_model=Open).run(0)

    assert found == [{"mine": 1}]


_KEPT: list[tuple[str, list[Change], list[str]]] = [
    ("both append", [lambda c: c.tags.append("x"), lambda c: c.tags.append("y")], ["a", "b", "c", "x", "y"]),
    ("both remove", [lambda c: c.tags.remove("a"), lambda c: c.tags.remove("c")], ["a", "b"]),
    ("both insert", [lambda c: c.tags.insert(0, "x"), lambda c: c.tags.insert(0, "y")], ["y", "a", "b", "c"]),
    ("append, remove", [lambda c: c.tags.append("x"), lambda c: c.tags.remove("a")], ["b", "c"]),
    ("remove, append", [lambda c: c.tags.remove("a"), lambda c: c.tags.append("x")], ["b", "c", "x"]),
]


@pytest.mark.parametrize(("changes", "tags"), [case[1:] for case in _KEPT], ids=[case[0] for case in _KEPT])
def test_a_list_that_is_not_appended_to_counts_as_a_whole(changes: list[Change], tags: list[str]) -> None:
    """Under CONTEXT_UPDATE lists get what each branch appended; changed otherwise, the later branch's list wins."""
    result = _run("parallel", changes, MergeStrategy.CONTEXT_UPDATE, {"tags": ["a", "b", "c"]})

    assert _context(result).tags == tags


@pytest.mark.parametrize(("field", "value"), [("run_id", "mine"), ("initial_prompt", "hello"), ("hitl_history", [])])
def test_no_step_updates_what_belongs_to_the_run(field: str, value: Any) -> None:
    """The step fails and names the field; giving back what is there is no update."""

    def update(data: Any, context: Any) -> Any:
        return {field: value if data == "other" else getattr(context, field), "count": 1}

    flujo = Flujo(Step("update", update, updates_context=True), context_model=Notes)
    said = HumanInteraction(message_to_human="?", human_response=1, timestamp=datetime.now(UTC))
    start = {"hitl_history": [said]}
    refused = flujo.run("other", initial_context_data=start)
    same = flujo.run("same", initial_context_data=start)

    assert (refused.success, _context(refused).count) == (False, 0)
    assert refused.step_history[0].feedback == (
        f"Notes keeps {field!r} for the run, and no step changes it; use another field"
    )
    assert (same.success, _context(same).count) == (True, 1)


def test_field_mapping_limits_what_a_branch_brings_back() -> None:
    """A branch that is named brings back only its fields, one that is not named all of them."""
    step = Step.parallel(
        "p",
        {"a": setting("a", count=1, tags=["a"]), "b": setting("b", table={"b": 1})},
        merge_strategy=MergeStrategy.OVERWRITE,
        field_mapping={"a": ["tags"]},
    )

    context = Flujo(step, context_model=Notes).run("x").final_pipeline_context

    assert isinstance(context, Notes)
    assert (context.count, context.tags, context.table) == (0, ["a"], {"b": 1})


def test_only_included_fields_come_back() -> None:
    """A field outside `context_include_keys` stays in the branch, and what the branch never saw stays as it is."""
    step = Step.parallel(
        "p",
        {"a": setting("a", count=1, tags=["a"])},
        merge_strategy=MergeStrategy.OVERWRITE,
        context_include_keys=["count"],
    )
    flujo = Flujo(step, context_model=Notes, initial_context_data={"tags": ["kept"], "table": {"k": 1}})

    context = flujo.run("x").final_pipeline_context

    assert isinstance(context, Notes)
    assert (context.count, context.tags, context.table) == (1, ["kept"], {"k": 1})


def test_a_failed_branch_brings_nothing_back() -> None:
    """With `IGNORE` only the branches that completed are merged."""
    step = Step.parallel(
        "p",
        {"good": setting("good", count=1), "bad": setting("bad", tags=["half"]) >> failing("bad")},
        merge_strategy=MergeStrategy.OVERWRITE,
        on_branch_failure=BranchFailureStrategy.IGNORE,
    )

    context = Flujo(step, context_model=Notes).run("x").final_pipeline_context

    assert isinstance(context, Notes)
    assert (context.count, context.tags) == (1, [])


def test_a_failed_step_merges_nothing() -> None:
    """When a branch fails the step, what the others changed stays in their own contexts."""
    branches = {"good": setting("good", count=1), "bad": failing("bad")}

    result = Flujo(Step.parallel("p", branches, merge_strategy=MergeStrategy.OVERWRITE), context_model=Notes).run("x")

    assert isinstance(result.final_pipeline_context, Notes)
    assert result.final_pipeline_context.count == 0
    assert result.step_history[0].step_history[0].branch_context.count == 1


class Frozen(BaseModel):
    """A context that cannot be assigned to, but replaced field by field by its steps' lists."""

    model_config = ConfigDict(frozen=True)

    log: list[str] = []


def test_a_frozen_context_is_merged_too() -> None:
    """The merge reaches a frozen model, whose branches changed a list in place."""

    async def write(data: str, *, context: Frozen) -> None:
        context.log.append(data)

    step = Step.map_over("m", Step("write", write), merge_strategy=MergeStrategy.CONTEXT_UPDATE)

    assert Flujo(step, context_model=Frozen).run(["a", "b"]).final_pipeline_context == Frozen(log=["a", "b"])


class Bare(BaseModel):
    """A context without a scratchpad."""

    count: int = 0


@pytest.mark.parametrize(
    "step",
    [
        Step.parallel("s", {"a": paid("a")}, merge_strategy=MergeStrategy.MERGE_SCRATCHPAD),
        Step.map_over("s", paid("a"), merge_strategy=MergeStrategy.MERGE_SCRATCHPAD),
        Step.dynamic_parallel_branch("s", len, {"a": paid("a")}, merge_strategy=MergeStrategy.MERGE_SCRATCHPAD),
    ],
)
def test_merging_a_scratchpad_that_is_not_there_is_refused_before_the_run(step: Step[Any, Any]) -> None:
    """The strategy needs a context with a scratchpad; nobody pays to find out that there is none."""
    with pytest.raises(ConfigurationError, match="'scratchpad', which Bare does not have"):
        Flujo(step, context_model=Bare).run(["x"])


def test_the_merge_is_seen_by_the_next_step() -> None:
    """A step after the branches works on the merged context."""

    async def read(data: Any, *, context: Notes) -> int:
        return context.count

    step = Step.parallel("p", {"a": setting("a", count=5)}, merge_strategy=MergeStrategy.OVERWRITE)

    assert Flujo(step >> Step("read", read), context_model=Notes).run("x").output == 5


def test_the_runs_own_fields_do_not_come_back_from_branches() -> None:
    """No branch changes the run's identity or prompt, whatever the strategy."""
    branches = {"a": setting("a", run_id="other", initial_prompt="other")}

    result = Flujo(Step.parallel("p", branches, merge_strategy=MergeStrategy.OVERWRITE)).run("ask", run_id="mine")

    assert isinstance(result.final_pipeline_context, PipelineContext)
    assert (result.final_pipeline_context.run_id, result.final_pipeline_context.initial_prompt) == ("mine", "ask")


def test_merged_values_are_not_shared_with_the_branches() -> None:
    """Changing the final context does not reach into the results of the branches."""
    step = Step.parallel("p", {"a": setting("a", tags=["a"])}, merge_strategy=MergeStrategy.OVERWRITE)

    result = Flujo(step >> paid("end"), context_model=Notes).run("x")
    assert isinstance(result.final_pipeline_context, Notes)
    result.final_pipeline_context.tags.append("later")

    assert result.step_history[0].step_history[0].branch_context.tags == ["a"]
    assert result.total_cost == CENT
