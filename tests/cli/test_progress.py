"""What is shown while a run runs."""

import asyncio
from dataclasses import dataclass

import pytest
from rich.console import Console

from flujo import Flujo, Step
from flujo.cli.monitor import RunMonitor
from flujo.cli.progress import LineProgress, picture


@dataclass
class Clock:
    """Tells the seconds that a test sets."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


class Paid:
    output, cost_usd, token_counts = "paid", 0.25, 1200


async def test_the_picture_shows_every_running_step() -> None:
    """A line of counts stands above the running steps, those within others below them, with what they took."""
    clock, console = Clock(), Console(width=100, height=40)
    monitor = RunMonitor(clock=clock)
    shown: list[str] = []

    async def look(item: str) -> str:
        clock.now_s += 5
        console.begin_capture()
        console.print(picture(monitor, 2, console))
        shown.append(console.end_capture())
        return item

    def split(text: str) -> list[str]:
        return ["a", "b"]

    pipeline = Step("split", split) >> Step.map_over("each", Step("look", look), max_concurrency=1)
    await Flujo(pipeline, hooks=[monitor]).run_async("x")

    assert shown[0].splitlines() == [
        "step 2 of 2, 1 step finished, $0, 5.0 s",
        "  each 5.0 s",
        "    look (item 0) 5.0 s",
    ]
    assert shown[1].splitlines() == [
        "step 2 of 2, 2 steps finished, $0, 10.0 s",
        "  each 1 done 10.0 s",
        "    look (item 1) 5.0 s",
    ]
    assert monitor.running == {}


async def test_the_monitor_counts_money_once() -> None:
    """What a step within another one cost is counted when it ends, and not again when the outer one does."""
    monitor = RunMonitor()

    def pay(item: str) -> object:
        return Paid()

    result = await Flujo(Step.map_over("each", Step("pay", pay)), hooks=[monitor]).run_async(["a", "b", "c"])

    assert (monitor.cost, monitor.tokens) == (result.total_cost, result.total_tokens)
    assert monitor.tokens == 3600
    assert monitor.finished_steps == 3


async def test_many_running_steps_are_cut_to_the_height_of_the_terminal() -> None:
    """What does not fit is counted."""
    monitor, console = RunMonitor(), Console(width=60, height=8)
    all_run = asyncio.Barrier(20)
    shown: list[str] = []

    async def look(item: int) -> int:
        if await all_run.wait() == 0:
            console.begin_capture()
            console.print(picture(monitor, 1, console))
            shown.append(console.end_capture())
        await all_run.wait()
        return item

    await Flujo(Step.map_over("each", Step("look", look), max_concurrency=None), hooks=[monitor]).run_async(range(20))

    lines = shown[0].splitlines()
    assert len(lines) == 1 + 5 + 1
    assert lines[-1] == "  and 16 more"


async def test_lines_are_printed_when_steps_start_and_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, a long step says every five seconds how far it is."""
    clock = Clock()
    monitor = RunMonitor(clock=clock)
    monitor.on_event = LineProgress(monitor, 2).tell

    def wait(item: int) -> int:
        clock.now_s += 3
        return item

    pipeline = Step("first", list[int])
    await Flujo(pipeline >> Step.map_over("each", Step("wait", wait), max_concurrency=1), hooks=[monitor]).run_async(
        [1, 2, 3, 4]
    )

    assert capsys.readouterr().err.splitlines() == [
        "[1/2] first",
        "[2/2] each",
        "  3 steps finished, $0, 6.0 s",
        "  5 steps finished, $0, 12.0 s",
    ]
