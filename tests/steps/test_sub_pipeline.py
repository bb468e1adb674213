"""`as_step`: a pipeline, or a runner with its own settings, as one step."""

from typing import Any, Self

import pytest
from pydantic import BaseModel, ConfigDict

from flujo import (
    AppResources,
    ContextInheritanceError,
    Flujo,
    Pipeline,
    PipelineContext,
    PipelineResult,
    PostStepPayload,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from tests.steps.workflows import CENT, Notes, assert_adds_up, failing, paid, plain, setting


class Story(PipelineContext):
    """Another context: it shares `count` with `Notes`, and has a field of its own."""

    count: int = 0
    title: str = ""


class Demanding(PipelineContext):
    """A context with a field that somebody has to give."""

    count: int
    author: str


async def _see(data: Any, *, context: PipelineContext) -> PipelineContext:
    return context.model_copy(deep=True)


SEE = Step("see", _see)


def test_the_output_is_the_inner_result() -> None:
    """It has the inner history, cost, status and output; the step itself costs the same, once."""
    pipeline = paid("one", str.upper) >> paid("two")

    result = Flujo(pipeline.as_step("sub")).run("x")
    (step,) = result.step_history
    inner = result.output

    assert isinstance(inner, PipelineResult)
    assert (step.name, step.success, step.attempts, step.cost) == ("sub", True, 1, 2 * CENT)
    assert (inner.status, inner.output, inner.total_cost, inner.total_tokens) == ("completed", "X", 2 * CENT, 20)
    assert [each.name for each in inner.step_history] == [each.name for each in step.step_history] == ["one", "two"]
    assert inner.run_id == result.run_id
    assert_adds_up(result)


def test_a_failed_inner_step_fails_the_step() -> None:
    """The feedback names the inner step; the inner result is there, and everything is paid once."""
    result = Flujo((paid("one") >> failing("two")).as_step("sub") >> paid("never")).run("x")
    (step,) = result.step_history

    assert (result.status, step.status) == ("failed", "failed")
    assert step.feedback == "step 'two': PaidError: no luck"
    assert (step.output.status, step.output.output, step.output.total_cost) == ("failed", None, 2 * CENT)
    assert_adds_up(result)


def test_fields_flow_in_and_back() -> None:
    """Inner steps see the outer fields, and what they change is in the outer context afterwards."""

    async def add(data: Any, *, context: Notes) -> int:
        context.count += 1
        context.tags.append("inner")
        context.table["list"] = ["inner"]
        return context.count

    flujo = Flujo(
        setting("set", count=5) >> Pipeline.from_step(Step("add", add)).as_step("sub") >> SEE, context_model=Notes
    )

    result = flujo.run("ask", initial_context_data={"table": {"k": 1}})
    inner: Any = result.step_history[1].output

    assert inner.output == 6
    assert isinstance(result.output, Notes)
    assert (result.output.count, result.output.tags, result.output.table) == (6, ["inner"], {"k": 1, "list": ["inner"]})
    assert isinstance(result.final_pipeline_context, Notes)
    assert inner.final_pipeline_context.table["list"] is not result.final_pipeline_context.table["list"]


def test_the_runs_own_fields_do_not_flow_back() -> None:
    """No inner step changes the outer run's identity or prompt."""
    inner = setting("set", run_id="other", initial_prompt="other", count=1)

    result = Flujo(Pipeline.from_step(inner).as_step("sub"), context_model=Notes).run("ask", run_id="mine")
    final = result.final_pipeline_context

    assert isinstance(final, Notes)
    assert (final.run_id, final.initial_prompt, final.count) == ("mine", "ask", 1)


def test_a_wall_holds_in_both_directions() -> None:
    """Inner steps see defaults and a prompt of their own input; what they change stays inside."""
    inner = setting("set", tags=["inner"]) >> SEE
    wall = inner.as_step("sub", inherit_context=False)

    result = Flujo(plain("other", lambda data: "inner input") >> wall, context_model=Notes).run(
        "outer input", initial_context_data={"count": 5, "tags": ["outer"]}
    )
    seen: Any = result.step_history[1].output.output

    assert (seen.count, seen.tags, seen.initial_prompt) == (0, ["inner"], "inner input")
    assert isinstance(result.final_pipeline_context, Notes)
    assert (result.final_pipeline_context.count, result.final_pipeline_context.tags) == (5, ["outer"])


@pytest.mark.parametrize(
    ("inherits", "prompt"),
    [
        ({"outer": True, "inner": True}, "outer"),
        ({"outer": False, "inner": True}, "middle"),
        ({"outer": True, "inner": False}, "['middle']"),
        ({"outer": False, "inner": False}, "['middle']"),
    ],
)
def test_a_prompt_is_valid_two_levels_deep(inherits: dict[str, bool], prompt: str) -> None:
    """Inherited it is the run's; behind a wall it comes from the input there, also if that is no text."""
    innermost = Pipeline.from_step(SEE).as_step("inner", inherit_context=inherits["inner"])
    middle = (plain("list", lambda data: [data]) >> innermost).as_step("middle", inherit_context=inherits["outer"])

    result: Any = Flujo(plain("say", lambda data: "middle") >> middle).run("outer")

    assert result.output.output.output.initial_prompt == prompt


def test_a_runner_brings_its_own_context_model() -> None:
    """Fields that both models have flow in and back; the inner steps are checked against the inner model."""

    async def tell(data: str, *, context: Story) -> str:
        context.count += 1
        return f"{context.title} by {data}, {context.count}"

    inner = Flujo(Step("tell", tell), context_model=Story, initial_context_data={"title": "Tale", "count": 90})

    result: Any = Flujo(inner.as_step("sub"), context_model=Notes, initial_context_data={"count": 1}).run("me")

    assert result.output.output == "Tale by me, 2"
    assert isinstance(result.output.final_pipeline_context, Story)
    assert isinstance(result.final_pipeline_context, Notes)
    assert result.final_pipeline_context.count == 2


def test_missing_fields_of_the_inner_context_are_named() -> None:
    """The error names the fields that neither the outer context nor the runner gives."""
    inner = Flujo(paid("call"), context_model=Demanding)

    with pytest.raises(ContextInheritanceError, match="author") as error:
        Flujo(inner.as_step("sub"), context_model=Notes).run("x")
    with pytest.raises(ContextInheritanceError) as walled:
        Flujo(inner.as_step("sub", inherit_context=False), context_model=Notes).run("x")

    assert error.value.fields == ("author",)
    assert walled.value.fields == ("count", "author")


def test_a_runner_gives_its_own_fields_where_nothing_flows_in() -> None:
    """`initial_context_data` of the inner runner fills what the outer context does not have."""
    inner = Flujo(SEE, context_model=Demanding, initial_context_data={"author": "Ada", "count": 1})

    flowed: Any = Flujo(inner.as_step("sub"), context_model=Notes, initial_context_data={"count": 7}).run("x")
    walled: Any = Flujo(inner.as_step("sub", inherit_context=False), context_model=Notes).run("x")

    assert (flowed.output.output.author, flowed.output.output.count) == ("Ada", 7)
    assert (walled.output.output.author, walled.output.output.count) == ("Ada", 1)


def test_a_runner_brings_its_own_limits() -> None:
    """They count what is spent in the step, each time anew."""
    limits = UsageLimits(total_cost_usd_limit=0.02)
    two: Any = Flujo(paid("one") >> paid("two"), usage_limits=limits).as_step("sub")
    three = Flujo(paid("a") >> paid("b") >> paid("c"), usage_limits=limits).as_step("sub")

    good = Flujo(Step.loop_until("loop", two, lambda output, context: False, 3)).run("x")
    with pytest.raises(UsageLimitExceededError, match="step 'sub' passed its limit") as error:
        Flujo(paid("before") >> three).run("x")

    assert good.total_cost == 6 * CENT
    assert error.value.result.total_cost == 4 * CENT
    assert_adds_up(error.value.result)


class Client(AppResources):
    """Counts how often it is entered and left."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    log: Any  # of type Any, so that it is the very list of the test
    fails_on_exit: bool = False

    async def __aenter__(self) -> Self:
        self.log.append(f"enter {self.name}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.log.append(f"leave {self.name}")
        if self.fails_on_exit:
            raise OSError("still busy")


async def _which(data: Any, *, resources: Client) -> str:
    return resources.name


def test_a_runner_brings_its_own_resources() -> None:
    """They are entered around the inner steps; without any, the inner steps have those of the outer run."""
    log: list[str] = []
    which = Step("which", _which)
    own = Flujo(which, resources=Client(name="inner", log=log)).as_step("own")
    shared = Flujo(which).as_step("shared")

    result: Any = Flujo(own >> shared, resources=Client(name="outer", log=log)).run("x")

    assert [step.output.output for step in result.step_history] == ["inner", "outer"]
    assert log == ["enter outer", "enter inner", "leave inner", "leave outer"]


def test_resources_that_fail_when_left_lose_no_cost() -> None:
    """The error is logged, and what the inner steps gave and cost is kept."""
    inner = Flujo(paid("one") >> paid("two"), resources=Client(name="inner", log=[], fails_on_exit=True))

    result = Flujo(inner.as_step("sub")).run("x")

    assert result.step_history[0].success
    assert result.total_cost == 2 * CENT
    assert_adds_up(result)


def test_a_runner_brings_its_own_hooks() -> None:
    """They hear of the inner steps only, besides the outer hooks, with their paths."""
    heard: dict[str, list[tuple[str, ...]]] = {"inner": [], "outer": []}

    async def inner_hook(payload: PostStepPayload) -> None:
        heard["inner"].append(payload.path)

    async def outer_hook(payload: PostStepPayload) -> None:
        heard["outer"].append(payload.path)

    Flujo(paid("before") >> Flujo(paid("one"), hooks=[inner_hook]).as_step("sub"), hooks=[outer_hook]).run("x")

    assert heard["inner"] == [("1", "pipeline", "0")]
    assert heard["outer"] == [("0",), ("1", "pipeline", "0"), ("1",)]


class Narrow(BaseModel):
    """An outer context that does not take every count."""

    model_config = ConfigDict(extra="forbid")

    count: bool = False


def test_a_value_that_does_not_fit_the_outer_context_fails_the_step() -> None:
    """The outer context stays as it was, and the feedback names the field."""
    inner = Flujo(setting("set", count=7), context_model=Story)

    result = Flujo(inner.as_step("sub"), context_model=Narrow).run("x")

    assert result.status == "failed"
    assert "count" in str(result.step_history[0].feedback)
    assert result.final_pipeline_context == Narrow()


def test_fields_of_a_failed_sub_pipeline_flow_back() -> None:
    """What its steps wrote before one failed is as if they had stood in the outer pipeline."""
    inner = setting("set", count=3) >> failing("bad")

    step: Any = inner.as_step("sub")

    result = Flujo(step.fallback(SEE), context_model=Notes).run("x")

    assert isinstance(result.output, Notes)
    assert result.output.count == 3
