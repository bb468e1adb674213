"""What pipelines, runners and composite steps take and give; mypy and pyright read this with the repository."""

# ruff: noqa: D103 - the steps say with their names and types what they are

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, assert_type

from pydantic import BaseModel

from flujo import (
    BaseStep,
    Flujo,
    MergeStrategy,
    Pipeline,
    PipelineContext,
    PipelineResult,
    PipelineRun,
    RefinementCheck,
    Step,
    StepResult,
    step,
)
from flujo.testing import gather_result


class Notes(PipelineContext):
    words: int = 0


class Verdict(BaseModel):
    is_good: bool


@step
async def count(text: str) -> int:
    return len(text)


@step
async def double(number: int) -> int:
    return 2 * number


@step
async def describe(number: int) -> str:
    return f"the number {number}"


@step
async def chunks(text: str) -> AsyncIterator[str]:
    yield text


@step
async def criticise(draft: str) -> RefinementCheck:
    return RefinementCheck(is_complete=bool(draft))


async def route(text: str) -> list[str]:
    return text.split()


def is_long(number: int, context: Notes) -> bool:
    return number > context.words


def length(text: str, context: Notes) -> int:
    return len(text) + context.words


def text_after(number: int, context: Notes, i: int) -> str:
    return str(number + context.words + i)


def number_after(number: int, context: Notes, i: int) -> int:
    return number + context.words + i


def listed(number: int, context: Notes) -> list[int]:
    return [number, context.words]


def merge(context: Notes, branches: dict[str, Notes]) -> None:
    context.words = sum(branch.words for branch in branches.values())


def test_composition_gives_the_outer_types() -> None:
    """A chain takes what its first step takes and gives what its last one gives, however it is put together."""
    assert_type(count >> double, Pipeline[str, int])
    assert_type(count >> double >> describe, Pipeline[str, str])
    assert_type((count >> describe) >> (count >> describe), Pipeline[str, str])
    assert_type(Pipeline.from_step(count), Pipeline[str, int])
    assert_type(Pipeline.from_step(count >> describe), Pipeline[str, str])
    assert_type(Pipeline(steps=[count, describe]), Pipeline[Any, Any])


def test_a_step_of_one_branch_takes_a_parallel_result() -> None:
    """`use_input` takes a dict with string keys, and gives what the step gives."""
    both = Step.parallel("both", {"length": count, "text": chunks})

    assert_type(describe.use_input("length"), BaseStep[Mapping[str, Any], str])
    assert_type(both >> describe.use_input("length"), Pipeline[str, str])
    assert_type(both >> Step.gather("some", wait_for=["length"]), Pipeline[str, dict[str, Any]])


def test_a_runner_takes_and_gives_what_its_pipeline_does() -> None:
    """Input and output of every way to run are those of the pipeline."""
    runner = Flujo(count >> describe, context_model=Notes)
    result = runner.run("abc")

    assert_type(runner, Flujo[str, str])
    assert_type(Flujo(count), Flujo[str, int])
    assert_type(result, PipelineResult[str])
    assert_type(result.output, str | None)
    assert_type(result.step_history, list[StepResult])
    assert_type(result.step_history[0].step_history, list[StepResult])
    assert_type(runner.run_async("abc"), PipelineRun[str])  # type: ignore[unused-awaitable]  # a run may be dropped


async def test_a_run_gives_the_same_types_in_a_loop() -> None:
    """Awaiting a run gives the pipeline's result; iterating over it gives chunks of any type."""
    runner = Flujo(count >> describe)

    assert_type(await runner.run_async("abc"), PipelineResult[str])
    assert_type(await gather_result(runner, "abc"), PipelineResult[str])
    assert_type([item async for item in runner.run_async("abc")], list[Any])
    assert_type([item async for item in runner.stream_async("abc")], list[Any])


async def test_a_resumed_run_gives_the_same_type() -> None:
    """Resuming gives what the run would have given."""
    runner = Flujo(Step.human_in_the_loop("ask", "Go on?", input_schema=int) >> describe)
    paused = await runner.run_async("abc")

    assert_type(await runner.resume_async(paused, 1), PipelineResult[str])


def test_a_pipeline_as_a_step_gives_a_result() -> None:
    """`as_step`, of a pipeline or a runner, gives the inner result with the inner output's type."""
    assert_type((count >> describe).as_step("inner"), BaseStep[str, PipelineResult[str]])
    assert_type(Flujo(count).as_step("inner", inherit_context=False), BaseStep[str, PipelineResult[int]])


def test_branches_take_one_input() -> None:
    """Parallel branches take the same input and give a dict; mergers are typed by the user's context."""
    assert_type(Step.parallel("both", {"a": count, "b": chunks}), BaseStep[str, dict[str, Any]])
    assert_type(Step.parallel("both", {"a": count >> describe}, merge_strategy=merge), BaseStep[str, dict[str, Any]])
    assert_type(
        Step.parallel("both", {"a": count}, merge_strategy=MergeStrategy.OVERWRITE), BaseStep[str, dict[str, Any]]
    )
    assert_type(Step.dynamic_parallel_branch("some", route, {"a": count, "b": chunks}), BaseStep[str, dict[str, Any]])


def test_a_loop_without_mappers_keeps_its_type() -> None:
    """A loop takes and gives what its body takes and gives."""
    assert_type(Step.loop_until("loop", double, is_long), BaseStep[int, int])
    assert_type(Step.loop_until("loop", double >> double, is_long, max_loops=3), BaseStep[int, int])
    assert_type(Step.loop_until("loop", double, lambda number, context: number > 3), BaseStep[int, int])


def test_the_mappers_of_a_loop_change_its_types() -> None:
    """The first mapper gives the loop's input type, the last one its output type, each combination included."""
    assert_type(Step.loop_until("loop", double, is_long, initial_input_to_loop_body_mapper=length), BaseStep[str, int])
    assert_type(Step.loop_until("loop", count, is_long, iteration_input_mapper=text_after), BaseStep[str, int])
    assert_type(
        Step.loop_until("loop", count, is_long, iteration_input_mapper=lambda n, context, i: str(n)), BaseStep[str, int]
    )
    assert_type(
        Step.loop_until(
            "loop",
            double,
            is_long,
            initial_input_to_loop_body_mapper=length,
            iteration_input_mapper=number_after,
        ),
        BaseStep[str, int],
    )
    assert_type(Step.loop_until("loop", double, is_long, loop_output_mapper=listed), BaseStep[int, list[int]])
    assert_type(
        Step.loop_until("loop", count, is_long, iteration_input_mapper=text_after, loop_output_mapper=listed),
        BaseStep[str, list[int]],
    )
    assert_type(
        Step.loop_until(
            "loop",
            double,
            is_long,
            initial_input_to_loop_body_mapper=length,
            iteration_input_mapper=number_after,
            loop_output_mapper=listed,
        ),
        BaseStep[str, list[int]],
    )
    assert_type(
        Step.loop_until("loop", double, is_long, initial_input_to_loop_body_mapper=length, loop_output_mapper=listed),
        BaseStep[str, list[int]],
    )


def test_a_refinement_gives_the_draft() -> None:
    """A refinement gives what its generator gives."""
    assert_type(Step.refine_until("draft", describe, criticise), BaseStep[Any, str])


def test_a_map_takes_items_and_gives_a_list() -> None:
    """A map over its input takes an iterable of items; one over a context field takes anything."""
    assert_type(Step.map_over("each", count), BaseStep[Iterable[str], list[int]])
    assert_type(Step.map_over("each", count >> describe, merge_strategy=merge), BaseStep[Iterable[str], list[str]])
    assert_type(Step.map_over("each", count, iterable_input="items"), BaseStep[Any, list[int]])
    assert_type(Step.map_over("each", count) >> Step.map_over("again", double), Pipeline[Iterable[str], list[int]])


def test_a_choice_takes_its_input_and_gives_its_branches_output() -> None:
    """The condition and the branches take one input, unless a mapper stands between; an output mapper decides."""
    assert_type(Step.branch_on("which", is_long, {True: double, False: double}), BaseStep[int, int])
    assert_type(Step.branch_on("which", is_long, {True: double}, double >> double), BaseStep[int, int])
    assert_type(Step.branch_on("which", length, {3: double}, branch_input_mapper=length), BaseStep[str, int])
    assert_type(Step.branch_on("which", is_long, {True: double}, branch_output_mapper=text_after), BaseStep[int, str])
    assert_type(
        Step.branch_on("which", length, {3: double}, branch_input_mapper=length, branch_output_mapper=number_after),
        BaseStep[str, int],
    )


def test_an_answer_has_the_type_that_is_asked_for() -> None:
    """A person's answer is of the `input_schema`, or of any type."""
    assert_type(Step.human_in_the_loop("ask"), BaseStep[Any, Any])
    assert_type(Step.human_in_the_loop("ask", "Go on?"), BaseStep[Any, Any])
    assert_type(Step.human_in_the_loop("ask", input_schema=bool), BaseStep[Any, bool])
    assert_type(Step.human_in_the_loop("ask", "Go on?", Verdict), BaseStep[Any, Verdict])
    assert_type(Step.human_in_the_loop("ask", input_schema=list[str]), BaseStep[Any, list[str]])


def test_remembering_keeps_the_types() -> None:
    """A cached step takes and gives what the inner step does."""
    assert_type(Step.cached(count), BaseStep[str, int])
    assert_type(Step.cached(count >> describe), BaseStep[str, str])
