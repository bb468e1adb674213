"""`Flujo` runs a pipeline from plain code and from async code, and remembers nothing."""

import asyncio
import signal
from decimal import Decimal
from typing import Any

import pytest
from pydantic import Field

from flujo import (
    AppResources,
    ConfigurationError,
    Flujo,
    HookPayload,
    MissingAgentError,
    Pipeline,
    PipelineAbortSignal,
    PipelineContext,
    PostRunPayload,
    Step,
    TypeMismatchError,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.domain.results import TraceNode
from flujo.testing import StubAgent
from tests.integration.paid import leaves, paid_step


class Counted(AppResources):
    """Resources that log what happens to them."""

    log: list[str] = Field(default_factory=list)

    async def __aenter__(self) -> None:
        self.log.append("entered")

    async def __aexit__(self, *_: object) -> None:
        self.log.append("left")


def _upper() -> Step[str, str]:
    return Step.from_callable(str.upper, name="upper")


def _fail(data: Any) -> Any:
    raise ValueError("broken")


# How to run


def test_run_returns_the_result() -> None:
    """`run` works from plain code."""
    result = Flujo(_upper()).run("hello")

    assert (result.output, result.status, result.success) == ("HELLO", "completed", True)


async def test_run_is_refused_inside_a_running_loop() -> None:
    """The `TypeError` names `run_async`, and nothing has run."""
    agent = StubAgent([])

    with pytest.raises(TypeError, match=r"running event loop; use `await flujo.run_async\(\.\.\.\)`"):
        Flujo(Step("ask", agent)).run("x")
    assert agent.call_count == 0


def test_an_interrupt_says_where_the_run_stood() -> None:
    """Ctrl-C ends `run` with a `KeyboardInterrupt`, once the agent's call and the resources have ended."""
    log: list[str] = []

    async def block(data: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            log.append("ended")

    with pytest.raises(KeyboardInterrupt) as interrupt:
        Flujo(paid_step("first", 0.1) >> Step("block", block)).run("x", run_id="r1")

    cancelled = interrupt.value.__context__
    assert isinstance(cancelled, asyncio.CancelledError)
    assert cancelled.__notes__ == [
        "flujo run r1 was cancelled in step 'block', after 1 finished step and $0.1 spent; "
        "calls in flight: 'block' at 1"
    ]
    assert log == ["ended"]


async def test_run_works_in_another_thread() -> None:
    """A thread without an event loop of its own may call `run`."""
    result = await asyncio.to_thread(Flujo(_upper()).run, "hello")

    assert result.output == "HELLO"


def test_a_run_within_an_agent_is_a_run_of_its_own() -> None:
    """An async agent may run another pipeline; one that calls `run` fails its step with what to do."""
    inner = Flujo(_upper())

    async def nested(data: str) -> str | None:
        return (await inner.run_async(data)).output

    def blocking(data: str) -> str | None:
        return inner.run(data).output

    good, bad = Flujo(Step("nested", nested)).run("x"), Flujo(Step("blocking", blocking)).run("x")

    assert good.output == "X"
    assert bad.status == "failed"
    assert "run_async" in (bad.step_history[0].feedback or "")


def test_a_step_is_as_good_as_a_pipeline() -> None:
    """A single step runs, and is the only one in the history."""
    step, pipeline = Flujo(_upper()).run("x"), Flujo(Pipeline.from_step(_upper())).run("x")

    assert (step.output, len(step.step_history)) == (pipeline.output, len(pipeline.step_history)) == ("X", 1)


@pytest.mark.parametrize("wrong", ["pipeline", str.upper, None, [_upper()]])
def test_only_a_step_or_a_pipeline_runs(wrong: Any) -> None:
    """Anything else is refused when the runner is made, and named."""
    with pytest.raises(ConfigurationError, match="Flujo runs a pipeline or a step, not "):
        Flujo(wrong)


@pytest.mark.parametrize("unknown", ["initial_data", "retries", "use_hooks"])
def test_unknown_options_are_errors(unknown: str) -> None:
    """A misspelt keyword argument is refused by every method."""
    make: Any = Flujo
    runner = make(_upper())

    for call in (runner.run, runner.run_async, runner.stream_async, runner.resume, make):
        with pytest.raises(TypeError, match=unknown):
            call(_upper(), **{unknown: 1})


def test_options_are_given_by_name() -> None:
    """Nothing but the pipeline and the input is positional."""
    make: Any = Flujo

    with pytest.raises(TypeError, match="positional"):
        make(_upper(), PipelineContext)
    with pytest.raises(TypeError, match="positional"):
        make(_upper()).run("x", "run id")


def test_settings_replaced_make_another_runner() -> None:
    """`with_settings` keeps what is not replaced, and leaves the runner as it is."""

    class Draft(PipelineContext):
        words: int = 0
        lines: int = 0

    runner = Flujo(
        paid_step("paid", 0.02),
        context_model=Draft,
        initial_context_data={"words": 1, "lines": 1},
        usage_limits=UsageLimits(total_cost_usd_limit=0.01),
        pipeline_name="drafts",
        pipeline_version="2",
    )

    other = runner.with_settings(initial_context_data={"words": 2}, usage_limits=UsageLimits(total_cost_usd_limit=1))

    context = other.run("x").final_pipeline_context
    assert isinstance(context, Draft)
    assert (context.words, context.lines) == (2, 1)
    assert (other.pipeline_name, other.pipeline_version, other.pipeline) == ("drafts", "2", runner.pipeline)
    with pytest.raises(UsageLimitExceededError):
        runner.run("x")


# Nothing is remembered


def test_the_same_input_runs_the_agent_again() -> None:
    """Two runs with the same input call the agent twice."""
    agent = StubAgent(["first", "second"])
    runner = Flujo(Step("ask", agent))

    assert [runner.run("x").output, runner.run("x").output] == ["first", "second"]
    assert agent.inputs == ["x", "x"]


def test_every_run_has_an_identity_of_its_own() -> None:
    """`run_id` is fresh unless it is given."""
    runner = Flujo(_upper())

    results = [runner.run("x"), runner.run("x"), runner.run("x", run_id="mine")]

    assert len({result.run_id for result in results}) == 3
    assert all(result.run_id for result in results)
    assert results[2].run_id == "mine"


async def test_a_hundred_runs_at_once_do_not_mix() -> None:
    """One runner serves concurrent runs: each has its own input, context, money, history and hooks' payloads."""
    ends: dict[str, PostRunPayload] = {}

    async def note(data: int, context: PipelineContext) -> int:
        for _ in range(data % 5):
            await asyncio.sleep(0)
        context.scratchpad["data"] = data
        return data

    async def listen(payload: PostRunPayload) -> None:
        ends[payload.context.run_id] = payload

    parallel = Step.parallel("both", {"note": Step("note", note), "paid": paid_step("paid", 0.01, 1)})
    runner = Flujo(Step("first", note) >> parallel, hooks=[listen])

    results = await asyncio.gather(*(runner.run_async(number, run_id=f"r{number}") for number in range(100)))

    for number, result in enumerate(results):
        context = result.final_pipeline_context
        assert isinstance(context, PipelineContext)
        assert result.output == {"note": number, "paid": number}
        assert (context.scratchpad["data"], context.initial_prompt) == (number, str(number))
        assert (result.run_id, result.total_cost, result.total_tokens) == (f"r{number}", Decimal("0.01"), 1)
        assert ends[f"r{number}"].pipeline_result is result


def test_a_runner_serves_several_event_loops() -> None:
    """`run` makes an event loop each time, and nothing of the runner is bound to one."""
    branches = {"a": paid_step("a", 0.01), "b": paid_step("b", 0.01)}
    runner = Flujo(Step.map_over("map", Step.parallel("both", branches), max_concurrency=2))

    totals = [runner.run([1, 2, 3]).total_cost for _ in range(3)]

    assert totals == [Decimal("0.06")] * 3


# What comes back


def test_a_result_tells_what_happened() -> None:
    """The fields of a result, of its steps, and the tree of them agree."""
    both = Step.parallel("both", {"a": paid_step("a", 0.02, 2), "b": paid_step("b", 0.03, 3)})

    result = Flujo(paid_step("first", 0.1, 10) >> both).run("x")

    first, second = result.step_history
    assert (first.name, first.output, first.success, first.attempts) == ("first", "x", True, 1)
    assert (first.cost, first.cost_usd, first.token_counts, first.feedback) == (Decimal("0.1"), 0.1, 10, None)
    assert (second.name, second.cost, second.token_counts) == ("both", Decimal("0.05"), 5)
    assert [step.name for step in second.step_history] == ["a", "b"]
    assert (result.total_cost, result.total_cost_usd, result.total_tokens) == (Decimal("0.15"), 0.15, 15)
    assert (sum(leaf.cost for leaf in leaves(result.step_history)), first.branch_context) == (Decimal("0.15"), None)
    assert all(step.latency_s >= 0 for step in leaves(result.step_history))
    assert isinstance(second.step_history[0].branch_context, PipelineContext)


def test_the_trace_tree_is_the_run_without_its_outputs() -> None:
    """`trace_tree` has one node for the run and one for every step, with status, attempts, cost and tokens."""
    both = Step.parallel("both", {"a": paid_step("a", 0.02, 2), "b": Step("b", _fail, max_retries=1)})

    tree = Flujo(paid_step("first", 0.1, 10) >> both).run("x").trace_tree

    def shape(node: TraceNode) -> tuple[Any, ...]:
        return (node.name, node.status, node.attempts, node.cost, node.token_counts, *map(shape, node.children))

    assert shape(tree) == (
        *("run", "failed", 1, Decimal("0.12"), 12),
        ("first", "completed", 1, Decimal("0.1"), 10),
        (
            *("both", "failed", 1, Decimal("0.02"), 2),
            ("a", "completed", 1, Decimal("0.02"), 2),
            ("b", "failed", 2, Decimal(0), 0),
        ),
    )


def test_reprs_are_one_short_line() -> None:
    """The `repr` of results does not grow with what they hold."""
    result = Flujo(Step("echo", lambda data: data)).run("long\n" * 100_000, run_id="r1")

    assert repr(result) == str(result) == "PipelineResult(completed, steps=1, run_id='r1')"
    assert repr(result.step_history) == "[StepResult('echo', completed, attempts=1)]"


def test_a_failed_step_ends_the_run_without_raising() -> None:
    """The result has the failed step, no later one, and no output."""
    result = Flujo(paid_step("first", 0.1) >> Step("fail", _fail, max_retries=0) >> paid_step("never", 1)).run("x")

    assert (result.status, result.success, result.output) == ("failed", False, None)
    assert [(step.name, step.success) for step in result.step_history] == [("first", True), ("fail", False)]
    assert result.step_history[1].feedback == "ValueError: broken"
    assert result.total_cost == Decimal("0.1")


@pytest.mark.parametrize("falsy", [None, "", 0, False, [], {}])
def test_an_empty_output_is_an_output(falsy: Any) -> None:
    """A step that gives something falsy has completed, and the next step works on it."""
    result = Flujo(Step("empty", StubAgent([falsy])) >> Step("wrap", lambda data: [data])).run("x")

    assert (result.status, result.output) == ("completed", [falsy])


def test_an_agent_may_abort_the_run() -> None:
    """`PipelineAbortSignal` from an agent ends the run gracefully."""
    result = Flujo(Step("stop", StubAgent([PipelineAbortSignal("enough")])) >> paid_step("never")).run("x")

    assert (result.status, result.output, len(result.step_history)) == ("aborted", None, 1)


# What is refused before anything runs


def test_a_step_without_an_agent_is_a_mistake() -> None:
    """Nothing runs, not even the steps before it."""
    agent = StubAgent([])

    with pytest.raises(MissingAgentError, match="step 'empty' has no agent"):
        Flujo(Step("first", agent) >> Step[Any, Any]("empty")).run("x")
    assert agent.call_count == 0


def test_mismatched_steps_are_refused_at_run_start() -> None:
    """The error names both steps and both types."""

    def count(data: str) -> int:
        return len(data)

    runner = Flujo(Pipeline[Any, Any](steps=[Step("count", count), _shout()]))

    with pytest.raises(TypeMismatchError, match="step 'count' gives int, but step 'shout' takes str") as error:
        runner.run("x")
    assert (error.value.producer, error.value.produced) == ("step 'count'", int)
    assert (error.value.consumer, error.value.consumed) == ("step 'shout'", str)


def _shout() -> Step[str, str]:
    def shout(data: str) -> str:
        return data.upper()

    return Step("shout", shout)


@pytest.mark.parametrize(("data", "name"), [(3, "int"), (None, "None"), (["a"], "list"), (b"x", "bytes")])
def test_an_input_that_the_first_step_does_not_take_is_refused(data: Any, name: str) -> None:
    """The run's own input is checked like what a step gives."""
    with pytest.raises(TypeMismatchError, match=f"the run's input is {name}.*, but step 'shout' takes str"):
        Flujo(_shout()).run(data)


async def test_nothing_happens_in_a_run_that_is_refused() -> None:
    """Neither resources nor hooks notice a run that cannot start."""
    resources, heard = Counted(), list[HookPayload]()

    async def listen(payload: HookPayload) -> None:
        heard.append(payload)

    with pytest.raises(TypeMismatchError):
        await Flujo(_shout(), resources=resources, hooks=[listen]).run_async(3)  # type: ignore[arg-type]  # wrong on purpose
    assert (resources.log, heard) == ([], [])
