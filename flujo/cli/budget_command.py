"""`flujo budget`: shows what runs share, says how much that is, and lets more of it be used."""

import asyncio
import difflib
import re
import reprlib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal, cast

from cyclopts import App, Parameter
from pydantic_core import to_json
from rich.text import Text

from flujo.cli.budget_views import budget_document, budget_lines, budgets_table, calls_document
from flujo.cli.exit_codes import WrongUsageError
from flujo.cli.formats import count
from flujo.cli.parameters import FreeText
from flujo.cli.settings import read_run_settings
from flujo.cli.stores import closed_at_end, existing_database, make_folder, new_store, resume_command, shown_path
from flujo.cli.terminal import ResultStream, say, table_console
from flujo.domain.budgets import AmountLimits, Amounts, Budget, BudgetStatus, Per, in_milliseconds
from flujo.domain.money import exact_usd
from flujo.exceptions import BudgetNotFoundError
from flujo.state.budgets import BudgetCall
from flujo.state.records import RunQuery
from flujo.state.sqlite import SQLiteBackend

budget = App(
    name="budget",
    help="Show the budgets that runs share, set their limits, and top them up.",
    default_parameter=Parameter(negative=(), show_default=False),
)

StateDb = Annotated[FreeText, Parameter(metavar="PATH")]
Usd = Annotated[FreeText, Parameter(metavar="USD")]
Number = Annotated[FreeText, Parameter(metavar="N")]
Seconds = Annotated[FreeText, Parameter(metavar="S")]

_KINDS = ("usd", "tokens", "requests", "seconds")
_NONE = "none"
_WANTED = {
    "usd": "US dollars, 0 or more, such as 2.50",
    "tokens": "a whole number, 0 or more",
    "requests": "a whole number, 0 or more",
    "seconds": "seconds, 0 or more, such as 90",
}
_MOST_NAMED = 8
_MOST_RUNS = 3
_MOST_COUNT = 2**62
_WHOLE_NUMBER = re.compile(r"[0-9]{1,20}")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]*(?:[eE][+-]?[0-9]{1,6})?")


@budget.command
def show(name: str | None = None, /, *, state_db: StateDb | None = None, json: bool = False) -> None:
    """Show all budgets, or one of them with all there is to know.

    What was topped up in the present window is part of the limit.

    Args:
        name: The budget; by default all of them, in a table.
        state_db: The database that keeps the budgets.
        json: Print one JSON document; dollars and seconds are exact, as text.
    """
    store = SQLiteBackend(_existing(state_db))
    with closed_at_end(store):
        if name is None:
            _show_all(asyncio.run(store.list_budgets()), is_json=json)
            return
        status = _status(store, name)
        calls = asyncio.run(store.budget_calls(name))
    if json:
        now = datetime.now(UTC)
        _print_document({**budget_document(status, now=now), "calls": calls_document(calls)})
    else:
        _show(status, calls, state_db)


@budget.command(name="set")
def set_budget(
    name: str,
    /,
    *,
    usd: Usd | None = None,
    tokens: Number | None = None,
    requests: Number | None = None,
    seconds: Seconds | None = None,
    per: Literal["hour", "day", "month", "none"] | None = None,
    timezone: Annotated[FreeText, Parameter(metavar="ZONE")] | None = None,
    state_db: StateDb | None = None,
) -> None:
    """Give a budget limits or windows; what is not given stays as it is. One that is not there is made.

    It holds until a program declares the budget otherwise than before.
    What was topped up in the present window comes on top of what is set.

    Args:
        name: The budget.
        usd: US dollars that may be spent in a window; none for no limit.
        tokens: Tokens, input and output together; none for no limit.
        requests: How many calls; none for no limit.
        seconds: How long calls may take, one after the other; none for no limit.
        per: How long a window is; none for a budget that never begins anew.
        timezone: The zone in which windows begin, such as Europe/Berlin; UTC by default.
        state_db: The database that keeps the budget.
    """
    if not name:
        raise WrongUsageError("the name of the budget is empty; give it one")
    texts = {"usd": usd, "tokens": tokens, "requests": requests, "seconds": seconds}
    given = {kind: _limit(kind, text) for kind, text in texts.items() if text is not None}
    if not given and per is None and timezone is None:
        raise WrongUsageError(
            f"nothing is set of budget {name!r}; give it --usd, --tokens, --requests, --seconds, --per or --timezone"
        )
    settings = read_run_settings({"state_db": state_db})
    store = new_store(settings)
    with closed_at_end(store):
        known = asyncio.run(store.list_budgets()) if store.path.is_file() else []
        before = next((status for status in known if status.name == name), None)
        wanted = _changed(name, before, given, per, timezone)
        if before is None and wanted.limits == AmountLimits():
            raise WrongUsageError(f"{_not_stored(name, known)}; give it a limit to make it, such as --usd 5")
        make_folder(settings)
        status = asyncio.run(store.set_budget(wanted))
        calls = asyncio.run(store.budget_calls(name))
        stopped = _stopped(store)
    if before is None:
        near = difflib.get_close_matches(name, [each.name for each in known], 1)
        say(f"budget {name!r} is new in {shown_path(store.path)}" + (f"; there is {near[0]!r} besides" if near else ""))
    _show(status, calls, state_db)
    _say_how_to_go_on(stopped, state_db)


@budget.command(name="top-up")
def top_up(
    name: str,
    /,
    *,
    usd: Usd | None = None,
    tokens: Number | None = None,
    requests: Number | None = None,
    seconds: Seconds | None = None,
    state_db: StateDb | None = None,
) -> None:
    """Let more of a budget be used in its present window; the next one begins with the limit that is set.

    Args:
        name: The budget.
        usd: So many more US dollars.
        tokens: So many more tokens.
        requests: So many more calls.
        seconds: So many more seconds of calls.
        state_db: The database that keeps the budget.
    """
    texts = {"usd": usd, "tokens": tokens, "requests": requests, "seconds": seconds}
    more = _amounts({kind: _amount(kind, text) for kind, text in texts.items() if text is not None})
    if not more:
        raise WrongUsageError(
            f"budget {name!r} is topped up with nothing; give it --usd, --tokens, --requests or --seconds, more than 0"
        )
    store = SQLiteBackend(_existing(state_db))
    with closed_at_end(store):
        _check_limited(_status(store, name), [kind for kind in _KINDS if texts[kind] is not None])
        status = asyncio.run(store.top_up_budget(name, more))
        calls = asyncio.run(store.budget_calls(name))
        stopped = _stopped(store)
    _show(status, calls, state_db)
    _say_how_to_go_on(stopped, state_db)


# What is given


def _amount(kind: str, text: str, *, hint: str = "") -> Decimal:
    """Return an amount that a person gives.

    Raises:
        WrongUsageError: It is none.
    """
    is_count = kind in ("tokens", "requests")
    amount = None
    if is_count and _WHOLE_NUMBER.fullmatch(text.strip()) and int(text) < _MOST_COUNT:
        amount = Decimal(int(text))
    elif not is_count and _NUMBER.fullmatch(text.strip()):
        try:
            amount = exact_usd(Decimal(text.strip()))
        except (InvalidOperation, ValueError):  # no digits, or more than there is of anything
            amount = None
    if amount is None:
        raise WrongUsageError(f"--{kind} is {reprlib.repr(text)}; give {_WANTED[kind]}{hint}")
    return in_milliseconds(amount) if kind == "seconds" else amount


def _limit(kind: str, text: str) -> Decimal | None:
    if text.strip().lower() == _NONE:
        return None
    return _amount(kind, text, hint=f"; or {_NONE} for no limit")


def _amounts(given: dict[str, Decimal]) -> Amounts:
    nothing = Decimal(0)
    return Amounts(
        given.get("usd", nothing),
        int(given.get("tokens", nothing)),
        int(given.get("requests", nothing)),
        given.get("seconds", nothing),
    )


def _changed(
    name: str,
    before: BudgetStatus | None,
    given: dict[str, Decimal | None],
    per: Per | Literal["none"] | None,
    timezone: str | None,
) -> Budget:
    """Return a budget as it is, with what is given in place of what was."""
    limits = AmountLimits() if before is None else before.limit.less(before.topped_up)
    found = (None if before is None else before.per) if per is None else per
    found = None if found == _NONE else found
    tokens, requests = given.get("tokens", limits.tokens), given.get("requests", limits.requests)
    return Budget(
        name,
        usd=given.get("usd", limits.usd),
        tokens=None if tokens is None else int(tokens),
        requests=None if requests is None else int(requests),
        seconds=given.get("seconds", limits.seconds),
        per=cast("Per | None", found),  # one of these: cyclopts or the store has seen to it
        timezone=timezone or ("UTC" if before is None else before.timezone),
    )


def _check_limited(status: BudgetStatus, kinds: Sequence[str]) -> None:
    """Raise if there is no limit to be topped up."""
    limits = {kind: limit for kind, limit in _by_kind(status.limit).items() if limit is not None}
    for kind in kinds:
        if kind not in limits:
            known = ", ".join(f"--{each}" for each in limits)
            which = f"it has {known} to top up" if limits else "it has no limit at all"
            raise WrongUsageError(
                f"budget {status.name!r} has no limit of {_noun(kind)}; {which}, and flujo budget set gives it a limit"
            )


def _by_kind(limits: AmountLimits) -> dict[str, Decimal | int | None]:
    return {"usd": limits.usd, "tokens": limits.tokens, "requests": limits.requests, "seconds": limits.seconds}


def _noun(kind: str) -> str:
    return "dollars" if kind == "usd" else kind


# What is stored


def _existing(state_db: str | None) -> str:
    hint = "flujo run makes those of a Flujo with budgets, flujo budget set makes one by hand"
    return str(existing_database(state_db, what="budgets", hint=hint))


def _status(store: SQLiteBackend, name: str) -> BudgetStatus:
    """Return how a budget stands.

    Raises:
        WrongUsageError: There is none of that name.
    """
    try:
        return asyncio.run(store.budget_status(name))
    except BudgetNotFoundError:
        raise WrongUsageError(_not_stored(name, asyncio.run(store.list_budgets()))) from None


def _not_stored(name: str, known: Sequence[BudgetStatus]) -> str:
    if not known:
        return f"no budget {name!r} is stored here, and no other one"
    named = ", ".join(repr(status.name) for status in known[:_MOST_NAMED])
    return f"no budget {name!r} is stored here; there is {named}{', ...' if len(known) > _MOST_NAMED else ''}"


def _stopped(store: SQLiteBackend) -> list[str]:
    """Return the runs that were stopped, the newest first."""
    return [record.run_id for record in asyncio.run(store.list_runs(RunQuery(status="stopped")))]


# What is shown


def _show_all(statuses: Sequence[BudgetStatus], *, is_json: bool) -> None:
    if is_json:
        now = datetime.now(UTC)
        _print_document([budget_document(status, now=now) for status in statuses])
    elif not statuses:
        say("no budgets are stored here; flujo run makes those of a Flujo, and flujo budget set makes one by hand")
    else:
        console = table_console()
        console.print(budgets_table(statuses, width=console.width))


def _show(status: BudgetStatus, calls: Sequence[BudgetCall], state_db: str | None) -> None:
    console = table_console()
    for part in budget_lines(status, calls, now=datetime.now(UTC), console=console, state_db=state_db):
        console.print(part, soft_wrap=isinstance(part, Text))


def _say_how_to_go_on(stopped: Sequence[str], state_db: str | None) -> None:
    if stopped:
        say(f"{count(len(stopped), 'run')} of this database {'is' if len(stopped) == 1 else 'are'} stopped by a limit")
    for run_id in stopped[:_MOST_RUNS]:
        say(f"go on: {resume_command(run_id, state_db=state_db)}")
    if len(stopped) > _MOST_RUNS:
        say("the others: flujo lens list --status stopped")


def _print_document(document: object) -> None:
    ResultStream(sys.stdout).write(to_json(document, indent=2).decode() + "\n")
