"""What cannot work is refused where it is declared, before anything is paid for."""

from collections.abc import Callable
from typing import Any

import pytest

from flujo import BranchFailureStrategy, ConfigurationError, Flujo, MergeStrategy, Pipeline, Step
from tests.steps.workflows import Notes, paid

ECHO = paid("echo")
BRANCHES = {"a": ECHO}
STEP: Any = Step
"""`Step` for programs that no type checker has seen."""
RUNNER: Any = Flujo
PIPELINE: Any = Pipeline


class AsyncCall:
    """A callable object whose call is async."""

    async def __call__(self, *args: Any) -> bool:
        return True


class NotAType:
    """Pydantic knows nothing about it."""


async def _decide(output: Any, context: Any) -> bool:
    return True


def _of_one(value: Any) -> Any:
    return value


def _is_done(output: Any, context: Any) -> bool:
    return bool(output)


def _loop(**options: Any) -> Any:
    return STEP.loop_until(**{"name": "s", "loop_body_pipeline": ECHO, "exit_condition_callable": _is_done, **options})


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: STEP.parallel("s", {}), "at least one branch"),
        (lambda: STEP.parallel("s", {"a": "no step"}), "the branch 'a' is 'no step'"),
        (lambda: STEP.parallel("s", BRANCHES, merge_strategy="overwrite"), "merge_strategy is 'overwrite'"),
        (
            lambda: STEP.parallel("s", BRANCHES, merge_strategy=_of_one),
            r"merge_strategy\(context, branches\)",
        ),
        (lambda: STEP.parallel("s", BRANCHES, on_branch_failure="ignore"), "BranchFailureStrategy.IGNORE"),
        (lambda: STEP.parallel("s", BRANCHES, max_concurrency=0), "max_concurrency is 0"),
        (lambda: STEP.parallel("s", BRANCHES, max_concurrency=2.5), "max_concurrency is 2.5"),
        (lambda: STEP.parallel("s", BRANCHES, max_concurrency=True), "max_concurrency is True"),
        (lambda: STEP.parallel("s", BRANCHES, context_include_keys="count"), "the string 'count'"),
        (lambda: STEP.parallel("s", BRANCHES, field_mapping={"a": "count"}), "the string 'count'"),
        (lambda: STEP.parallel("s", BRANCHES, field_mapping={"b": ["count"]}), "names the branch 'b'"),
        (lambda: STEP.map_over("s", "no step"), "pipeline_to_run is 'no step'"),
        (lambda: STEP.map_over("s", ECHO, max_concurrency=0), "max_concurrency is 0"),
        (lambda: STEP.map_over("s", ECHO, merge_strategy=1), "merge_strategy is 1"),
        (lambda: STEP.map_over("s", ECHO, on_branch_failure=None), "on_branch_failure is None"),
        (lambda: STEP.dynamic_parallel_branch("s", ECHO, BRANCHES), "compose steps"),
        (lambda: STEP.dynamic_parallel_branch("s", 5, BRANCHES), "5 is not an agent"),
        (lambda: STEP.dynamic_parallel_branch("s", len, {}), "at least one branch"),
        (lambda: _loop(loop_body_pipeline=None), "loop_body_pipeline is None"),
        (lambda: _loop(exit_condition_callable="done"), "exit_condition_callable is 'done'"),
        (lambda: _loop(exit_condition_callable=_decide), "is async"),
        (lambda: _loop(exit_condition_callable=AsyncCall()), "is async"),
        (lambda: _loop(exit_condition_callable=lambda: True), r"exit_condition_callable\(output, context\)"),
        (lambda: _loop(iteration_input_mapper=_is_done), r"iteration_input_mapper\(output, context, i\)"),
        (lambda: _loop(initial_input_to_loop_body_mapper=_of_one), r"mapper\(input, context\)"),
        (lambda: _loop(loop_output_mapper=3), "loop_output_mapper is 3"),
        (lambda: _loop(max_loops=0), "max_loops is 0"),
        (lambda: _loop(max_loops="3"), "max_loops is '3'"),
        (lambda: STEP.refine_until("s", ECHO, "critic"), "critic_pipeline is 'critic'"),
        (lambda: STEP.refine_until("s", ECHO, ECHO, max_refinements=0), "max_refinements is 0"),
        (lambda: STEP.refine_until("s", ECHO, ECHO, feedback_mapper=_of_one), r"\(original_input, check\)"),
        (lambda: STEP.branch_on("s", _is_done, {}), "at least one branch"),
        (lambda: STEP.branch_on("s", None, BRANCHES), "condition_callable is None"),
        (lambda: STEP.branch_on("s", _is_done, BRANCHES, 7), "default_branch_pipeline is 7"),
        (lambda: STEP.branch_on("s", _decide, BRANCHES), "is async"),
        (lambda: STEP.human_in_the_loop("s", input_schema=NotAType), "input_schema is .*NotAType"),
        (lambda: STEP.cached("shout"), "the step is 'shout'"),
        (lambda: STEP.cached(ECHO, {}), r"cache_backend is \{\}"),
        (lambda: RUNNER(ECHO, cache_backend={}), r"cache_backend is \{\}"),
        (lambda: STEP.gather("s", wait_for=[]), "at least one key"),
        (lambda: STEP.gather("s", wait_for="ab"), "wait_for is 'ab'"),
        (lambda: STEP.parallel("", BRANCHES), "needs a name"),
        (lambda: PIPELINE(steps=[]), "at least one step"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(declare: Callable[[], object], said: str) -> None:
    """A wrong argument raises where the step is declared, with the argument and what it should be."""
    with pytest.raises(ConfigurationError, match=said):
        declare()


@pytest.mark.parametrize(
    "step",
    [
        Step.parallel("s", BRANCHES, context_include_keys=["cuont"]),
        Step.parallel("s", BRANCHES, field_mapping={"a": ["cuont"]}),
        Step.map_over("s", ECHO, iterable_input="cuont"),
        Step.dynamic_parallel_branch("s", len, BRANCHES, context_include_keys=["cuont"]),
    ],
)
def test_a_context_field_that_does_not_exist_is_refused_before_the_run(step: Step[Any, Any]) -> None:
    """A misspelt field is named with the nearest one there is, and no step has run."""
    with pytest.raises(ConfigurationError, match=r"'cuont'.*did you mean 'count'"):
        Flujo(step, context_model=Notes).run([1])


def test_strategies_are_taken_by_their_members() -> None:
    """Every member of the two enums is accepted."""
    for merge in MergeStrategy:
        for failure in BranchFailureStrategy:
            Step.parallel("p", BRANCHES, merge_strategy=merge, on_branch_failure=failure)
            Step.map_over("m", ECHO, merge_strategy=merge, on_branch_failure=failure)
