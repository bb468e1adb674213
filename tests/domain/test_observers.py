"""What hooks are told: typed events that are values and shown in one line."""

import dataclasses
from typing import Any

import pytest

import flujo
from flujo import (
    OnPausePayload,
    OnStepFailurePayload,
    PipelineContext,
    PipelineResult,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
    Step,
    StepResult,
)
from flujo.domain.observers import PAYLOADS, HookPayload

_STEP = Step("shout", str.upper)
_EVENTS: list[HookPayload] = [
    PreRunPayload(initial_input="text"),
    PostRunPayload(pipeline_result=PipelineResult(run_id="r")),
    PreStepPayload(step=_STEP, step_input="text", path=("0",)),
    PostStepPayload(step_result=StepResult("shout"), path=("0",)),
    OnStepFailurePayload(step_result=StepResult("shout", success=False), path=("0",)),
    OnPausePayload(step_name="ask", path=("0",), message="Go on?"),
]


def test_every_event_is_listed_and_exported() -> None:
    """The kinds of events are those that a hook may ask for, and each is importable from `flujo`."""
    assert tuple(type(event) for event in _EVENTS) == PAYLOADS
    assert all(getattr(flujo, kind.__name__) is kind for kind in PAYLOADS)


@pytest.mark.parametrize("event", _EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_has_context_and_resources(event: HookPayload) -> None:
    """Every event has a context and resources; there may be none."""
    assert (event.context, event.resources) == (None, None)

    there = dataclasses.replace(event, context=PipelineContext(initial_prompt="text"), resources="clients")

    assert (there.context.initial_prompt, there.resources) == ("text", "clients")


@pytest.mark.parametrize("event", _EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_does_not_change(event: HookPayload) -> None:
    """A hook cannot change what the next one is told."""
    unlocked: Any = event

    with pytest.raises(dataclasses.FrozenInstanceError):
        unlocked.context = PipelineContext(initial_prompt="another")


@pytest.mark.parametrize("kind", PAYLOADS)
def test_an_event_is_made_by_name(kind: Any) -> None:
    """Fields are given by keyword only, and those of the event are required."""
    with pytest.raises(TypeError):
        kind("text")
    with pytest.raises(TypeError):
        kind()


@pytest.mark.parametrize(
    "event",
    [
        PreRunPayload(initial_input="text\n" * 10_000, context=PipelineContext(initial_prompt="text\n" * 1000)),
        PreStepPayload(step=_STEP, step_input=[["x" * 1000] * 1000] * 1000, path=("0",), resources="x" * 10_000),
        PostRunPayload(pipeline_result=PipelineResult(step_history=[StepResult("a")] * 1000)),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_is_shown_in_one_short_line(event: HookPayload) -> None:
    """However large what it carries is, an event is one line."""
    shown = repr(event)

    assert shown.startswith(f"{type(event).__name__}(context=")
    assert "\n" not in shown
    assert len(shown) < 1500
