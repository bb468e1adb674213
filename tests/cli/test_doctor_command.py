"""What `flujo doctor` finds in a database."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from flujo import Amounts, Budget, Flujo, SQLiteBackend, Step
from flujo.cli.exit_codes import ExitCode
from flujo.exceptions import StateCorruptedError
from flujo.state.budget_tables import row_checksum, written
from flujo.state.budgets import BudgetChange, BudgetRequest, Settlement
from flujo.state.checkup import check_database
from flujo.state.ownership import Owner
from tests.cli.command import Ended, flujo

Captured = pytest.CaptureFixture[str]
Change = Callable[[sqlite3.Connection], object]

OWNER = Owner(host="elsewhere", pid=7)
PIPELINE = Step.from_callable(str.upper, name="shout") >> Step.from_callable(str.strip, name="trim")


@pytest.fixture(autouse=True)
def database(tmp_path: Path) -> Path:
    """Keep two runs in a file."""
    path = tmp_path / "runs.db"
    store = SQLiteBackend(path)
    runner = Flujo(PIPELINE, state_backend=store)
    for run_id in ("first", "second"):
        runner.run("hello", run_id=run_id)
    asyncio.run(store.close())  # so that all of it is in the file itself
    return path


def changed(change: Change) -> None:
    """Change the database behind flujo's back."""
    connection = sqlite3.connect("runs.db")
    with connection:
        change(connection)
    connection.close()


def doctor(capsys: Captured, *arguments: str) -> Ended:
    """Check the database."""
    return flujo(capsys, "doctor", "--state-db", "runs.db", *arguments)


def test_a_healthy_database(capsys: Captured) -> None:
    """It is said to be healthy, with what is in it."""
    ended = doctor(capsys)

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, "runs.db is healthy: 2 runs, 4 entries, schema 2\n")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            "UPDATE journal SET payload = replace(payload, 'HELLO', 'JELLO') WHERE id >> 32 = 1",
            "the entry of step '0' is",
        ),
        ("UPDATE journal SET at = at + 1 WHERE id >> 32 = 1 AND path = '1'", "the entry of step '1' is damaged"),
        ("UPDATE journal SET path = '7' WHERE id >> 32 = 1 AND path = '1'", "the entry of step '7' is damaged"),
        ("DELETE FROM journal WHERE id >> 32 = 1 AND path = '0'", "it has 1 entries, and 2 were written"),
        ("UPDATE runs SET total_cost = '1' WHERE id = 1", "its record is damaged"),
        ("UPDATE runs SET total_cost = 'much' WHERE id = 1", "its record is damaged"),
        ("UPDATE runs SET status = 'failed' WHERE id = 1", "its record is damaged"),
        ("UPDATE runs SET pipeline_name = 'other' WHERE id = 1", "its record is damaged"),
        ("UPDATE runs SET created_at = created_at + 1 WHERE id = 1", "its record is damaged"),
        ("UPDATE runs SET updated_at = updated_at + 1 WHERE id = 1", "its record is damaged"),
        ("UPDATE journal SET id = id + 1000 WHERE id >> 32 = 1 AND path = '1'", "the entry of step '1' is damaged"),
        ("UPDATE starts SET start = '{}' WHERE run = 1", "its record is damaged"),
        ("DELETE FROM starts WHERE run = 1", "its record is damaged"),
        ("UPDATE runs SET head = head + 1 WHERE id = 1", "its entries are not those that were written"),
        ("UPDATE runs SET owner = 'nobody' WHERE id = 1", "its owner is 'nobody', which is none"),
    ],
)
def test_what_is_wrong_is_named_with_its_run(change: str, found: str, capsys: Captured) -> None:
    """The damage and the run are named, the other run is not, and the command ends with 1."""
    changed(lambda connection: connection.execute(change))

    ended = doctor(capsys)

    assert ended.code == ExitCode.FAILED
    assert f"damage: run 'first': {found}" in ended.out
    assert "'second'" not in ended.out
    assert ended.out.splitlines()[-1].startswith("runs.db is damaged, ")


@pytest.fixture
def budgets(database: Path) -> None:
    """Keep two budgets in the file besides: each has a call that ended, one that was lost and one in flight."""

    async def spend() -> None:
        store = SQLiteBackend(database)
        await store.declare_budgets([Budget("team", usd=5), Budget("other", usd=5)])
        for number, name in enumerate(("team", "other")):
            for run_id in ("ended", "lost", "alive"):
                most = Amounts(Decimal("0.5"), 10, 1)
                request = BudgetRequest(f"{number} {run_id}", (name,), most, run_id, OWNER)
                assert (await store.change_budgets(BudgetChange(request=request))).is_granted
            used = Amounts(Decimal("0.2"), 3, 1)
            await store.change_budgets(BudgetChange([Settlement((name,), f"{number} ended", used)]))
        await store.lose_calls("lost")
        await store.close()

    asyncio.run(spend())


@pytest.mark.usefixtures("budgets")
def test_healthy_budgets(capsys: Captured) -> None:
    """They are counted, and nothing is said of calls that somebody makes."""
    ended = doctor(capsys)

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, "runs.db is healthy: 2 runs, 4 entries, 2 budgets, schema 2\n")


@pytest.mark.usefixtures("budgets")
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE budgets SET limits = '6 - - -' WHERE id = 2", "its record is damaged"),
        ("UPDATE budgets SET timezone = 'Mars' WHERE id = 2", "its record is damaged"),
        ("UPDATE budget_windows SET spent = '0 3 1 0' WHERE budget = 2", "what was spent is damaged"),
        ("UPDATE budget_windows SET topped_up = 'x' WHERE budget = 2", "what was spent is damaged"),
        (
            "UPDATE budget_calls SET amount = '9 9 9 9' WHERE call_id = '0 alive'",
            "its call '0 alive' of run 'alive' is damaged",
        ),
        (
            "UPDATE budget_calls SET state = 'waiting' WHERE call_id = '0 alive'",
            "its call '0 alive' of run 'alive' is damaged",
        ),
        (
            "UPDATE budget_calls SET owner = 'nobody' WHERE call_id = '0 alive'",
            "its call '0 alive' of run 'alive' has owner 'nobody'",
        ),
        (
            "DELETE FROM budget_calls WHERE call_id = '0 alive'",
            "$0.5, 10 tokens, 1 request is reserved, and for its calls in flight it is nothing",
        ),
        ("DELETE FROM budget_windows WHERE budget = 2", "it has calls, and nothing of what was reserved for them"),
    ],
)
def test_what_is_wrong_is_named_with_its_budget(change: str, found: str, capsys: Captured) -> None:
    """The damage and the budget are named, the other one is not, and the command ends with 1."""
    changed(lambda connection: connection.execute(change))

    ended = doctor(capsys)

    assert ended.code == ExitCode.FAILED
    assert f"damage: budget 'team': {found}" in ended.out
    assert "'other'" not in ended.out
    assert ended.out.endswith("runs.db is damaged, 1 finding: 2 runs, 4 entries, 2 budgets, schema 2\n")


@pytest.mark.usefixtures("budgets")
@pytest.mark.parametrize(
    ("amounts", "found"),
    [
        (
            {"uncertain": Amounts(Decimal("0.4"), 10, 1)},
            "$0.4, 10 tokens, 1 request is uncertain, and for its lost calls alone it is $0.5, 10 tokens, 1 request",
        ),
        (
            {"spent": Amounts(Decimal("0.7"), 9, 2)},
            "$0.5, 10 tokens, 1 request is uncertain, and only $0.7, 9 tokens, 2 requests was spent",
        ),
        ({"reserved": Amounts()}, "nothing is reserved, and for its calls in flight it is $0.5, 10 tokens, 1 request"),
    ],
    ids=["uncertain", "spent", "reserved"],
)
def test_amounts_that_do_not_add_up_are_found(amounts: dict[str, Amounts], found: str, capsys: Captured) -> None:
    """Also if the row says that it is what was written."""
    whole = {
        "topped_up": Amounts(),
        "spent": Amounts(Decimal("0.7"), 13, 2),
        "reserved": Amounts(Decimal("0.5"), 10, 1),
        "uncertain": Amounts(Decimal("0.5"), 10, 1),
        **amounts,
    }
    texts = [written(amount) for amount in whole.values()]

    def change(connection: sqlite3.Connection) -> None:
        (number,) = connection.execute("SELECT id FROM budgets WHERE name = 'team'").fetchone()
        connection.execute(
            "UPDATE budget_windows SET topped_up = ?, spent = ?, reserved = ?, uncertain = ?, checksum = ? "
            "WHERE budget = ?",
            (*texts, row_checksum(number, "", *texts), number),
        )

    changed(change)

    assert f"damage: budget 'team': {found}\n" in doctor(capsys).out


@pytest.mark.usefixtures("budgets")
def test_calls_of_no_budget_are_found(capsys: Captured) -> None:
    """They and what was spent are damage of the file."""
    changed(lambda connection: connection.execute("DELETE FROM budgets WHERE name = 'team'"))

    found = json.loads(doctor(capsys, "--json").out)

    assert (found["budgets"], found["is_healthy"]) == (1, False)
    assert {finding["budget"] for finding in found["findings"]} == {None}
    messages = {finding["message"].split(" of budget")[0] for finding in found["findings"]}
    assert messages == {"there is a call", "something was spent"}


@pytest.mark.usefixtures("budgets")
@pytest.mark.parametrize(
    ("owner", "lease_s", "note"),
    [
        (Owner(pid=2**22 + 1, started="1"), 100.0, "by process 4194305 on host {host}, which is dead"),
        (OWNER, -100.0, "by process 7 on host elsewhere, whose lease has run out"),
    ],
    ids=["dead", "expired"],
)
def test_what_nobody_spends_any_more_is_worth_a_note(owner: Owner, lease_s: float, note: str, capsys: Captured) -> None:
    """How much is reserved, for which run and by whom."""
    changed(
        lambda connection: connection.execute(
            "UPDATE budget_calls SET owner = ?, lease_until = unixepoch() + ? "
            "WHERE budget = (SELECT id FROM budgets WHERE name = 'team')",
            (owner.text, lease_s),
        )
    )

    ended = doctor(capsys)

    assert ended.code == ExitCode.SUCCESS
    said = note.format(host=owner.host.partition("#")[0])
    assert f"note: budget 'team': $0.5, 10 tokens, 1 request is reserved for run 'alive' {said}" in ended.out


def test_a_limit_that_is_passed_is_worth_a_note(database: Path, capsys: Captured) -> None:
    """It is no damage."""

    async def spend() -> None:
        store = SQLiteBackend(database)
        await store.declare_budgets([Budget("team", usd=1)])
        await store.change_budgets(BudgetChange([Settlement(("team",), None, Amounts(Decimal(2)))]))
        await store.close()

    asyncio.run(spend())

    ended = doctor(capsys)

    assert ended.code == ExitCode.SUCCESS
    assert ended.out.startswith("note: budget 'team': it passed its limit of $1: $2 spent\n")


def test_a_database_without_budgets_is_healthy(capsys: Captured) -> None:
    """One of an older flujo has no tables of them."""

    def change(connection: sqlite3.Connection) -> None:
        for table in ("budget_calls", "budget_windows", "budgets"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 1")

    changed(change)

    assert doctor(capsys).code == ExitCode.SUCCESS


def test_a_document_lists_what_was_found(capsys: Captured) -> None:
    """Each finding has its run."""
    changed(lambda connection: connection.execute("DELETE FROM journal WHERE id >> 32 = 2"))

    found = json.loads(doctor(capsys, "--json").out)

    assert (found["is_healthy"], found["runs"], found["entries"]) == (False, 2, 2)
    assert {finding["run_id"] for finding in found["findings"]} == {"second"}


def test_an_entry_of_no_run_is_found(capsys: Captured) -> None:
    """Entries whose run is lost are damage of the file."""
    changed(lambda connection: connection.execute("DELETE FROM runs WHERE id = 1"))

    assert "damage: there are entries of run number 1, which is not there" in doctor(capsys).out.splitlines()


@pytest.mark.parametrize(
    ("owner", "lease_s", "note"),
    [
        (Owner(pid=2**22 + 1, started="1"), 100.0, "which is dead; it can be resumed"),
        (Owner(host="elsewhere", pid=7), -100.0, "the lease of process 7 on host elsewhere has run out"),
        (Owner(host="elsewhere", pid=7), 100.0, "it belongs to process 7 on host elsewhere, whose lease holds"),
    ],
    ids=["dead", "expired", "held"],
)
def test_owners_are_worth_a_note(owner: Owner, lease_s: float, note: str, capsys: Captured) -> None:
    """Who owns a run is said, and is no damage."""
    changed(
        lambda connection: connection.execute(
            "UPDATE runs SET owner = ?, lease_until = unixepoch() + ? WHERE id = 1", (owner.text, lease_s)
        )
    )

    ended = doctor(capsys)

    assert ended.code == ExitCode.SUCCESS
    assert note in ended.out.splitlines()[0]
    assert ended.out.startswith("note: run 'first': ")


@pytest.mark.parametrize("place", [0, 40, 100, 4096])
def test_a_file_that_is_overwritten_is_damaged(place: int, database: Path, capsys: Captured) -> None:
    """Whatever part of the file is lost, the command says so in lines of its own."""
    content = bytearray(database.read_bytes())
    content[place : place + 60] = b"\xa5" * 60
    database.write_bytes(content)

    ended = doctor(capsys)

    assert ended.code == ExitCode.FAILED
    assert ended.out.startswith("damage: ") or ended.err.startswith("error: ")
    assert "Traceback" not in ended.err


def test_a_newer_schema_is_refused(capsys: Captured) -> None:
    """A database of a newer flujo is left alone."""
    changed(lambda connection: connection.execute("PRAGMA user_version = 99"))

    ended = doctor(capsys)

    assert ended.code == ExitCode.FAILED
    assert "has schema 99" in ended.error


def test_what_is_no_database_of_runs_is_refused(capsys: Captured) -> None:
    """Another program's database and a file that is not there are named."""
    connection = sqlite3.connect("other.db")
    connection.execute("CREATE TABLE other (id INTEGER)")
    connection.close()

    assert flujo(capsys, "doctor", "--state-db", "other.db").error == "other.db is no database of runs"
    assert flujo(capsys, "doctor", "--state-db", "absent.db").code == ExitCode.WRONG_USAGE


def test_every_flipped_bit_of_an_entry_is_found(database: Path) -> None:
    """Whichever bit of a payload flips, the run is named, and the store refuses it and opens the other."""
    with sqlite3.connect(database) as connection:
        (payload,) = connection.execute("SELECT payload FROM journal WHERE id >> 32 = 1 AND path = '0'").fetchone()
    connection.close()
    for position in range(0, len(payload), 7):
        flipped = payload[:position] + chr(ord(payload[position]) ^ 1) + payload[position + 1 :]
        changed(
            lambda connection, text=flipped: connection.execute(  # type: ignore[misc]  # its default is its own
                "UPDATE journal SET payload = ? WHERE id >> 32 = 1 AND path = '0'", (text,)
            )
        )

        assert {finding.run_id for finding in check_database(database).findings} == {"first"}

    runner = Flujo(PIPELINE, state_backend=SQLiteBackend(database))
    assert runner.run("hello", run_id="second").output == "HELLO"
    with pytest.raises(StateCorruptedError):
        runner.run("hello", run_id="first")
