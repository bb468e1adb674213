"""What `flujo budget` shows and changes, and how runs under a budget end on the command line."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flujo import Amounts, Budget, SQLiteBackend
from flujo.cli.exit_codes import ExitCode
from flujo.domain.budgets import AmountLimits, BudgetStatus
from flujo.state.budgets import BudgetChange, BudgetRequest, Settlement
from flujo.state.ownership import Owner
from tests.cli.command import COMMAND, Ended, flujo, flujo_afresh

Captured = pytest.CaptureFixture[str]

FLOWS = """
import asyncio
from decimal import Decimal
from pathlib import Path

from flujo import Budget, Flujo, InMemoryBackend, SQLiteBackend, Step
from flujo.domain.metering import Bound, FixedCall, Meter


async def buy(item: str, *, meter: Meter) -> str:
    reservation = await meter.reserve(FixedCall(Bound(Decimal("0.4"), 10)))
    if item == "slow":
        Path("bought").touch()
        await asyncio.sleep(60)
    reservation.settle(Decimal("0.3"), 7)
    return item.upper()


team = Budget("team", usd=1, requests=100, per="day", timezone="Europe/Berlin")
buying = Step("split", str.split) >> Step.map_over("each", Step("buy", buy), max_concurrency=1)
flow = Flujo(buying, budgets=[team])
nested = Flujo(Step("strip", str.strip) >> flow.as_step("inner"))
few = Flujo(buying, budgets=[Budget("my calls", usd=100, requests=1)])
slow = Flujo(Step("buy", buy), budgets=[Budget("team", usd=1)])
own = Flujo(buying, budgets=[Budget("team", usd=0.5)], state_backend=SQLiteBackend("own.db"))
in_memory = Flujo(buying, budgets=[Budget("team", usd=0.5)], state_backend=InMemoryBackend())
opaque = Flujo(Step("opaque", lambda text: object()), budgets=[Budget("team", usd=0.5)])
"""

OWNER = Owner(host="elsewhere", pid=7)


@pytest.fixture(autouse=True)
def flows(tmp_path: Path) -> None:
    """Write the file of the workflows."""
    (tmp_path / "flows.py").write_text(FLOWS, encoding="utf-8")


def run(capsys: Captured, name: str, text: str, *arguments: str) -> Ended:
    """Run a workflow."""
    return flujo_afresh(capsys, "run", f"flows.py:{name}", "--input", text, *arguments)


def budget(capsys: Captured, *arguments: str) -> Ended:
    """Show or change budgets."""
    return flujo(capsys, "budget", *arguments)


def made(*budgets: Budget, owner: Owner = OWNER, calls: Sequence[tuple[str, str]] = ()) -> None:
    """Keep budgets in the database, whose calls of runs may use so much and have not ended."""

    async def make() -> None:
        store = new_store()
        await store.declare_budgets(budgets)
        for number, (run_id, usd) in enumerate(calls):
            request = BudgetRequest(f"call {number}", (budgets[0].name,), Amounts(Decimal(usd), 10, 1), run_id, owner)
            await store.change_budgets(BudgetChange(request=request))
        await store.close()

    asyncio.run(make())


def spent(name: str, used: Amounts) -> None:
    """Charge a budget."""

    async def charge() -> None:
        store = new_store()
        await store.change_budgets(BudgetChange([Settlement((name,), None, used)]))
        await store.close()

    asyncio.run(charge())


def status_of(name: str) -> BudgetStatus:
    """Return how a budget stands."""

    async def look() -> BudgetStatus:
        store = new_store()
        status = await store.budget_status(name)
        await store.close()
        return status

    return asyncio.run(look())


def new_store() -> SQLiteBackend:
    """Return the store of the command line."""
    Path(".flujo").mkdir(exist_ok=True)
    return SQLiteBackend(".flujo/runs.db")


def document(capsys: Captured, *arguments: str) -> Any:
    """Return what is shown as JSON."""
    ended = budget(capsys, "show", *arguments, "--json")
    assert ended.err == "", "a document comes alone"
    return json.loads(ended.out)


def rows(text: str) -> list[list[str]]:
    """Return the cells of the rows of a table, without its head."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()[1:]]


# Showing


def test_all_budgets_are_a_table(capsys: Captured) -> None:
    """A row for each kind of limit says what is spent, reserved, uncertain and left."""
    made(Budget("team", usd=2, tokens=1_000), Budget("day", usd=9, per="day"), calls=[("run", "0.5")])
    spent("team", Amounts(Decimal("0.25"), 200, 3))

    ended = budget(capsys, "show")

    today = datetime.now(UTC).date().isoformat()
    assert rows(ended.out) == [
        ["day", today, "dollars", "$9", "$0", "0 %", "$0", "$0", "$9"],
        ["team", "always", "dollars", "$2", "$0.25", "12 %", "$0.5", "$0", "$1.25"],
        ["tokens", "1,000", "200", "20 %", "10", "0", "790"],
    ]


def test_a_budget_without_limits_shows_what_is_used(capsys: Captured) -> None:
    """There is nothing left of what has no limit."""
    made(Budget("free"), Budget("used"))
    spent("used", Amounts(tokens=5, requests=1))

    assert rows(budget(capsys, "show").out) == [
        ["free", "always", "dollars", "none", "$0", "$0", "$0"],
        ["used", "always", "tokens", "none", "5", "0", "0"],
        ["requests", "none", "1", "0", "0"],
    ]


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_table_fits_its_terminal(columns: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least important columns are left out, and names are cut before amounts are."""
    made(Budget("a budget of a long name, longer than others", usd=2, per="hour", timezone="Asia/Kolkata"))
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # as if it were printed to a terminal

    lines = re.sub(r"\x1b\[[0-9;]*m", "", budget(capsys, "show").out).splitlines()

    assert max(map(len, lines)) <= columns
    assert "$2" in lines[1]
    assert ("Window" in lines[0]) == (columns == 120)


def test_one_budget_is_shown_with_all_there_is_to_know(capsys: Captured) -> None:
    """Each kind of amount, what was topped up, and the calls by run and owner."""
    calls = [("first", "0.5"), ("first", "0.25"), ("second", "0.125"), ("third", "5")]
    made(Budget("team", usd=1, seconds=90), calls=calls)
    asyncio.run(new_store().lose_calls("second"))
    budget(capsys, "top-up", "team", "--usd", "1", "--seconds", "0.5")

    ended = budget(capsys, "show", "team")

    head, amounts, listed = ended.out.split("\n\n")
    assert head.splitlines() == [
        "budget    team",
        "window    always; it does not begin anew",
        "topped up $1, 0.5 seconds, which the limits include",
    ]
    assert [row[:7] for row in rows(amounts)] == [
        ["dollars", "$2", "$0.125", "$0.75", "$0.125", "$1.125", "6 %"],
        ["tokens", "none", "10", "20", "10"],
        ["requests", "none", "1", "2", "1"],
        ["seconds", "90.5", "0", "0", "0", "90.5", "0 %"],
    ]
    assert rows(listed) == [
        ["2 in flight", "first", "$0.75, 20 tokens, 2 requests", "process 7 on host elsewhere"],
        ["1 waiting", "third", "$5, 10 tokens, 1 request", "process 7 on host elsewhere"],
        ["1 lost", "second", "$0.125, 10 tokens, 1 request", "process 7 on host elsewhere"],
    ]


def test_bars_show_what_is_spent_and_reserved(capsys: Captured) -> None:
    """A quarter is spent and a half reserved."""
    made(Budget("team", usd=1), calls=[("run", "0.5")])
    spent("team", Amounts(Decimal("0.25")))

    assert f"25 %  {'█' * 6}{'▒' * 12}{'░' * 6}\n" in budget(capsys, "show", "team").out


def test_a_window_says_when_it_ends(capsys: Captured) -> None:
    """In the zone of the budget."""
    made(Budget("team", usd=1, per="month", timezone="Europe/Berlin"))

    line = budget(capsys, "show", "team").out.splitlines()[1]

    window = status_of("team").window
    assert line.startswith(f"window    {window}, ends at ")
    assert "-01 00:00 Europe/Berlin, in " in line


def test_what_a_dead_process_has_reserved_is_told(capsys: Captured) -> None:
    """With the command that goes on with its run."""
    made(Budget("team", usd=1), owner=Owner(pid=2**22 + 1, started="1"), calls=[("run", "0.5")])

    ended = budget(capsys, "show", "team")

    assert ", which is dead\n" in ended.out
    assert "note: $0.5, 10 tokens, 1 request is reserved for calls that nobody makes any more" in ended.out
    assert ended.out.endswith("go on: flujo resume run\n")


def test_a_limit_that_is_passed_is_told(capsys: Captured) -> None:
    """What is left is less than nothing."""
    made(Budget("team", usd=1))
    spent("team", Amounts(Decimal("1.5")))

    ended = budget(capsys, "show", "team")

    assert "-$0.5  150 %" in ended.out
    assert "note: the limit is passed: $1.5 spent; nothing starts before there is more\n" in ended.out


def test_documents_are_exact(capsys: Captured) -> None:
    """Dollars and seconds are text, calls are listed one by one."""
    made(Budget("team", usd=Decimal("1.00000000001"), per="hour"), calls=[("run", "0.5"), ("run", "9")])
    spent("team", Amounts(Decimal("0.000000000000000000001"), seconds=Decimal("2.500")))

    (of_all,) = document(capsys)
    found = document(capsys, "team")

    calls = found.pop("calls")
    assert found == of_all
    assert found["limit"] == {"usd": "1.00000000001", "tokens": None, "requests": None, "seconds": None}
    assert found["spent"] == {"usd": "0.000000000000000000001", "tokens": 0, "requests": 0, "seconds": "2.5"}
    assert (found["per"], found["is_passed"], found["window_ends"][14:19]) == ("hour", False, "00:00")
    assert [(call["state"], call["most"]["usd"], call["is_alive"]) for call in calls] == [
        ("reserved", "0.5", True),
        ("waiting", "9", True),
    ]


def test_there_may_be_no_budgets(capsys: Captured) -> None:
    """Then it is said how they come to be."""
    assert budget(capsys, "show").error == (
        "no budgets are stored: there is no file .flujo/runs.db; flujo run makes those of a Flujo with budgets, flujo "
        "budget set makes one by hand, and --state-db names another one"
    )
    made()
    assert budget(capsys, "show").err.startswith("no budgets are stored here; flujo run makes those of a Flujo")
    assert document(capsys) == []


# Setting


def test_a_budget_is_made_by_hand(capsys: Captured) -> None:
    """With the database, as by a run; and one that a program declares later keeps what was set."""
    ended = budget(capsys, "set", "team", "--usd", "0.5", "--per", "day", "--timezone", "Europe/Berlin")

    assert (ended.code, ended.err) == (ExitCode.SUCCESS, "budget 'team' is new in .flujo/runs.db\n")
    assert ended.out.startswith("budget    team\nwindow    ")
    assert Path(".flujo/.gitignore").read_text() == "*\n"
    run(capsys, "flow", "a")
    status = status_of("team")
    assert (status.limit, status.per, status.timezone) == (AmountLimits(Decimal("0.5")), "day", "Europe/Berlin")


def test_what_is_not_given_stays(capsys: Captured) -> None:
    """Other limits, windows, what was spent, and what was topped up."""
    made(Budget("team", usd=1, tokens=500, seconds=1.5, per="month", timezone="Europe/Berlin"))
    spent("team", Amounts(Decimal("0.5"), 20))
    budget(capsys, "top-up", "team", "--usd", "1", "--tokens", "7")

    budget(capsys, "set", "team", "--requests", "9")
    budget(capsys, "set", "team", "--usd", "3")

    status = status_of("team")
    assert status.limit == AmountLimits(Decimal(4), 507, 9, Decimal("1.5"))
    assert (status.per, status.timezone, status.spent) == ("month", "Europe/Berlin", Amounts(Decimal("0.5"), 20))


def test_limits_and_windows_can_be_removed(capsys: Captured) -> None:
    """With `none`."""
    made(Budget("team", usd=1, tokens=500, requests=1, seconds=1, per="day"))

    ended = budget(
        capsys, "set", "team", *("--usd", "none", "--requests", "None", "--seconds", "none", "--per", "none")
    )

    assert ended.code == ExitCode.SUCCESS
    status = status_of("team")
    assert (status.limit, status.per) == (AmountLimits(tokens=500), None)


def test_a_name_that_is_nearly_another_is_told(capsys: Captured) -> None:
    """A new budget may be a misspelt one."""
    made(Budget("team", usd=1))

    assert budget(capsys, "set", "taem", "--usd", "5").err == (
        "budget 'taem' is new in .flujo/runs.db; there is 'team' besides\n"
    )


# Topping up


def test_a_top_up_comes_on_top_of_the_limit(capsys: Captured) -> None:
    """The new state is printed."""
    made(Budget("team", usd=1, tokens=5, requests=5, seconds=5))

    ended = budget(capsys, "top-up", "team", *("--usd", "0.5", "--tokens", "3", "--requests", "2", "--seconds", "0.25"))

    assert (ended.code, ended.err) == (ExitCode.SUCCESS, "")
    assert [row[1] for row in rows(ended.out.split("\n\n")[1])] == ["$1.5", "8", "7", "5.25"]
    assert status_of("team").limit == AmountLimits(Decimal("1.5"), 8, 7, Decimal("5.25"))


def test_runs_that_were_stopped_are_told_after_a_top_up(capsys: Captured) -> None:
    """With the commands that go on with them; of many, the first ones."""
    for number in range(5):
        run(capsys, "flow", "a b c d", "--run-id", f"run-{number}")

    ended = budget(capsys, "top-up", "team", "--usd", "5")

    assert ended.err.splitlines() == [
        "5 runs of this database are stopped by a limit",
        *(f"go on: flujo resume run-{number}" for number in (4, 3, 2)),
        "the others: flujo lens list --status stopped",
    ]


# Mistakes


@pytest.mark.parametrize("command", ["set", "top-up"])
@pytest.mark.parametrize(
    ("option", "text"),
    [
        *[("--usd", text) for text in ("-1", "nan", "1e400", "abc", "inf", "", ".", "1_0", "1" * 30, "$5", "1e-500")],
        *[("--tokens", text) for text in ("-1", "1.5", "1e3", "abc", "", "1_000", "\uff19", "9" * 19, "9" * 5000)],
        *[("--requests", text) for text in ("-1", "1.5")],
        *[("--seconds", text) for text in ("-1", "nan", "abc", "1e16")],
    ],
)
def test_amounts_that_are_none_are_refused(command: str, option: str, text: str, capsys: Captured) -> None:
    """In one line that says what to give; nothing is changed."""
    made(Budget("team", usd=1, tokens=1, requests=1, seconds=1))
    before = status_of("team")

    ended = budget(capsys, command, "team", option, text)

    assert ended.code == ExitCode.WRONG_USAGE
    assert ended.error.startswith(f"{option} is '")
    assert "0 or more" in ended.error
    assert ("none for no limit" in ended.error) == (command == "set")
    assert status_of("team") == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["show", "taem"], "no budget 'taem' is stored here; there is 'other', 'team'"),
        (["top-up", "taem", "--usd", "1"], "no budget 'taem' is stored here; there is 'other', 'team'"),
        (["set", "taem", "--per", "day"], "there is 'other', 'team'; give it a limit to make it, such as --usd 5"),
        (["set", "taem", "--usd", "none"], "there is 'other', 'team'; give it a limit to make it, such as --usd 5"),
        (["set", "team"], "nothing is set of budget 'team'; give it --usd, --tokens, --requests, --seconds, --per or"),
        (["set", "", "--usd", "1"], "the name of the budget is empty"),
        (["set", "team", "--per", "week"], 'Invalid value "week" for --per'),
        (["set", "team", "--timezone", "Mars/Base"], "there is no time zone 'Mars/Base'"),
        (["top-up", "team"], "budget 'team' is topped up with nothing; give it --usd"),
        (["top-up", "team", "--usd", "0"], "budget 'team' is topped up with nothing; give it --usd"),
        (["top-up", "team", "--usd", "none"], "--usd is 'none'; give US dollars"),
        (["top-up", "team", "--usd", "1", "--tokens", "5"], "no limit of tokens; it has --usd, --requests to top up"),
        (["top-up", "other", "--usd", "5"], "no limit of dollars; it has no limit at all"),
        (["set", "team", "--usd", "1", "--state-db", "no/such.db"], "no/such.db cannot be made, because there is no"),
        (["top-up", "team", "--usd", "1", "--state-db", "absent.db"], "no budgets are stored: there is no file absent"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], reason: str, capsys: Captured) -> None:
    """They end with 2, and change nothing."""
    made(Budget("team", usd=1, requests=5), Budget("other"))
    before = status_of("team")

    ended = budget(capsys, *arguments)

    assert ended.code == ExitCode.WRONG_USAGE
    assert reason in ended.error
    assert [each["name"] for each in document(capsys)] == ["other", "team"]
    assert status_of("team") == before


def test_a_mistake_makes_no_database(capsys: Captured) -> None:
    """A budget without a limit is none to make."""
    ended = budget(capsys, "set", "team", "--per", "day")

    assert ended.error == (
        "no budget 'team' is stored here, and no other one; give it a limit to make it, such as --usd 5"
    )
    assert not Path(".flujo").exists()


# Runs


def test_a_run_keeps_its_budget_in_the_store_of_the_command_line(capsys: Captured) -> None:
    """A `Flujo` in the file needs no store of its own, also if a runner within it has the budget."""
    assert run(capsys, "flow", "a").code == ExitCode.SUCCESS
    assert run(capsys, "nested", "b").code == ExitCode.SUCCESS

    assert status_of("team").spent.usd == Decimal("0.6")


def test_a_run_that_a_budget_stops_says_how_it_goes_on(capsys: Captured) -> None:
    """Its commands can be pasted, and nothing is bought twice."""
    stopped = run(capsys, "flow", "a b c d", "--run-id", "run")

    assert stopped.code == ExitCode.LIMIT
    top_up, go_on, error = stopped.err.splitlines()[-3:]
    assert top_up.startswith("top up, or wait until ")
    assert top_up.endswith(" 00:00 Europe/Berlin: flujo budget top-up team --usd USD")
    assert go_on == "then go on: flujo resume run"
    assert error.endswith("has $0.1 left to spend, and the next call may use $0.4")
    budget(capsys, "top-up", "team", "--usd", "1")
    assert json.loads(flujo_afresh(capsys, "resume", "run").out) == ["A", "B", "C", "D"]
    assert status_of("team").spent == Amounts(Decimal("1.2"), 28, 4, status_of("team").spent.seconds)


def test_what_there_is_too_little_of_is_topped_up(capsys: Captured) -> None:
    """In the database that is named; names are quoted for the shell."""
    ended = run(capsys, "few", "a b", "--state-db", "named.db")

    assert ended.err.splitlines()[-3] == "top up: flujo budget top-up 'my calls' --requests N --state-db named.db"


def test_a_store_of_the_file_keeps_the_budget(capsys: Captured) -> None:
    """The command names it, or how to top up where there is no command for."""
    own, in_memory = run(capsys, "own", "a b"), run(capsys, "in_memory", "a b", "--no-state")

    assert own.err.splitlines()[-3] == "top up: flujo budget top-up team --usd USD --state-db own.db"
    assert in_memory.err.splitlines()[-3] == "top up: await InMemoryBackend(...).top_up_budget('team', Amounts(...))"
    assert not Path(".flujo").exists()


@pytest.mark.parametrize("name", ["flow", "nested"])
def test_budgets_need_a_store(name: str, capsys: Captured) -> None:
    """Without one nothing is run, and the line says what to do."""
    ended = run(capsys, name, "a", "--no-state")

    assert (ended.code, ended.error) == (
        ExitCode.WRONG_USAGE,
        "budget 'team' is kept in a store, and --no-state keeps nothing; leave --no-state out, or give the Flujo in "
        "the file a state_backend of its own",
    )


def test_a_value_that_cannot_be_stored_does_not_lead_to_a_run_without_a_store(capsys: Captured) -> None:
    """A run with budgets has to have one."""
    ended = run(capsys, "opaque", "a", "--state-db", "named.db")

    assert "which flujo cannot store" in ended.err
    assert "--no-state" not in ended.err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_was_in_flight_when_a_process_ended_is_charged(how: signal.Signals, capsys: Captured) -> None:
    """Mostly at once after Ctrl-C; after a kill it is reserved until the run goes on."""
    process = subprocess.Popen(
        [*COMMAND, "run", "flows.py:slow", "--input", "slow", "--run-id", "run"],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while not Path("bought").exists():
        assert process.poll() is None
    process.send_signal(how)
    code = process.wait()

    status = status_of("team")
    if how is signal.SIGINT:
        assert code == ExitCode.INTERRUPTED
        held = status.uncertain + status.reserved  # reserved if the agent's own code was at work just then
        assert held == Amounts(Decimal("0.4"), 10, 1)
    else:
        assert (status.uncertain, status.reserved) == (Amounts(), Amounts(Decimal("0.4"), 10, 1))
        assert "1 in flight  run" in budget(capsys, "show", "team").out
    Path("flows.py").write_text(FLOWS.replace('item == "slow"', "False"), encoding="utf-8")
    assert flujo_afresh(capsys, "resume", "run").out == "SLOW\n"
    status = status_of("team")
    assert (status.spent.usd, status.uncertain.usd, status.reserved) == (Decimal("0.7"), Decimal("0.4"), Amounts())
