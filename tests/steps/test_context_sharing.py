"""Branches and items that cannot change the context share one copy of it, so that many of them cost what few cost."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import Field

from flujo import (
    AgentProcessors,
    BaseStep,
    ExecutionFrame,
    ExecutorCore,
    Flujo,
    HookPayload,
    MergeStrategy,
    PausedException,
    Pipeline,
    PipelineContext,
    PipelineResult,
    RefinementCheck,
    Step,
    StepResult,
    validator,
)
from tests.steps.workflows import Notes, failing, plain, setting

AnyStep = BaseStep[Any, Any]


class Copied:
    """A value that counts its copies."""

    def __init__(self) -> None:
        self.copies = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Copied":
        self.copies += 1
        return self


class Library(PipelineContext):
    """A context with documents, and one that counts its copies."""

    docs: list[Any] = Field(default_factory=list[Any])
    counted: Any = None


class Own(BaseStep[Any, Any]):
    """A kind of step that is not flujo's, which gives its input."""


@ExecutorCore.handles(Own)
async def _handle_own_step(core: ExecutorCore, step: Own, frame: ExecutionFrame[Any]) -> StepResult:
    return StepResult(step.name, frame.data)


class Untouched:
    """A processor that changes nothing."""

    async def process(self, data: Any, context: Any) -> Any:
        """Return the data."""
        return data


@validator
def _content(output: Any) -> tuple[bool, None]:
    return True, None


def _accept(draft: Any) -> RefinementCheck:
    return RefinementCheck(is_complete=True)


def _copies(step: AnyStep, data: Any, **context: Any) -> int:
    counted = Copied()
    result = Flujo(step, context_model=Library).run(data, initial_context_data={"counted": counted, **context})

    assert result.success, result.step_history
    return counted.copies - 1  # one is made for the context of the run


@pytest.mark.parametrize("items", [3, 300])
def test_items_that_do_not_see_the_context_share_one_copy(items: int) -> None:
    """The context is copied once, however many items there are, also if they come out of it."""
    step = Step.map_over("m", plain("f") >> plain("g"), iterable_input="docs", merge_strategy=MergeStrategy.OVERWRITE)

    assert _copies(step, None, docs=list(range(items))) == 1


def test_branches_that_do_not_see_the_context_share_one_copy() -> None:
    """A branch that may change the context has a copy of its own, and the others have one together."""
    branches = {"a": plain("a"), "b": plain("b"), "c": setting("c", docs=[1]), "d": plain("d")}

    assert _copies(Step.parallel("p", branches), 1) == 2


INSIDE: dict[str, Callable[[AnyStep], AnyStep]] = {
    "pipeline": lambda step: plain("before") >> step,
    "fallback": lambda step: failing("primary").fallback(step),
    "fallback of a pipeline": lambda step: Pipeline(steps=[failing("primary")]).fallback(step),
    "parallel": lambda step: Step.parallel("inner", {"this": step}),
    "map": lambda step: plain("list", lambda data: [data]) >> Step.map_over("inner", step),
    "router": lambda step: Step.dynamic_parallel_branch("inner", lambda data: "this", {"this": step}),
    "generator": lambda step: Step.refine_until("inner", step, plain("critic", _accept)),
    "cached": Step.cached,
    "sub-pipeline": lambda step: Pipeline.from_step(step).as_step("inner"),
    "runner": lambda step: Flujo(step, context_model=Notes).as_step("inner"),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_whether_a_step_may_change_the_context_is_asked_at_every_depth(kind: str) -> None:
    """A kind may change the context exactly if a step within it may."""
    assert INSIDE[kind](setting("sets", count=1)).may_change_context
    assert not INSIDE[kind](plain("blind")).may_change_context


async def _ignore(payload: HookPayload) -> None: ...


@pytest.mark.parametrize(
    "step",
    [
        setting("asks", count=1),
        Step("updates", str.split, updates_context=True),
        Step("judged", lambda _: 1, validators=[_content]),
        Step("processed", lambda _: 1, processors=AgentProcessors(prompt_processors=[Untouched()])),
        Own("own"),
        Step.human_in_the_loop("human"),
        Step.loop_until("loop", plain("body"), lambda output, context: True),
        Step.branch_on("branch", lambda data, context: 1, {1: plain("way")}),
        Step.map_over("map", plain("item"), iterable_input="tags"),
        Step.parallel("merged", {"a": plain("a")}, merge_strategy=lambda context, branches: None),
        Flujo(plain("blind"), hooks=[_ignore]).as_step("observed"),
    ],
    ids=lambda step: step.name,
)
def test_what_gets_the_context_may_change_it(step: AnyStep) -> None:
    """Agents, conditions, merge functions and hooks that get the context count, as does a kind of the user's own."""
    assert step.may_change_context


@pytest.mark.parametrize(
    "step",
    [
        Step.gather("gather", wait_for=["a"]),
        Pipeline.from_step(setting("sets", count=1)).as_step("wall", inherit_context=False),
    ],
    ids=lambda step: step.name,
)
def test_what_does_not_get_the_context_cannot_change_it(step: AnyStep) -> None:
    """Gathering works on the input alone, and behind a wall there is another context."""
    assert not step.may_change_context


def test_the_shared_copy_is_not_the_context_of_the_run() -> None:
    """What later steps do to the run's context does not show in the branches' contexts."""
    parallel = Step.parallel("p", {"a": plain("a"), "b": plain("b")})

    result = Flujo(parallel >> setting("later", count=5), context_model=Notes).run(1)
    contexts: list[Any] = [branch.branch_context for branch in result.step_history[0].step_history]

    assert contexts[0] is contexts[1]
    assert (contexts[0].count, _context(result).count) == (0, 5)


def test_hooks_find_every_branch_with_a_context_of_its_own() -> None:
    """What a hook writes to the context of one branch is not in that of another, and comes back by the merge."""

    async def note(payload: HookPayload) -> None:
        if getattr(payload, "path", ())[1:2] == ("branch:a",):
            payload.context.tags.append("seen")

    parallel = Step.parallel("p", {"a": plain("a"), "b": plain("b")}, merge_strategy=MergeStrategy.CONTEXT_UPDATE)

    result = Flujo(parallel, context_model=Notes, hooks=[note]).run(1)
    contexts: list[Any] = [branch.branch_context for branch in result.step_history[0].step_history]

    assert [context.tags for context in contexts] == [["seen", "seen"], []]
    assert _context(result).tags == ["seen", "seen"]


def test_a_merge_function_gets_a_copy_for_each_branch() -> None:
    """It may do with them what it likes."""

    def merge(context: Notes, branches: dict[str, Notes]) -> None:
        branches["a"].tags.append("only here")
        context.tags = [*branches["a"].tags, *branches["b"].tags]

    parallel = Step.parallel("p", {"a": plain("a"), "b": plain("b")}, merge_strategy=merge)

    assert _context(Flujo(parallel, context_model=Notes).run(1)).tags == ["only here"]


def test_branches_that_wait_together_share_a_copy_again() -> None:
    """Agents that pause go on, and people's answers are remembered once."""

    def ask(data: Any) -> Any:
        raise PausedException(str(data))

    flujo = Flujo(Step.map_over("m", Step("ask", ask), iterable_input="tags"), context_model=Notes)
    paused = flujo.run(1, initial_context_data={"tags": ["a", "b"]})
    halfway = flujo.resume(paused, "one", path=paused.waiting[0].path)
    result = flujo.resume(halfway, "two")

    assert result.output == ["one", "two"]
    assert [each.human_response for each in _context(result).hitl_history] == ["one", "two"]


def _context(result: PipelineResult[Any]) -> Any:
    return result.final_pipeline_context
