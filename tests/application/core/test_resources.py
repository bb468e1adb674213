"""The resources of a run are entered once and left at its end, whichever way it ends."""

import asyncio
from contextlib import suppress
from typing import Any, Self

import pytest
from pydantic import PrivateAttr

from flujo import (
    AppResources,
    ConfigurationError,
    Flujo,
    PipelineAbortSignal,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo.testing import StubAgent
from tests.application.core.agent_answers import Paid


class _Client(AppResources):
    """Keeps what happens to it."""

    base_url: str = "http://loopback"
    _events: list[str] = PrivateAttr(default_factory=list[str])

    @property
    def events(self) -> list[str]:
        return self._events

    async def __aenter__(self) -> Self:
        self._events.append("entered")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._events.append("left")


class _Plain(AppResources):
    value: int = 0


async def _use(data: Any, resources: _Client) -> Any:
    resources.events.append("used")
    return data


async def test_resources_are_entered_once_per_run() -> None:
    """All steps of a run, branches included, share what was entered; the next run enters it again."""
    client = _Client()
    step = Step("a", _use) >> Step.parallel("both", {"x": Step("x", _use), "y": Step("y", _use)})
    runner = Flujo(step, resources=client)

    await runner.run_async("go")
    await runner.run_async("go")

    assert client.events == ["entered", "used", "used", "used", "left"] * 2


async def test_agents_get_what_entering_gives() -> None:
    """A context manager may give something else than itself; one that gives nothing is given itself."""

    class Pool:
        async def __aenter__(self) -> str:
            return "connection"

        async def __aexit__(self, *exc_info: object) -> None: ...

    class Silent:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *exc_info: object) -> None: ...

    async def show(data: Any, resources: Any) -> Any:
        return resources

    silent = Silent()
    entered = await Flujo(Step("show", show), resources=Pool()).run_async("go")
    itself = await Flujo(Step("show", show), resources=silent).run_async("go")

    assert entered.output == "connection"
    assert itself.output is silent


async def test_resources_need_not_be_a_context_manager() -> None:
    """A plain model is handed to the agents as it is, and is shared, not copied; without one they get `None`."""
    resources = _Plain()

    async def count(data: Any, resources: _Plain | None) -> Any:
        if resources is not None:
            resources.value += 1
        return resources

    shared = await Flujo(Step("a", count) >> Step("b", count), resources=resources).run_async("go")
    none = await Flujo(Step("a", count)).run_async("go")

    assert shared.output is resources
    assert resources.value == 2
    assert (none.success, none.output) == (True, None)


@pytest.mark.parametrize("answer", [ValueError("no"), PipelineAbortSignal("stop"), Paid("x", 2), KeyboardInterrupt()])
async def test_resources_are_left_whichever_way_the_run_ends(answer: Any) -> None:
    """A failure, an abort, a breach, and the end of the interpreter leave nothing open."""
    client = _Client()
    runner: Flujo[Any, Any] = Flujo(
        Step("ask", StubAgent([answer, answer])), resources=client, usage_limits=UsageLimits(total_cost_usd_limit=1)
    )

    with suppress(UsageLimitExceededError, KeyboardInterrupt):
        await runner.run_async("go")

    assert client.events == ["entered", "left"]


async def test_resources_are_left_when_the_run_is_cancelled() -> None:
    """The run has left its resources when its `CancelledError` arrives."""
    client, began = _Client(), asyncio.Event()

    async def hang(data: Any) -> Any:
        began.set()
        return await asyncio.get_running_loop().create_future()

    run = asyncio.create_task(Flujo(Step("hang", hang), resources=client).run_async("go"))
    await began.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert client.events == ["entered", "left"]


async def test_resources_that_cannot_be_entered_are_a_mistake() -> None:
    """The error names their class and comes from that of the context manager, before any step."""

    class Broken:
        async def __aenter__(self) -> None:
            raise ConnectionError("refused")

        async def __aexit__(self, *exc_info: object) -> None: ...

    agent = StubAgent(["never"])
    with pytest.raises(ConfigurationError, match=r"resources Broken could not be entered: .*refused") as raised:
        await Flujo(Step("ask", agent), resources=Broken()).run_async("go")

    assert isinstance(raised.value.__cause__, ConnectionError)
    assert (agent.call_count, raised.value.result) == (0, None)


class _Leaving:
    """Resources that raise, or swallow what they are told of, when they are left."""

    def __init__(self, error: BaseException | None) -> None:
        self._error = error
        self.told: list[object] = []

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, kind: object, error: object, traceback: object) -> bool:
        self.told.append(error)
        if self._error is not None:
            raise self._error
        return True


@pytest.mark.parametrize("error", [OSError("still busy"), asyncio.CancelledError()])
async def test_an_error_while_leaving_resources_is_logged_and_changes_nothing(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The run was done and paid for, so its result is returned; the log has the traceback."""
    result = await Flujo(Step("ask", StubAgent([Paid("x", 0.5)])), resources=_Leaving(error)).run_async("go")

    assert (result.output, result.total_cost_usd) == ("x", 0.5)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("flujo.resources", "ERROR")
    assert "_Leaving" in record.message
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("error", [None, OSError("still busy")])
async def test_resources_swallow_no_error_of_the_run(error: Exception | None) -> None:
    """Whatever leaving them gives or raises, a breach comes out as it is; they are told of it."""
    resources = _Leaving(error)
    runner: Flujo[Any, Any] = Flujo(
        Step("ask", StubAgent([Paid("x", 2)])), resources=resources, usage_limits=UsageLimits(total_cost_usd_limit=1)
    )

    with pytest.raises(UsageLimitExceededError) as raised:
        await runner.run_async("go")

    assert resources.told == [raised.value]


async def test_resources_do_not_swallow_the_cancellation_of_a_run() -> None:
    """The run has ended as cancelled, however its resources take it."""
    began = asyncio.Event()

    async def hang(data: Any) -> Any:
        began.set()
        return await asyncio.get_running_loop().create_future()

    run = asyncio.create_task(Flujo(Step("hang", hang), resources=_Leaving(OSError("busy"))).run_async("go"))
    await began.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_a_manager_that_lets_its_error_through_is_not_blamed(caplog: pytest.LogCaptureFixture) -> None:
    """What raises again the error that it was told of has not failed itself."""

    class Through:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
            if error is not None:
                raise error

    with pytest.raises(UsageLimitExceededError):
        await Flujo(
            Step("ask", StubAgent([Paid("x", 2)])),
            resources=Through(),
            usage_limits=UsageLimits(total_cost_usd_limit=1),
        ).run_async("go")

    assert caplog.records == []


class _Pool(AppResources):
    """Counts how often it is open at once, and insists on being left by the task that entered it."""

    _events: list[str] = PrivateAttr(default_factory=list[str])
    _task: Any = PrivateAttr(default=None)

    @property
    def events(self) -> list[str]:
        return self._events

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._events.append("entering")
        await asyncio.sleep(0)
        self._events.append("entered")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        assert asyncio.current_task() is self._task
        self._events.append("left" if kind is None else f"left after {kind.__name__}")


async def _lend(data: Any, resources: _Pool) -> Any:
    resources.events.append(f"lent {data}")
    await asyncio.sleep(0)
    return data


@pytest.mark.parametrize("error", [None, UsageLimitExceededError, asyncio.CancelledError])
async def test_resources_of_a_runner_that_is_a_step_are_entered_once_per_run(error: type[BaseException] | None) -> None:
    """However many items use them at once, and after the run's own; they are told how the run ended."""
    pool, own = _Pool(), _Client()
    inner = Flujo(Step("lend", _lend), resources=pool).as_step("inner")
    end: Any = Step("end", StubAgent([Paid("out", cost_usd=1) if error is UsageLimitExceededError else "out"]))
    if error is asyncio.CancelledError:
        end = Step("cancel", _cancel_the_run)
    limits = UsageLimits(total_cost_usd_limit=0.5)
    runner = Flujo(Step.map_over("m", inner) >> end, resources=own, usage_limits=limits)

    with suppress(UsageLimitExceededError, asyncio.CancelledError):
        await asyncio.create_task(runner.run_async([1, 2, 3]))

    assert pool.events[:2] == ["entering", "entered"]
    assert sorted(pool.events[2:-1]) == ["lent 1", "lent 2", "lent 3"]
    assert pool.events[-1] == ("left" if error is None else f"left after {error.__name__}")
    assert own.events == ["entered", "left"]


async def _cancel_the_run(data: Any) -> Any:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def test_each_run_enters_the_resources_of_its_steps_anew() -> None:
    """Nothing stays open between runs, and nothing is opened that is not used."""
    used, unused = _Pool(), _Pool()
    branches = {
        "used": Flujo(Step("lend", _lend), resources=used).as_step("used"),
        "unused": Flujo(Step("lend", _lend), resources=unused).as_step("unused"),
    }
    runner = Flujo(Step.branch_on("b", lambda data, context: "used", branches))

    await runner.run_async(1)
    await runner.run_async(2)

    assert used.events == ["entering", "entered", "lent 1", "left", "entering", "entered", "lent 2", "left"]
    assert unused.events == []


async def test_resources_that_run_and_step_share_are_entered_once() -> None:
    """The step gets what the run has entered."""
    pool = _Pool()
    inner = Flujo(Step("lend", _lend), resources=pool).as_step("inner")

    await Flujo(inner, resources=pool).run_async(1)

    assert pool.events == ["entering", "entered", "lent 1", "left"]


async def test_a_step_whose_resources_cannot_be_entered_fails() -> None:
    """Every item that needs them says why, and the next attempt tries again."""
    attempts: list[int] = []

    class Broken(AppResources):
        async def __aenter__(self) -> Self:
            attempts.append(1)
            await asyncio.sleep(0)
            raise OSError("no route")

        async def __aexit__(self, *exc_info: object) -> None:
            raise AssertionError("what was not entered is not left")

    inner = Flujo(Step("lend", _lend), resources=Broken()).as_step("inner")
    runner = Flujo(Step.map_over("m", inner).fallback(Step.map_over("again", inner)))

    result = await runner.run_async([1, 2])

    assert not result.success
    assert (result.step_history[0].feedback or "").count("OSError: no route") == 4
    assert len(attempts) == 2
