"""Which question an answer is for, and which run an identity means."""

from typing import Any

import pytest

from flujo import AnswerRejectedError, ConfigurationError, Flujo, InMemoryBackend, PipelineChangedError, Step


def _asked_twice(backend: InMemoryBackend) -> Flujo[Any, Any]:
    body = Step.human_in_the_loop("ask", "how many?", input_schema=int)
    return Flujo(
        Step.loop_until("until large", body, lambda number, context: number > 5),
        state_backend=backend,
    )


async def test_an_old_result_answers_the_question_it_shows() -> None:
    """Whoever answers it a second time is told so, and does not answer the next question."""
    runner = _asked_twice(InMemoryBackend())
    first = await runner.run_async(0, run_id="r")
    second = await runner.resume_async(first, 3)

    with pytest.raises(AnswerRejectedError, match="has been answered already"):
        await runner.resume_async(first, 9)

    assert second.waiting[0].path != first.waiting[0].path
    assert (await runner.resume_async(second, 9)).output == 9


async def test_a_changed_pipeline_may_go_on_if_the_user_says_so() -> None:
    """`run` and `resume` take the results that are stored for the steps that differ."""
    backend, calls = InMemoryBackend(), list[str]()

    def pipeline(name: str, *, works: bool) -> Flujo[Any, Any]:
        def first(data: str) -> str:
            calls.append(name)
            return f"{data} by {name}"

        def second(data: str) -> str:
            if not works:
                raise ValueError("not yet")
            return data

        return Flujo(Step(name, first) >> Step("second", second, max_retries=0), state_backend=backend)

    await pipeline("old", works=False).run_async("text", run_id="r")
    with pytest.raises(PipelineChangedError, match="allow_changes=True"):
        await pipeline("new", works=True).run_async("text", run_id="r")

    result = await pipeline("new", works=True).run_async("text", run_id="r", allow_changes=True)

    assert result.output == "text by old"
    assert calls == ["old"]


async def test_an_empty_identity_is_none() -> None:
    """It is refused, and not taken for a run without an identity."""
    with pytest.raises(ConfigurationError, match="run_id is ''"):
        await Flujo(Step("same", str)).run_async("x", run_id="")
