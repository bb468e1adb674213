"""What a stored run keeps of hooks, people, attempts, places and nested pipelines."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from flujo import (
    BaseStep,
    Flujo,
    HumanInteraction,
    InMemoryBackend,
    PipelineContext,
    PostStepPayload,
    SerializationError,
    Step,
    ValidationResult,
)


class _Crash(BaseException):
    """The process dies here."""


async def test_a_step_is_kept_before_a_hook_is_told_that_it_succeeded() -> None:
    """A crash in the hook does not let the step run again."""
    backend, calls, crashes = InMemoryBackend(), list[str](), [True]

    def work(text: str) -> str:
        calls.append(text)
        return text

    async def hook(payload: PostStepPayload) -> None:
        if crashes and payload.path == ("0",):
            raise _Crash(crashes.pop())

    runner = Flujo(Step("first", work) >> Step("second", str), state_backend=backend, hooks=[hook])
    with pytest.raises(_Crash):
        await runner.run_async("x", run_id="r")

    assert (await runner.run_async("x", run_id="r")).output == "x"
    assert calls == ["x"]


async def test_attempts_go_on_where_they_stood() -> None:
    """After a crash in the second attempt the third comes next, with the feedback of the first."""
    backend, asked = InMemoryBackend(), list[str]()

    class Agent:
        async def run(self, text: str, *, feedback: str | None = None) -> str:
            asked.append(f"{text} ({feedback})")
            if len(asked) == 2:
                raise _Crash
            return "bad" if len(asked) < 4 else "good"

    class Judge:
        name = "judge"

        async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
            return ValidationResult(is_valid=output == "good", feedback=f"not {output}")

    runner = Flujo(Step("draft", Agent(), validators=[Judge()], max_retries=2), state_backend=backend)
    with pytest.raises(_Crash):
        await runner.run_async("x", run_id="r")

    result = await runner.run_async("x", run_id="r")

    assert asked == ["x (None)", "x (judge: not bad)", "x (judge: not bad)", "x (judge: not bad)"]
    assert result.output == "good"
    assert result.step_history[0].attempts == 3


async def test_what_attempts_changed_is_kept() -> None:
    """After a crash in the second attempt the context has what the first one wrote to it."""
    backend, calls = InMemoryBackend(), list[str]()

    def work(data: str, *, context: PipelineContext) -> str:
        calls.append(data)
        context.scratchpad.setdefault("seen", []).append(len(calls))
        if len(calls) == 1:
            raise ConnectionError("down")
        if len(calls) == 2:
            raise _Crash
        return data

    runner = Flujo(Step("work", work, max_retries=1), state_backend=backend)
    with pytest.raises(_Crash):
        await runner.run_async("x", run_id="r")

    result = await runner.run_async("x", run_id="r")

    assert result.final_pipeline_context.scratchpad == {"seen": [1, 3]}


async def test_what_a_step_adds_to_the_answers_is_kept() -> None:
    """Interactions of the user's own stand beside those of flujo."""
    backend = InMemoryBackend()
    own = HumanInteraction(message_to_human="?", human_response=1, timestamp=datetime(2026, 1, 1, tzinfo=UTC))

    def note(data: Any, *, context: PipelineContext) -> Any:
        context.hitl_history.append(own)
        return data

    runner = Flujo(Step("note", note) >> Step.human_in_the_loop("ask"), state_backend=backend)
    await runner.run_async("x", run_id="r")
    result = await runner.resume_async("r", "yes")
    again = await runner.run_async("x", run_id="r")

    for each in (result, again):
        history = each.final_pipeline_context.hitl_history
        assert sorted(interaction.human_response == 1 for interaction in history) == [False, True]


class Undeclared(BaseModel):
    a: int = 1


async def test_the_place_of_a_value_in_the_context_is_named() -> None:
    """A value that a step put into the context and that cannot be stored is found by its place there."""

    def note(data: Any, *, context: PipelineContext) -> Any:
        context.scratchpad["drafts"][0]["picture"] = Undeclared()
        return data

    def start(data: Any, *, context: PipelineContext) -> Any:
        context.scratchpad["drafts"] = [{}]
        return data

    runner = Flujo(Step("start", start) >> Step("note", note), state_backend=InMemoryBackend())

    with pytest.raises(SerializationError, match=r"context\.scratchpad\.drafts\[0\]\.picture is a Undeclared"):
        await runner.run_async("x")


async def test_nested_pipelines_are_stored_in_space_that_grows_with_their_depth() -> None:
    """Twice as deep takes about twice the space, and the histories come back at every level."""

    async def stored_size(depth: int) -> int:
        backend = InMemoryBackend()
        step: BaseStep[Any, Any] = Step("leaf", str)
        for _ in range(depth):
            step = (step >> Step("end", lambda data: "x")).as_step("sub")
        runner = Flujo(step, state_backend=backend)
        result = await runner.run_async("x", run_id="r")
        again = await runner.run_async("x", run_id="r")
        assert again.step_history == result.step_history
        assert again.step_history[0].output.step_history == result.step_history[0].output.step_history
        return sum(len(entry.payload) for entry in (await backend.load("r")).entries)

    assert await stored_size(12) < 2.5 * await stored_size(6)
