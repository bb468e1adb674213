"""Shows a run while it runs: a live picture on a terminal, a few plain lines elsewhere, or nothing."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from flujo.application.core.usage_governor import THE_RUN
from flujo.cli.formats import count, duration, label_of, money, running_money, whole_money
from flujo.cli.monitor import RunMonitor, RunningStep
from flujo.cli.terminal import ErrorConsole, say
from flujo.domain.money import add_usd
from flujo.domain.observers import UsageLevel

_PICTURES_PER_S = 4
_MOST_BAR_CELLS, _FEWEST_BAR_CELLS = 24, 8
_MOST_LINES = 12
_SECONDS_BETWEEN_LINES = 5.0


@dataclass(slots=True)
class LineProgress:
    """Prints a line when a step of the pipeline starts, and now and then how far the steps within it are.

    Attributes:
        monitor: Follows the run.
        step_count: How many steps the pipeline has.
    """

    monitor: RunMonitor
    step_count: int
    _printed_s: float = 0.0

    def tell(self, started: RunningStep | None) -> None:
        """Print a line, if it is time for one."""
        now_s = self.monitor.clock()
        if started is not None and len(started.path) == 1:
            say(f"[{int(started.path[0]) + 1}/{self.step_count}] {started.name}")
            self._printed_s = now_s
        elif now_s - self._printed_s >= _SECONDS_BETWEEN_LINES:
            levels = self.monitor.usage()
            usage = [part for level in levels for part in _described(level)]
            say(", ".join([f"  {counts(self.monitor, levels)}", *usage]))
            self._printed_s = now_s


@contextmanager
def shown_progress(monitor: RunMonitor, step_count: int, *, is_quiet: bool, is_plain: bool) -> Generator[None]:
    """Show a run on stderr while the block runs.

    Args:
        monitor: Follows the run.
        step_count: How many steps the pipeline has.
        is_quiet: Whether to show nothing.
        is_plain: Whether to show lines even on a terminal, because something else is printed there too.
    """
    console = ErrorConsole()
    if is_quiet:
        yield
    elif console.is_terminal and not is_plain:
        os.environ.setdefault("PYDANTIC_AI_NO_BANNER", "1")  # it would be printed into the picture
        with Live(
            console=console,
            get_renderable=lambda: picture(monitor, step_count, console),
            refresh_per_second=_PICTURES_PER_S,
            transient=True,
        ):
            yield
    else:
        monitor.on_event = LineProgress(monitor, step_count).tell
        yield


def picture(monitor: RunMonitor, step_count: int, console: Console) -> Group:
    """Return a run as it stands: a line of counts, and below it the running steps as a tree."""
    steps = monitor.running.copy()  # in one go: the run changes it from another thread
    first = next(iter(steps.values()), None)
    at = f"step {int(first.path[0]) + 1} of {step_count}, " if first is not None else ""
    levels = monitor.usage()
    lines = [Text(f"{at}{counts(monitor, levels)}", style="bold")]
    lines += usage_lines(levels, console)
    shown = max(1, min(_MOST_LINES, console.height - 2 - len(lines)))
    lines += [_line(step, monitor.clock() - step.started_s) for step in islice(steps.values(), shown)]
    if len(steps) > shown:
        lines.append(Text(f"  and {len(steps) - shown} more", style="dim"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def counts(monitor: RunMonitor, levels: Sequence[UsageLevel]) -> str:
    """Return how far a run is, in words, and what it has spent of what has no limit."""
    parts = [f"{count(monitor.finished_steps, 'step')} finished"]
    for level in levels[:1]:
        if level.limit.usd is None:
            parts.append(f"{money(level.spent.usd)} spent")
        if level.limit.tokens is None and level.spent.tokens:
            parts.append(count(level.spent.tokens, "token"))
    return ", ".join([*parts, duration(monitor.elapsed_s)])


def usage_lines(levels: Sequence[UsageLevel], console: Console) -> Iterator[Text]:
    """Yield a line for each limit: how much is spent and reserved of it, with a bar if there is room for one."""
    described = [part for level in levels for part in _described(level)]
    room = console.width - 4 - max(map(len, described), default=0)
    cells = min(room, _MOST_BAR_CELLS) if room >= _FEWEST_BAR_CELLS and console.encoding.startswith("utf") else 0
    for use, words in zip((use for level in levels for use in _limited(level)), described, strict=True):
        line = Text("  ")
        if cells:
            for style, number in use.bar(cells):
                line.append("━" * number, style=style)
            line.append("  ")
        yield line.append(words)


@dataclass(slots=True, frozen=True)
class LimitUse:
    """What is spent and reserved of one limit, in dollars or tokens."""

    spent: Decimal
    reserved: Decimal
    limit: Decimal

    def bar(self, cells: int) -> Iterator[tuple[str, int]]:
        """Yield the parts of a bar of so many cells, each with its style and its own: what is spent, reserved, left."""
        spent = self._cells_of(self.spent, cells)
        taken = self._cells_of(add_usd(self.spent, self.reserved), cells)
        is_scarce = self.spent * 10 >= self.limit * 8
        yield "yellow" if is_scarce else "green", spent
        yield "blue", taken - spent
        yield "bright_black", cells - taken

    def percent(self) -> str:
        """Return how much of the limit is spent, rounded down, so that 100 % is all of it."""
        return f" ({int(self.spent * 100 / self.limit)} %)" if self.limit else ""

    def _cells_of(self, amount: Decimal, cells: int) -> int:
        """Return how many cells of the bar an amount takes; one for anything at all."""
        if not self.limit:
            return cells
        return min(cells, max(int(amount * cells / self.limit), int(amount > 0)))


def _limited(level: UsageLevel) -> Iterator[LimitUse]:
    if level.limit.usd is not None:
        yield LimitUse(level.spent.usd, level.reserved.usd, level.limit.usd)
    if level.limit.tokens is not None:
        yield LimitUse(Decimal(level.spent.tokens), Decimal(level.reserved.tokens), Decimal(level.limit.tokens))


def _described(level: UsageLevel) -> Iterator[str]:
    """Yield each limit of a level in words, such as `$0.0123 spent, $0.0400 reserved of $0.50 (2 %)`."""
    name = "" if level.label == THE_RUN else f"{level.label}: "
    limited = list(_limited(level))
    if level.limit.usd is not None:
        uncertain = f" ({running_money(level.uncertain_usd)} uncertain)" if level.uncertain_usd else ""
        yield (
            f"{name}{running_money(level.spent.usd)} spent{uncertain}, {running_money(level.reserved.usd)} reserved "
            f"of {whole_money(level.limit.usd)}{limited[0].percent()}"
        )
    if level.limit.tokens is not None:
        yield (
            f"{name}{count(level.spent.tokens, 'token')} spent, {level.reserved.tokens:,} reserved "
            f"of {level.limit.tokens:,}{limited[-1].percent()}"
        )


def _line(step: RunningStep, elapsed_s: float) -> Text:
    line = Text("  " * (step.depth + 1))
    line.append(step.name, style="cyan")
    if label := label_of(step.part):
        line.append(f" ({label})", style="dim")
    if step.ended_children:
        line.append(f" {step.ended_children:,} done")
    line.append(f" {duration(elapsed_s)}", style="dim")
    return line
