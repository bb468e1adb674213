"""Pipelines as steps of pipelines, with and without the outer context."""

from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from flujo import (
    BaseStep,
    ContextInheritanceError,
    Flujo,
    HookPayload,
    HumanInteraction,
    Pipeline,
    PipelineContext,
    PipelineResult,
    PreStepPayload,
    Step,
    UsageLimits,
)
from flujo.testing import StubAgent
from tests.integration.paid import leaves, paid_step
from tests.integration.people import ask, context_of, pause


class Draft(PipelineContext):
    topic: str = "none"
    words: int = 0


class Other(PipelineContext):
    words: int = 0
    secret: str = "inner"


class Needy(PipelineContext):
    topic: str
    audience: str


class Bare(BaseModel):
    words: int = 0


def _prompt(data: Any, context: Any) -> str:
    return str(context.initial_prompt)


def _count(data: Any, context: Any) -> Any:
    context.words += 1
    return data


def _shout(data: str) -> str:
    return data.upper()


def _nest(pipeline: BaseStep[Any, Any], deep: int, *, inherit_context: bool, by: str) -> BaseStep[Any, Any]:
    """Return a pipeline within a pipeline within ..., each made a step of by `Pipeline` or `Flujo`."""
    for level in range(deep):
        inner = Pipeline.from_step(pipeline)
        maker = inner if by == "Pipeline" else Flujo(inner)
        pipeline = maker.as_step(f"level {level}", inherit_context=inherit_context)
    return pipeline


def _innermost(result: PipelineResult[Any], deep: int) -> PipelineResult[Any]:
    for _ in range(deep):
        inner: PipelineResult[Any] | None = result.output
        assert inner is not None
        result = inner
    return result


@pytest.mark.parametrize("by", ["Pipeline", "Flujo"])
@pytest.mark.parametrize("deep", [1, 2, 5])
async def test_a_nested_pipeline_inherits_the_prompt(deep: int, by: str) -> None:
    """At any depth the inner `initial_prompt` is that of the run, whatever the steps before made of the input."""
    nested = _nest(Step("prompt", _prompt), deep, inherit_context=True, by=by)

    result = await Flujo(Step("shout", _shout) >> nested).run_async("hello")

    inner = _innermost(result, deep)
    assert inner.output == context_of(inner).initial_prompt == "hello"


@pytest.mark.parametrize("by", ["Pipeline", "Flujo"])
@pytest.mark.parametrize("deep", [1, 2, 5])
async def test_behind_a_wall_the_prompt_is_the_inner_input(deep: int, by: str) -> None:
    """Without the outer context the inner `initial_prompt` comes from the inner input."""
    nested = _nest(Step("prompt", _prompt), deep, inherit_context=False, by=by)

    result = await Flujo(Step("shout", _shout) >> nested).run_async("hello")

    inner = _innermost(result, deep)
    assert inner.output == context_of(inner).initial_prompt == "HELLO"
    assert context_of(result).initial_prompt == "hello"


async def test_a_prompt_behind_a_wall_is_bounded_too() -> None:
    """An inner input that is no string is written as a run's input is."""
    split = Step("split", StubAgent([{"b": 1, "a": [2]}]))
    nested = _nest(Step("prompt", _prompt), 1, inherit_context=False, by="Pipeline")

    result = await Flujo(split >> nested).run_async("hello")

    assert _innermost(result, 1).output == "{'b': 1, 'a': [2]}"


async def test_an_outer_context_without_a_prompt_still_gives_a_valid_one() -> None:
    """Where the outer context has no `initial_prompt`, the inner input is the prompt."""
    inner = Flujo(Step("prompt", _prompt)).as_step("inner")

    result = await Flujo(Step("shout", _shout) >> inner, context_model=Bare).run_async("hello")

    assert _innermost(result, 1).output == "HELLO"


@pytest.mark.parametrize("by", ["Pipeline", "Flujo"])
async def test_fields_flow_in_and_back(by: str) -> None:
    """What the inner steps change is in the outer context afterwards, from any depth."""
    count = Step("count", _count)
    inner = Pipeline.from_step(count)
    step = inner.as_step("in") if by == "Pipeline" else Flujo(inner, context_model=Draft).as_step("in")
    deeper = Pipeline(steps=[count, step]).as_step("deeper")

    result = await Flujo(count >> deeper >> count, context_model=Draft).run_async("x")

    assert isinstance(result.final_pipeline_context, Draft)
    assert result.final_pipeline_context.words == 4


async def test_an_inner_context_is_a_copy() -> None:
    """What the outer steps do later does not reach into the result of the inner pipeline."""
    count = Step("count", _count)

    def keep_result(result: PipelineResult[Any], context: Any) -> PipelineResult[Any]:
        context.words += 10
        return result

    pipeline = Pipeline.from_step(count).as_step("inner") >> Step("later", keep_result)
    result: PipelineResult[Any] = await Flujo(pipeline, context_model=Draft).run_async("x")

    inner_context = _innermost(result, 1).final_pipeline_context
    assert isinstance(inner_context, Draft)
    assert isinstance(result.final_pipeline_context, Draft)
    assert (inner_context.words, result.final_pipeline_context.words) == (1, 11)


@pytest.mark.parametrize("by", ["Pipeline", "Flujo"])
async def test_a_wall_keeps_fields_in_and_out(by: str) -> None:
    """Behind a wall the inner context begins with its defaults, and nothing comes back."""
    count = Step("count", _count)
    inner = Pipeline.from_step(count)
    walled = (
        inner.as_step("in", inherit_context=False)
        if by == "Pipeline"
        else Flujo(inner, context_model=Draft).as_step("in", inherit_context=False)
    )

    result = await Flujo(count >> count >> walled, context_model=Draft).run_async("x")

    inner_context = _innermost(result, 1).final_pipeline_context
    assert isinstance(inner_context, Draft)
    assert isinstance(result.final_pipeline_context, Draft)
    assert (inner_context.words, result.final_pipeline_context.words) == (1, 2)


async def test_only_fields_that_both_have_flow() -> None:
    """The inner model's own fields stay inside; the shared ones go in and come back."""
    inner = Flujo(Step("count", _count), context_model=Other).as_step("inner")

    result = await Flujo(Step("count", _count) >> inner, context_model=Draft).run_async("x")

    inner_context = _innermost(result, 1).final_pipeline_context
    assert isinstance(inner_context, Other)
    assert (inner_context.words, inner_context.secret) == (2, "inner")
    assert result.final_pipeline_context == Draft(
        run_id=result.run_id, initial_prompt="x", words=2, scratchpad=context_of(result).scratchpad
    )


async def test_the_runner_gives_what_does_not_flow_in() -> None:
    """`initial_context_data` of an inner runner fills the fields that the outer context does not have."""
    inner = Flujo(Step("prompt", _prompt), context_model=Needy, initial_context_data={"audience": "all", "topic": "-"})

    result = await Flujo(inner.as_step("inner"), context_model=Draft, initial_context_data={"topic": "cats"}).run_async(
        "x"
    )

    context = _innermost(result, 1).final_pipeline_context
    assert isinstance(context, Needy)
    assert (context.topic, context.audience) == ("cats", "all")


@pytest.mark.parametrize(
    ("inherit_context", "fields", "source"),
    [
        (True, ("audience",), "the outer context"),
        (False, ("topic", "audience"), "nothing, because inherit_context is False"),
    ],
)
async def test_missing_inner_fields_are_named(*, inherit_context: bool, fields: tuple[str, ...], source: str) -> None:
    """Required inner fields that nobody gives raise, and no inner step runs."""
    agent = StubAgent([])
    inner = Flujo(Step("ask", agent), context_model=Needy).as_step("inner", inherit_context=inherit_context)

    with pytest.raises(ContextInheritanceError, match=f"{source}: Needy lacks the required fields") as error:
        await Flujo(inner, context_model=Draft).run_async("x")
    assert error.value.fields == fields
    assert agent.call_count == 0


async def test_a_plain_pipeline_behind_a_wall_needs_what_its_model_needs() -> None:
    """A plain pipeline has a context of the run's model, whose required fields a wall keeps out."""
    walled = Pipeline.from_step(Step("prompt", _prompt)).as_step("walled", inherit_context=False)
    runner = Flujo(walled, context_model=Needy, initial_context_data={"topic": "t", "audience": "a"})

    with pytest.raises(ContextInheritanceError) as error:
        await runner.run_async("x")
    assert error.value.fields == ("topic", "audience")


async def test_an_inner_failure_fails_the_step_and_keeps_the_inner_result() -> None:
    """The output of the step is the inner result, and its feedback says which inner step failed."""

    def fail(data: Any) -> Any:
        raise ValueError("broken")

    inner = (paid_step("paid", 0.02) >> Step("fail", fail, max_retries=0)).as_step("inner")

    result = await Flujo(inner >> paid_step("never", 1)).run_async("x")

    (step,) = result.step_history
    assert (step.status, step.feedback) == ("failed", "step 'fail': ValueError: broken")
    output: PipelineResult[Any] = step.output
    assert (output.status, output.total_cost) == ("failed", Decimal("0.02"))
    assert [leaf.name for leaf in leaves(result.step_history)] == ["paid", "fail"]


async def test_inner_money_is_outer_money() -> None:
    """What inner steps cost is in the totals of every level, to the last digit."""
    nested = _nest(paid_step("paid", Decimal("0.0000001"), 3), 4, inherit_context=False, by="Flujo")

    result = await Flujo(nested, usage_limits=UsageLimits(total_tokens_limit=3)).run_async("x")

    levels = [result, *(_innermost(result, deep) for deep in range(1, 5))]
    assert [(level.total_cost, level.total_tokens) for level in levels] == [(Decimal("0.0000001"), 3)] * 5


async def test_the_inner_runner_brings_its_hooks_and_resources() -> None:
    """Inner hooks hear of the inner steps only; inner agents get the inner resources."""
    inner_paths: list[tuple[str, ...]] = []
    outer_paths: list[tuple[str, ...]] = []

    async def hear_inner(payload: PreStepPayload) -> None:
        inner_paths.append(payload.path)

    async def hear_outer(payload: PreStepPayload) -> None:
        outer_paths.append(payload.path)

    def use(data: Any, resources: Any) -> Any:
        return [*data, resources]

    inner = Flujo(Step("use", use), resources="inner", hooks=[hear_inner])
    shared = Flujo(Step("use", use))

    def unpack_result(result: PipelineResult[Any]) -> Any:
        return result.output

    unpack = Step("unpack", unpack_result)
    steps: list[BaseStep[Any, Any]] = [Step("use", use), inner.as_step("in"), unpack, shared.as_step("shared"), unpack]
    result = await Flujo(Pipeline(steps=steps), resources="outer", hooks=[hear_outer]).run_async([])

    assert result.output == ["outer", "inner", "outer"]
    assert inner_paths == [("1", "pipeline", "0")]
    assert outer_paths == [("0",), ("1",), ("1", "pipeline", "0"), ("2",), ("3",), ("3", "pipeline", "0"), ("4",)]


@pytest.mark.parametrize("inherit_context", [True, False])
async def test_a_nested_pipeline_may_pause(*, inherit_context: bool) -> None:
    """A question twice deep pauses the whole run; its answer goes on there, and is remembered where it was asked."""
    heard: list[HookPayload] = []

    async def hear(payload: PreStepPayload) -> None:
        heard.append(payload)

    steps = Pipeline(steps=[paid_step("paid", 0.02), ask(), Step("prompt", _prompt)])
    nested = _nest(steps, 2, inherit_context=inherit_context, by="Pipeline")
    runner = Flujo(Step("shout", _shout) >> nested, hooks=[hear])
    paused = await pause(runner, "hello")
    assert [asked.path for asked in paused.waiting] == [("1", "pipeline", "0", "pipeline", "1")]

    result = await runner.resume_async(paused, "yes")

    inner = _innermost(result, 2)
    assert inner.output == ("hello" if inherit_context else "HELLO")
    assert result.total_cost == Decimal("0.02")
    remembered = [said.human_response for said in context_of(inner).hitl_history]
    assert remembered == ["yes"]
    assert bool(context_of(result).hitl_history) is inherit_context
    assert all(isinstance(said, HumanInteraction) for said in context_of(result).hitl_history)
