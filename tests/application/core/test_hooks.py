"""Hooks are told what happens in a run, at every depth, and change it only by aborting it."""

import asyncio
import logging
from itertools import pairwise
from typing import Any

import pytest

from flujo import (
    AppResources,
    Flujo,
    HookPayload,
    OnPausePayload,
    OnStepFailurePayload,
    PipelineAbortSignal,
    PipelineContext,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.testing import StubAgent
from tests.application.core.agent_answers import Paid
from tests.steps.nesting import AROUND


class _Listener:
    """Keeps the payloads it gets, and raises at one of them if it is told to."""

    def __init__(self, *, kind: type[HookPayload] | None = None, error: BaseException | None = None) -> None:
        self.heard: list[Any] = []
        self._kind, self._error = kind, error

    async def __call__(self, payload: HookPayload) -> None:
        self.heard.append(payload)
        if self._error is not None and self._kind is not None and isinstance(payload, self._kind):
            raise self._error

    @property
    def story(self) -> list[str]:
        return [_line(payload) for payload in self.heard]


def _line(payload: Any) -> str:
    match payload:
        case PreStepPayload():
            return f"> {payload.step.name} at {'/'.join(payload.path)}"
        case PostStepPayload() | OnStepFailurePayload():
            sign = "<" if isinstance(payload, PostStepPayload) else "!"
            return f"{sign} {payload.step_result.name} at {'/'.join(payload.path)}"
        case OnPausePayload():
            return f"? {payload.step_name} at {'/'.join(payload.path)}: {payload.message}"
        case PostRunPayload():
            return f"end {payload.pipeline_result.status}"
        case _:
            return f"start {payload.initial_input}"


def _upper(name: str) -> Step[str, str]:
    return Step.from_callable(str.upper, name=name)


async def _hear(step: Any, *, limits: UsageLimits | None = None) -> _Listener:
    listener = _Listener()
    await Flujo(step, hooks=[listener], usage_limits=limits).run_async("go")
    return listener


async def test_a_run_is_told_from_start_to_end() -> None:
    """Hooks hear of the run, of every step before and after, in order, and of the end."""
    listener = await _hear(_upper("a") >> _upper("b"))

    assert listener.story == ["start go", "> a at 0", "< a at 0", "> b at 1", "< b at 1", "end completed"]


async def test_a_failed_step_is_told_once() -> None:
    """`OnStepFailurePayload` takes the place of `PostStepPayload`, after the last attempt."""
    listener = await _hear(Step("a", StubAgent([ValueError("no")] * 2)) >> _upper("b"))

    assert listener.story == ["start go", "> a at 0", "! a at 0", "end failed"]
    assert listener.heard[2].step_result.feedback == "ValueError: no"


async def test_steps_within_steps_are_told_with_their_path() -> None:
    """Hooks fire at every depth, outer steps around inner ones."""
    loop = Step.loop_until("loop", _upper("body") >> _upper("tail"), lambda output, context: True)
    listener = await _hear(Step.branch_on("pick", lambda data, context: "x", {"x": loop}))

    paths = [payload.path for payload in listener.heard[1:-1]]
    assert [line.split(" at ")[0] for line in listener.story[1:-1]] == [
        "> pick",
        "> loop",
        "> body",
        "< body",
        "> tail",
        "< tail",
        "< loop",
        "< pick",
    ]
    assert paths[0] == paths[-1] == ("0",)
    assert all(inner[: len(outer)] == outer for outer, inner in pairwise(paths[:4]))


async def test_a_fallback_is_told_within_its_step() -> None:
    """The fallback is a step like any other, below the path of the one that it stands in for."""
    step = Step("a", StubAgent([ValueError("no")]), max_retries=0).fallback(_upper("b"))

    listener = await _hear(step)

    assert listener.story[1:-1] == ["> a at 0", "> b at 0/fallback", "< b at 0/fallback", "< a at 0"]


async def test_a_pause_is_told_and_so_is_what_follows_the_answer() -> None:
    """Neither success nor failure is told of a step that waits, and the run ends paused."""
    listener = _Listener()
    runner = Flujo(Step.human_in_the_loop("ask", "really?"), hooks=[listener])

    paused = await runner.run_async("go")
    first = listener.story
    await runner.resume_async(paused, "yes")

    assert first == ["start go", "> ask at 0", "? ask at 0: really?", "end paused"]
    assert listener.story[len(first) :] == ["start go", "> ask at 0", "< ask at 0", "end completed"]


async def test_a_question_is_told_once() -> None:
    """Of the step that asks, and not of the steps around it, which end with the run."""
    loop = Step.loop_until("loop", Step.human_in_the_loop("ask", "really?"), lambda output, context: True)

    listener = await _hear(Step.parallel("both", {"a": loop}))

    assert [line.split(" at ")[0] for line in listener.story] == [
        "start go",
        "> both",
        "> loop",
        "> ask",
        "? ask",
        "end paused",
    ]
    assert [payload.message for payload in listener.heard if isinstance(payload, OnPausePayload)] == ["really?"]


@pytest.mark.parametrize("kind", AROUND)
async def test_a_question_is_told_once_in_every_kind(kind: str) -> None:
    """Whoever is told of it, in a fallback and behind a cache too, need not tell questions apart."""
    listener = await _hear(AROUND[kind](Step.human_in_the_loop("ask", "really?")))

    assert [payload.step_name for payload in listener.heard if isinstance(payload, OnPausePayload)] == ["ask"]


async def test_a_breach_is_told_as_the_end_of_the_run() -> None:
    """The hooks hear of the breaching step and get the stopped result, before the error is raised."""
    listener = _Listener()
    runner = Flujo(
        Step("a", StubAgent([Paid("x", 2)])), hooks=[listener], usage_limits=UsageLimits(total_cost_usd_limit=1)
    )
    with pytest.raises(UsageLimitExceededError) as raised:
        await runner.run_async("go")

    assert listener.story == ["start go", "> a at 0", "< a at 0", "end stopped"]
    assert listener.heard[-1].pipeline_result is raised.value.result


async def test_payloads_carry_context_and_resources() -> None:
    """Every event has both; a branch's events have the branch's own context."""

    class Clients(AppResources):
        key: str = "k"

    listener, resources = _Listener(), Clients()
    step = _upper("a") >> Step.parallel("both", {"x": _upper("x")})

    result = await Flujo(step, hooks=[listener], resources=resources).run_async("go")

    branch = [payload for payload in listener.heard if _line(payload).startswith("> x")]
    others = [payload for payload in listener.heard if " x at" not in _line(payload)]
    assert all(payload.resources is resources for payload in listener.heard)
    assert all(payload.context is result.final_pipeline_context for payload in others)
    assert branch[0].context is not result.final_pipeline_context
    assert isinstance(branch[0].context, PipelineContext)


async def test_the_input_in_the_payload_is_the_steps_own() -> None:
    """Each step is told with the output of the one before it."""
    listener = await _hear(_upper("a") >> _upper("b"))

    inputs = [payload.step_input for payload in listener.heard if isinstance(payload, PreStepPayload)]
    assert inputs == ["go", "GO"]


_KINDS: list[type[HookPayload]] = [
    PreRunPayload,
    PreStepPayload,
    PostStepPayload,
    OnStepFailurePayload,
    OnPausePayload,
    PostRunPayload,
]


def _eventful() -> Any:
    """Return steps that succeed, fail, and pause."""
    failing = Step("fails", StubAgent([ValueError("no")]), max_retries=0).fallback(_upper("saves"))
    return _upper("works") >> failing >> Step.human_in_the_loop("ask", "really?") >> _upper("never")


@pytest.mark.parametrize("error", [KeyError("bug"), asyncio.CancelledError()])
@pytest.mark.parametrize("kind", _KINDS)
async def test_a_hook_that_raises_is_logged_and_changes_nothing(
    kind: type[HookPayload], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The run, and what later hooks hear, are as without the hook; the log has its traceback."""
    plain, later = _Listener(), _Listener()
    step = _eventful() if kind is not OnStepFailurePayload else Step("a", StubAgent([ValueError("no")] * 9))
    expected = await Flujo(step, hooks=[plain]).run_async("go")
    step = _eventful() if kind is not OnStepFailurePayload else step
    broken = _Listener(kind=kind, error=error)
    with caplog.at_level(logging.ERROR):
        result = await Flujo(step, hooks=[broken, later]).run_async("go")

    assert result.status == expected.status
    assert later.story == plain.story == broken.story
    assert caplog.records
    assert all(record.exc_info and record.exc_info[1] is error for record in caplog.records)
    assert all(record.name == "flujo.hooks" for record in caplog.records)


_ABORTS: list[tuple[type[HookPayload], list[str], int]] = [
    (PreRunPayload, ["start go", "end aborted"], 0),
    (PreStepPayload, ["start go", "> a at 0", "end aborted"], 0),
    (PostStepPayload, ["start go", "> a at 0", "< a at 0", "end aborted"], 1),
]


@pytest.mark.parametrize(("kind", "story", "calls"), _ABORTS)
async def test_a_hook_may_abort_the_run(kind: type[HookPayload], story: list[str], calls: int) -> None:
    """`PipelineAbortSignal` stops the run gracefully: nothing more starts, and the result comes back."""
    agent = StubAgent(["x", "never"])
    listener = _Listener(kind=kind, error=PipelineAbortSignal("enough"))

    result = await Flujo(Step("a", agent) >> Step("b", agent), hooks=[listener]).run_async("go")

    assert (result.status, result.success, agent.call_count) == ("aborted", False, calls)
    assert listener.story == story


@pytest.mark.parametrize(
    ("kind", "status"),
    [(OnStepFailurePayload, "aborted"), (OnPausePayload, "aborted"), (PostRunPayload, "failed")],
)
async def test_an_abort_at_the_end_of_a_step_or_a_run_ends_it(kind: type[HookPayload], status: str) -> None:
    """A failing or waiting step may be the reason to abort; a run that is over stays as it ended."""
    step: Any = Step("a", StubAgent([ValueError("no")] * 2))
    if kind is OnPausePayload:
        step = Step.human_in_the_loop("ask", "really?")
    listener = _Listener(kind=kind, error=PipelineAbortSignal("enough"))

    result = await Flujo(step, hooks=[listener]).run_async("go")

    assert result.status == status
    assert result.waiting == []


async def test_an_abort_in_a_branch_lets_the_others_finish() -> None:
    """Calls in flight run to their end and their results are kept; the step that was aborted says why."""
    began = asyncio.Event()

    async def slow(data: str) -> str:
        await began.wait()
        return "slow"

    async def abort(payload: PreStepPayload) -> None:
        if payload.step.name == "refused":
            began.set()
            raise PipelineAbortSignal("enough")

    branches = {"slow": Step("slow", slow), "refused": _upper("refused")}
    never: Step[Any, Any] = Step("never", StubAgent([]))
    result = await Flujo(Step.parallel("both", branches) >> never, hooks=[abort]).run_async("go")

    (both,) = result.step_history
    assert result.status == "aborted"
    assert [(ran.status, ran.output) for ran in both.step_history] == [("completed", "slow"), ("aborted", None)]
    assert both.step_history[1].feedback == "not started: a hook aborted the run before step 'refused': enough"


async def test_hooks_are_told_in_the_order_they_are_given() -> None:
    """Each hook has heard an event before the next one does, plain functions included."""
    heard: list[str] = []

    async def first(payload: PreStepPayload) -> None:
        await asyncio.sleep(0)
        heard.append("first")

    async def second(payload: PreStepPayload) -> None:
        heard.append("second")

    await Flujo(_upper("a") >> _upper("b"), hooks=[first, second]).run_async("go")

    assert heard == ["first", "second", "first", "second"]
