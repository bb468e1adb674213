"""A step that updates the context does so with what its fallback gives, too."""

from typing import Any

import pytest
from pydantic import field_validator

from flujo import Flujo, PausedException, PipelineContext, Step
from flujo.testing import StubAgent
from tests.application.core.agent_answers import Paid


class _Page(PipelineContext):
    title: str = ""
    visits: int = 0


def _fails(**options: Any) -> Step[Any, Any]:
    return Step("fetch", StubAgent([LookupError("down")]), max_retries=0, updates_context=True, **options)


def _works(output: Any) -> Step[Any, Any]:
    return Step("archive", StubAgent([Paid(output, 0.5)]))


async def test_what_the_fallback_gives_updates_the_context() -> None:
    """The fallback stands in for the step in everything, also where it has a fallback of its own."""
    output = {"title": "kept"}

    once = await Flujo(_fails().fallback(_works(output)), context_model=_Page).run_async("go")
    twice = await Flujo(_fails().fallback(_fails().fallback(_works(output))), context_model=_Page).run_async("go")

    assert [run.final_pipeline_context.title for run in (once, twice)] == ["kept", "kept"]
    assert once.output == output


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_fallback_that_updates_the_context_does_it_once(*, wrapped: bool) -> None:
    """What such a fallback, or a pipeline that ends with it, gave is in the context already."""
    validated: list[int] = []

    class Counting(_Page):
        @field_validator("visits")
        @classmethod
        def count(cls, value: int) -> int:
            validated.append(value)
            return value

    add: Step[Any, Any] = Step("add", StubAgent([{"visits": 1}]), updates_context=True)
    other: Any = Step("note", StubAgent(["x"])) >> add if wrapped else add
    result = await Flujo(_fails().fallback(other), context_model=Counting).run_async("go")

    assert (result.final_pipeline_context.visits, validated) == (1, [1])


async def test_what_does_not_fit_fails_the_step() -> None:
    """The result says what did not fit, has both costs, and the context is as it was."""
    result = await Flujo(_fails().fallback(_works({"visits": "many"})), context_model=_Page).run_async("go")

    (step,) = result.step_history
    assert (step.status, step.cost_usd, result.final_pipeline_context.visits) == ("failed", 0.5, 0)
    assert step.feedback is not None
    assert step.feedback.startswith("_Page refuses visits:")
    assert step.metadata_["original_error"] == "LookupError: down"


async def test_an_answer_to_the_fallback_updates_the_context() -> None:
    """What a person answers where the fallback asked is merged when the run goes on."""

    async def ask(data: str) -> Any:
        raise PausedException("Which title?")

    runner = Flujo(_fails().fallback(Step("ask", ask)), context_model=_Page)
    paused = await runner.run_async("go")
    result = await runner.resume_async(paused, {"title": "answered"})

    assert (paused.status, result.final_pipeline_context.title) == ("paused", "answered")
