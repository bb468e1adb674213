"""What `flujo budget` shows: budgets as a table, one of them with its calls, and both as documents."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from flujo.cli.formats import count, money
from flujo.cli.stores import resume_command
from flujo.cli.terminal import one_line
from flujo.domain.budgets import AmountLimits, Amounts, BudgetStatus, window_end
from flujo.domain.money import format_usd
from flujo.state.budgets import BudgetCall, CallState

_GAP = 2
_KINDS = ("dollars", "tokens", "requests", "seconds")
_FEWEST_NAME_CHARACTERS = 16
_LEAST_IMPORTANT = ("Window", "Uncertain", "Reserved")
_ALWAYS = "always"
_BAR_CHARACTERS = 24
_FEWEST_BAR_CHARACTERS = 4
_MOST_ROWS = 20
_ID_CHARACTERS = 12
_FRESH_ID_CHARACTERS = 32
_STATES: dict[CallState, str] = {"reserved": "in flight", "waiting": "waiting", "lost": "lost"}


@dataclass(slots=True, frozen=True)
class _Line:
    """How one kind of amount of a budget stands."""

    kind: str
    limit: Decimal | int | None
    spent: Decimal | int
    reserved: Decimal | int
    uncertain: Decimal | int
    left: Decimal | int | None
    topped_up: Decimal | int

    @property
    def style(self) -> str:
        """Red if the limit is passed or nothing is left to spend, yellow if all that is left is reserved."""
        if self.limit is None or self.left is None:
            return ""
        if self.spent >= self.limit:
            return "red"
        return "yellow" if self.left <= 0 else ""


def _amounts_of(amounts: Amounts | AmountLimits) -> tuple[Decimal | int | None, ...]:
    return amounts.usd, amounts.tokens, amounts.requests, amounts.seconds


def _used(amounts: Amounts) -> tuple[Decimal | int, ...]:
    return amounts.usd, amounts.tokens, amounts.requests, amounts.seconds


def _lines_of(status: BudgetStatus) -> list[_Line]:
    return [
        _Line(*line)
        for line in zip(
            _KINDS,
            _amounts_of(status.limit),
            _used(status.spent),
            _used(status.reserved),
            _used(status.uncertain),
            _amounts_of(status.left),
            _used(status.topped_up),
            strict=True,
        )
    ]


def _shown(kind: str, amount: Decimal | int | None, usd: Callable[[Decimal], str] = format_usd) -> str:
    """Return an amount without its unit, but for the sign of dollars."""
    if amount is None:
        return "none"
    sign, size = "-" if amount < 0 else "", abs(Decimal(amount))
    if kind == "dollars":
        return sign + usd(size)
    part = f"{size % 1:f}".removeprefix("0").rstrip("0").rstrip(".")
    return f"{sign}{int(size):,}{part}"


def _percent(line: _Line) -> str:
    """Return which part of a limit is spent, rounded down, so that 100 % is all of it."""
    if line.limit is None:
        return ""
    return f"{int(100 * line.spent / line.limit) if line.limit else 100} %"


# All budgets


def budgets_table(statuses: Sequence[BudgetStatus], *, width: int) -> Table:
    """Return budgets with a row for each kind of amount that has a limit, or else for those that are used.

    Dollars are rounded to millionths. Where there is little room, the least important columns are left out.
    """
    names = ["Budget", "Window", "Of", "Limit", "Spent", "", "Reserved", "Uncertain", "Left"]
    rows = [row for status in statuses for row in _rows(status)]
    widths = {
        name: max(cell_len(name), *(row[number].cell_len for row in rows)) + _GAP for number, name in enumerate(names)
    }
    shown = list(names)
    is_certain = not any(status.uncertain for status in statuses)
    for name in ("Uncertain", *_LEAST_IMPORTANT) if is_certain else _LEAST_IMPORTANT:
        wanted = min(widths["Budget"], _FEWEST_NAME_CHARACTERS + _GAP)
        if name in shown and sum(widths[each] for each in shown[1:]) + wanted > width:
            shown.remove(name)
    room = width - sum(widths[each] for each in shown[1:]) - _GAP
    table = _table()
    for name in shown:
        is_text = name in ("Budget", "Window", "Of")
        most = max(room, 1) if name == "Budget" else None
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", max_width=most)
    for row in rows:
        table.add_row(*(row[names.index(name)] for name in shown))
    return table


def _rows(status: BudgetStatus) -> Iterator[list[Text]]:
    lines = _lines_of(status)
    limited = [line for line in lines if line.limit is not None]
    used = [line for line in lines if line.spent or line.reserved]
    for number, line in enumerate(limited or used or lines[:1]):
        is_first = number == 0
        amounts = (line.limit, line.spent, None, line.reserved, line.uncertain, line.left)
        cells = [Text("" if amount is None else _shown(line.kind, amount, money)) for amount in amounts]
        cells[0] = cells[0] if line.limit is not None else Text("none", style="dim")
        cells[2] = Text(_percent(line), style=line.style or "dim")
        cells[-1].stylize(line.style)
        yield [
            Text(one_line(status.name) if is_first else "", style="cyan"),
            Text((status.window or _ALWAYS) if is_first else "", style="dim" if not status.window else ""),
            Text(line.kind),
            *cells,
        ]


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")


# One budget


def budget_lines(
    status: BudgetStatus, calls: Sequence[BudgetCall], *, now: datetime, console: Console, state_db: str | None
) -> Iterator[RenderableType]:
    """Yield what there is to know of a budget.

    Args:
        status: How it stands.
        calls: Its calls that have not ended, or ended without anybody knowing what they used.
        now: The present moment.
        console: Where it is printed to.
        state_db: What `--state-db` named.
    """
    lines = [("budget", Text(one_line(status.name), style="cyan")), ("window", Text(_window(status, now)))]
    if status.topped_up:
        lines.append(("topped up", Text(f"{status.topped_up}, which the limits include")))
    for title, value in lines:
        yield Text.assemble((f"{title:<10}", "dim"), value)
    yield Text()
    yield _amounts_table(status, console)
    groups = _grouped(call for call in calls if call.state != "lost" or call.window == status.window)
    if groups:
        yield Text()
        yield _calls_table(groups[:_MOST_ROWS], console)
    if rest := sum(map(len, groups[_MOST_ROWS:])):
        yield Text(f"and {count(rest, 'call')} more; --json shows all")
    yield from _notes(status, calls, state_db)


def _window(status: BudgetStatus, now: datetime) -> str:
    end = window_end(status.per, status.timezone, now)
    if end is None:
        return "always; it does not begin anew"
    at = f"{end:%H:%M}" if status.per == "hour" else f"{end:%Y-%m-%d %H:%M}"
    return f"{status.window}, ends at {at} {status.timezone}, in {_time_until(end, now)}"


def _time_until(moment: datetime, now: datetime) -> str:
    """Return how long something takes yet, such as `3 d 4 h`, `5 h 12 min` or `40 s`."""
    seconds = max(0, int((moment - now).total_seconds()))
    for (unit, name), (part, part_name) in (
        ((86400, "d"), (3600, "h")),
        ((3600, "h"), (60, "min")),
    ):
        if seconds >= unit:
            return f"{seconds // unit} {name} {seconds % unit // part} {part_name}"
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


def _amounts_table(status: BudgetStatus, console: Console) -> Table:
    names = ("", "Limit", "Spent", "Reserved", "Uncertain", "Left", "")
    lines = _lines_of(status)
    rows = [
        [
            Text(line.kind),
            Text(_shown(line.kind, line.limit), style="dim" if line.limit is None else ""),
            *(Text(_shown(line.kind, amount)) for amount in (line.spent, line.reserved, line.uncertain)),
            Text("" if line.left is None else _shown(line.kind, line.left), style=line.style),
            Text(_percent(line), style=line.style),
        ]
        for line in lines
    ]
    widths = [max(cell_len(name), *(row[number].cell_len for row in rows)) for number, name in enumerate(names)]
    room = console.width - sum(widths) - _GAP * (len(widths) + 1)
    table = _table()
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    bar = min(room, _BAR_CHARACTERS)
    if bar >= _FEWEST_BAR_CHARACTERS:
        table.add_column("", no_wrap=True)
    for line, row in zip(lines, rows, strict=True):
        table.add_row(*row, *([_bar(line, bar, console)] if bar >= _FEWEST_BAR_CHARACTERS else []))
    return table


def _bar(line: _Line, width: int, console: Console) -> Text:
    """Return a limit as a bar: what is spent, what is reserved, what is left."""
    if line.limit is None:
        return Text("")
    spent_sign, reserved_sign, left_sign = "#=." if console.options.ascii_only else "█▒░"
    spent = min(width, int(width * line.spent / line.limit)) if line.limit else width
    taken = min(width, int(width * (line.spent + line.reserved) / line.limit)) if line.limit else width
    return Text.assemble(
        (spent_sign * spent, line.style or "green"),
        (reserved_sign * (taken - spent), "yellow"),
        (left_sign * (width - taken), "dim"),
    )


def _grouped(calls: Iterable[BudgetCall]) -> list[list[BudgetCall]]:
    """Return calls of one run, one owner and one state together, those in flight first."""
    groups = dict[tuple[str, str, str], list[BudgetCall]]()
    for call in sorted(calls, key=lambda call: list(_STATES).index(call.state)):
        groups.setdefault((call.state, call.run_id, call.owner.text), []).append(call)
    return list(groups.values())


def _calls_table(groups: Iterable[Sequence[BudgetCall]], console: Console) -> Table:
    table = _table()
    for name in ("Calls", "Run"):
        table.add_column(name, no_wrap=True)
    table.add_column("At most", overflow="fold")
    table.add_column("Made by", overflow="fold")
    for group in groups:
        call = group[0]
        is_fresh_id = len(call.run_id) == _FRESH_ID_CHARACTERS and call.run_id.isalnum()
        run_id = call.run_id[:_ID_CHARACTERS] if console.is_terminal and is_fresh_id else call.run_id
        is_gone = call.state != "lost" and not call.is_alive
        table.add_row(
            Text(f"{len(group):,} {_STATES[call.state]}", style="red" if is_gone or call.state == "lost" else ""),
            Text(one_line(run_id)),
            Text(str(_sum_of(group))),
            Text(_owner(call), style="red" if is_gone else ""),
        )
    return table


def _sum_of(calls: Iterable[BudgetCall]) -> Amounts:
    return sum((call.most for call in calls), Amounts())


def _owner(call: BudgetCall) -> str:
    owner = call.owner.describe()
    if call.owner.is_dead():
        return f"{owner}, which is dead"
    return owner if call.is_alive or call.state == "lost" else f"{owner}, whose lease has run out"


def _notes(status: BudgetStatus, calls: Sequence[BudgetCall], state_db: str | None) -> Iterator[Text]:
    """Yield what a person wants to know besides."""
    if status.is_passed:
        yield Text(f"note: the limit is passed: {status.spent} spent; nothing starts before there is more")
    gone = [call for call in calls if call.state == "reserved" and not call.is_alive]
    if gone:
        yield Text(
            f"note: {_sum_of(gone)} is reserved for calls that nobody makes any more; it is charged, as uncertain, "
            "when it stands in the way of another call or its run goes on"
        )
        for run_id in dict.fromkeys(call.run_id for call in gone[:_MOST_ROWS]):
            yield Text(f"go on: {resume_command(run_id, state_db=state_db)}")


# Documents


def budget_document(status: BudgetStatus, *, now: datetime) -> dict[str, object]:
    """Return how a budget stands as JSON; dollars and seconds are exact, as text."""
    end = window_end(status.per, status.timezone, now)
    return {
        "name": status.name,
        "per": status.per,
        "timezone": status.timezone,
        "window": status.window,
        "window_ends": None if end is None else end.isoformat(),
        "limit": _exact(status.limit),
        "topped_up": _exact(status.topped_up),
        "spent": _exact(status.spent),
        "reserved": _exact(status.reserved),
        "uncertain": _exact(status.uncertain),
        "left": _exact(status.left),
        "is_passed": status.is_passed,
    }


def calls_document(calls: Iterable[BudgetCall]) -> list[dict[str, object]]:
    """Return calls as JSON."""
    return [
        {
            "call_id": call.call_id,
            "run_id": call.run_id,
            "state": call.state,
            "is_alive": call.is_alive,
            "owner": call.owner.describe(),
            "window": call.window,
            "most": _exact(call.most),
        }
        for call in calls
    ]


def _exact(amounts: Amounts | AmountLimits) -> dict[str, object]:
    usd, tokens, requests, seconds = _amounts_of(amounts)
    return {
        "usd": None if usd is None else _plain(usd),
        "tokens": tokens,
        "requests": requests,
        "seconds": None if seconds is None else _plain(seconds),
    }


def _plain(amount: Decimal | int) -> str:
    return format_usd(Decimal(amount)).removeprefix("$")
