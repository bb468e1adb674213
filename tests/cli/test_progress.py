"""What is shown while a run runs."""

import asyncio
from contextlib import redirect_stderr
from dataclasses import dataclass
from decimal import Decimal
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.console import Console

from flujo import Flujo, Step, UsageLimits
from flujo.cli.formats import running_money
from flujo.cli.monitor import RunMonitor
from flujo.cli.progress import LimitUse, LineProgress, picture
from flujo.domain.metering import Bound, FixedCall, Meter


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
        "step 2 of 2, 1 step finished, $0 spent, 5.0 s",
        "  each 5.0 s",
        "    look (item 0) 5.0 s",
    ]
    assert shown[1].splitlines() == [
        "step 2 of 2, 2 steps finished, $0 spent, 10.0 s",
        "  each 1 done 10.0 s",
        "    look (item 1) 5.0 s",
    ]
    assert monitor.running == {}


async def _seen_in_flight(limits: UsageLimits | None, width: int = 100) -> tuple[list[str], list[str]]:
    """Return the picture and the line while one call is in flight, one is settled and one is lost."""
    clock = Clock()
    console = Console(width=width, height=40, file=TextIOWrapper(BytesIO(), encoding="utf-8"))
    monitor = RunMonitor(clock=clock)
    seen: list[list[str]] = []

    async def call(text: str, *, meter: Meter) -> str:
        (await meter.reserve(FixedCall(Bound(Decimal("0.04"), 900)))).settle(Decimal("0.0123"), 1200)
        (await meter.reserve(FixedCall(Bound(Decimal("0.1"), 50)))).lose()
        await meter.reserve(FixedCall(Bound(Decimal("0.04"), 500)))
        console.begin_capture()
        console.print(picture(monitor, 1, console))
        seen.append(console.end_capture().splitlines())
        lines = LineProgress(monitor, 1)
        with redirect_stderr(StringIO()) as printed:
            clock.now_s += 10
            lines.tell(None)
        seen.append(printed.getvalue().splitlines())
        return text

    await Flujo(Step("call", call), hooks=[monitor], usage_limits=limits).run_async("x")
    shown, printed = seen
    return shown, printed


async def test_what_is_spent_and_reserved_is_shown_against_the_limits() -> None:
    """A line with a bar for each limit, of what is spent, reserved and left; lines elsewhere say it in words."""
    limits = UsageLimits(total_cost_usd_limit=0.5, total_tokens_limit=10_000)

    shown, printed = await _seen_in_flight(limits)

    usd = "$0.1123 spent ($0.1000 uncertain), $0.0400 reserved of $0.50 (22 %)"
    tokens = "1,250 tokens spent, 500 reserved of 10,000 (12 %)"
    assert shown == [
        "step 1 of 1, 0 steps finished, 0 ms",
        f"  {'━' * 24}  {usd}",
        f"  {'━' * 24}  {tokens}",
        "  call 0 ms",
    ]
    assert printed == [f"  0 steps finished, 10.0 s, {usd}, {tokens}"]


async def test_a_narrow_terminal_has_words_rather_than_a_bar() -> None:
    """What is said is said whole."""
    shown, _ = await _seen_in_flight(UsageLimits(total_cost_usd_limit=0.5), width=72)

    assert shown[1] == "  $0.1123 spent ($0.1000 uncertain), $0.0400 reserved of $0.50 (22 %)"


async def test_without_a_limit_what_is_spent_is_shown() -> None:
    """Also of a step that has not ended; what is reserved is of no interest."""
    shown, printed = await _seen_in_flight(None)

    assert shown == ["step 1 of 1, 0 steps finished, $0.1123 spent, 1,250 tokens, 0 ms", "  call 0 ms"]
    assert printed == ["  0 steps finished, $0.1123 spent, 1,250 tokens, 10.0 s"]


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0.0000"),
        ("0.04", "$0.0400"),
        ("0.123456789", "$0.1235"),
        ("12", "$12.0000"),
        ("0.000771", "$0.000771"),
        ("0.0000001", "<$0.000001"),
    ],
)
def test_money_that_changes_keeps_its_width(amount: str, shown: str) -> None:
    """It has four places, unless it is very little."""
    assert running_money(Decimal(amount)) == shown


@pytest.mark.parametrize(
    ("spent", "reserved", "limit", "cells"),
    [
        ("0", "0", "1", [0, 0, 24]),
        ("0.25", "0.5", "1", [6, 12, 6]),
        ("0.000001", "0", "1", [1, 0, 23]),
        ("1", "0", "1", [24, 0, 0]),
        ("3", "0", "1", [24, 0, 0]),
        ("0", "0", "0", [24, 0, 0]),
    ],
)
def test_a_bar_has_a_part_for_all_that_is_not_nothing(spent: str, reserved: str, limit: str, cells: list[int]) -> None:
    """Its parts are what is spent, reserved and left, also where a limit is passed or nothing."""
    bar = LimitUse(Decimal(spent), Decimal(reserved), Decimal(limit)).bar(24)

    assert [number for _, number in bar] == cells


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
        "  3 steps finished, $0 spent, 6.0 s",
        "  5 steps finished, $0 spent, 12.0 s",
    ]
