"""Shows a run while it runs: a live picture on a terminal, a few plain lines elsewhere, or nothing."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from flujo.cli.formats import count, duration, label_of, money
from flujo.cli.monitor import RunMonitor, RunningStep
from flujo.cli.terminal import ErrorConsole, say

_PICTURES_PER_S = 4
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
            say(f"  {counts(self.monitor)}")
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
    lines = [Text(f"{at}{counts(monitor)}", style="bold")]
    shown = max(1, min(_MOST_LINES, console.height - 3))
    lines += [_line(step, monitor.clock() - step.started_s) for step in islice(steps.values(), shown)]
    if len(steps) > shown:
        lines.append(Text(f"  and {len(steps) - shown} more", style="dim"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def counts(monitor: RunMonitor) -> str:
    """Return how far a run is and what it has cost, in words."""
    steps = f"{count(monitor.finished_steps, 'step')} finished"
    tokens = f", {count(monitor.tokens, 'token')}" if monitor.tokens else ""
    return f"{steps}, {money(monitor.cost)}{tokens}, {duration(monitor.elapsed_s)}"


def _line(step: RunningStep, elapsed_s: float) -> Text:
    line = Text("  " * (step.depth + 1))
    line.append(step.name, style="cyan")
    if label := label_of(step.part):
        line.append(f" ({label})", style="dim")
    if step.ended_children:
        line.append(f" {step.ended_children:,} done")
    line.append(f" {duration(elapsed_s)}", style="dim")
    return line
