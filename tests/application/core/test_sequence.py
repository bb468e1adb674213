"""Steps in order: each works on the output of the one before, until one does not complete."""

from typing import Any

import pytest

from flujo import (
    BaseStep,
    Flujo,
    Pipeline,
    PipelineAbortSignal,
    PostStepPayload,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from tests.steps.workflows import CENT, assert_adds_up, failing, paid, plain


def _inside(pipeline: Any) -> Any:
    """Return a loop of one iteration, so that the pipeline is not the run's own."""
    return Step.loop_until("outer", pipeline, lambda output, context: True)


def test_each_step_works_on_the_output_before() -> None:
    """The output is the last one's; a pipeline's result has one child for each step."""
    pipeline = paid("one", lambda data: data + "1") >> paid("two", lambda data: data + "2") >> paid("three")

    result = Flujo(_inside(pipeline)).run("x")
    sequence = result.step_history[0].step_history[0]

    assert result.output == "x12"
    assert (sequence.name, sequence.attempts) == ("pipeline", 1)
    assert [child.output for child in sequence.step_history] == ["x1", "x12", "x12"]
    assert_adds_up(result)


def test_a_pipeline_of_one_step_is_that_step() -> None:
    """Its result is the step's own, without a level between."""
    result = Flujo(_inside(Pipeline.from_step(paid("only")))).run("x")

    assert result.step_history[0].step_history[0].name == "only"


def _with_fallback(step: BaseStep[Any, Any]) -> BaseStep[Any, Any]:
    return step.fallback(plain("never"))


@pytest.mark.parametrize("guard", [Step.cached, _with_fallback])
def test_a_pipeline_of_one_step_with_something_around_it_has_a_result_of_its_own(guard: Any) -> None:
    """Results and hooks know it by its own name, every time it runs, with its step within it."""
    heard: list[str] = []

    async def hear(payload: PostStepPayload) -> None:
        heard.append(payload.step_result.name)

    flujo = Flujo(guard(Pipeline(steps=[paid("only")], name="named")))
    first, second = flujo.run("x"), flujo.run("x")
    flujo.with_settings(hooks=[hear]).run("y")

    assert [run.step_history[0].name for run in (first, second)] == ["named", "named"]
    assert [child.name for child in first.step_history[0].step_history] == ["only"]
    assert set(heard) <= {"only", "named"}
    assert_adds_up(first)


def test_a_pipeline_of_one_step_with_limits_has_a_result_of_its_own() -> None:
    """Whatever stands beside it."""
    limited = Pipeline(steps=[paid("only")], name="named", usage_limits=UsageLimits(total_tokens_limit=10))

    result = Flujo(limited >> paid("after")).run("x")

    assert [child.name for child in result.step_history] == ["named", "after"]
    assert [child.name for child in result.step_history[0].step_history] == ["only"]
    assert_adds_up(result)


def test_a_failed_pipeline_of_one_step_blames_its_step() -> None:
    """Behind a cache as anywhere, with what it paid."""
    result = Flujo(Step.cached(Pipeline(steps=[failing("only")], name="named"))).run("x").step_history[0]

    assert (result.name, result.status, result.cost) == ("named", "failed", CENT)
    assert result.feedback == "step 'only': PaidError: no luck"


def test_pipelines_join_into_one() -> None:
    """`>>` makes one flat pipeline of pipelines, whichever way it is bracketed."""
    a, b, c, d = (plain(name) for name in "abcd")

    left, right = ((a >> b) >> c) >> d, a >> (b >> (c >> d))

    assert [step.name for step in left.steps] == [step.name for step in right.steps] == list("abcd")


def test_nothing_runs_after_a_step_that_failed() -> None:
    """The output is gone, the history is there, and the feedback names the step."""
    result = Flujo(_inside(paid("one") >> failing("two") >> paid("three"))).run("x")
    sequence = result.step_history[0].step_history[0]

    assert [child.name for child in sequence.step_history] == ["one", "two"]
    assert (sequence.status, sequence.output) == ("failed", None)
    assert sequence.feedback == "step 'two': PaidError: no luck"
    assert result.total_cost == 2 * CENT
    assert_adds_up(result)


def test_none_is_handed_on() -> None:
    """A step that gives `None` gives `None` to the next one."""
    assert Flujo(plain("nothing", lambda data: None) >> plain("text", str)).run("x").output == "None"


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_abort_ends_the_sequence_where_it_is(position: int) -> None:
    """What ran before is kept, what comes after never starts."""

    def stop(data: Any) -> Any:
        raise PipelineAbortSignal("enough")

    steps = [plain("stop", stop) if i == position else paid(f"step {i}") for i in range(3)]

    result = Flujo(_inside(Pipeline(steps=steps))).run("x")

    assert result.status == "aborted"
    assert result.total_cost == position * CENT
    assert_adds_up(result)


def test_a_limit_that_is_met_is_not_passed() -> None:
    """A run that spends exactly its limit completes; one cent more stops it after the step that spent it."""
    limits = UsageLimits(total_cost_usd_limit=0.02)

    exact = Flujo(_inside(paid("one") >> paid("two") >> plain("free")), usage_limits=limits).run("x")
    with pytest.raises(UsageLimitExceededError) as error:
        Flujo(_inside(paid("one") >> paid("two") >> paid("three") >> paid("four")), usage_limits=limits).run("x")

    broken = error.value.result.step_history[0].step_history[0]

    assert exact.total_cost == 2 * CENT
    assert (broken.status, [child.name for child in broken.step_history]) == ("stopped", ["one", "two", "three"])
    assert error.value.result.total_cost == 3 * CENT


def test_a_sequence_whose_last_step_breaks_the_limit_has_completed() -> None:
    """Nothing of it was left undone; the run stops after it."""
    with pytest.raises(UsageLimitExceededError) as error:
        Flujo(_inside(paid("one") >> paid("two")), usage_limits=UsageLimits(total_cost_usd_limit=0.01)).run("x")
    sequence = error.value.result.step_history[0].step_history[0]

    assert (sequence.status, sequence.output) == ("completed", "x")


async def test_only_the_last_step_hands_out_chunks() -> None:
    """What an earlier step streams is the input of the next, joined."""

    async def spell(data: str) -> Any:
        for character in data:
            yield character

    speak: Any = Step("speak", spell)
    pipeline = speak >> plain("twice", lambda data: data * 2) >> speak

    items = [item async for item in Flujo(pipeline).run_async("ab")]

    assert items[:-1] == ["a", "b", "a", "b"]
    assert items[-1].output == "abab"
