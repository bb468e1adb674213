"""What `flujo lens` shows of stored runs."""

import json
import sqlite3
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flujo.cli.exit_codes import ExitCode
from flujo.state.sqlite import SQLiteBackend
from tests.cli.command import Ended, flujo_afresh

Captured = pytest.CaptureFixture[str]

FLOWS = """
from decimal import Decimal
from pathlib import Path
import sqlite3
from pydantic import BaseModel
from flujo import Step, UsageLimits
from flujo.domain.metering import Bound, FixedCall, Meter

class Draft(BaseModel):
    text: str

class Paid:
    cost_usd, token_counts = Decimal("0.0001"), 3
    def __init__(self, output): self.output = output

def write(text: str) -> Draft:
    return Draft(text=text)

def pay(text: str):
    return Paid(text)

def fail(text: str):
    raise ValueError("no")

async def ask(text: str, *, meter: Meter):
    first = await meter.reserve(FixedCall(Bound(Decimal("0.02"), 50)), label="openai:a-model-with-a-very-long-name")
    first.settle(Decimal("0.0000001"), 7)
    (await meter.reserve(FixedCall(Bound(Decimal("0.02"), 50)))).lose()
    return text

async def ask_and_fail(text: str, *, meter: Meter):
    await ask(text, meter=meter)
    raise ValueError("no")

async def ask_and_copy(text: str, *, meter: Meter):
    answered = await meter.reserve(FixedCall(Bound(Decimal("0.02"), 50)), label="openai:model")
    answered.settle(Decimal("0.0031"), 7)
    await meter.keep("first", "answer", Decimal("0.0031"), 7)
    await meter.keep("a tool", "what it gave", Decimal(0), 0)
    (await meter.reserve(FixedCall(Bound(Decimal("0.02"), 50)), label="openai:model")).settle(Decimal("0.01"), 20)
    in_flight = await meter.reserve(FixedCall(Bound(Decimal("0.02"), 50)), label="openai:model")
    with sqlite3.connect("killed.db") as copy, sqlite3.connect(".flujo/runs.db") as whole:
        whole.backup(copy)
    in_flight.settle(Decimal("0.001"), 10)
    return text

asking = Step("ask", ask) >> Step.parallel("both", {"a": Step("ask a", ask), "b": Step("pay", pay)})
reporting = Step("ask", ask, max_cost_usd=1)
dying = Step("ask", ask) >> Step("die", ask_and_copy)
falling = Step("ask", ask_and_fail, max_retries=0, usage_limits=UsageLimits(total_cost_usd_limit=0.035))
falling.fallback(Step("rescue", ask))
paying = Step("pay", pay) >> Step("again", pay)
drafting = Step("write", write)
failing = Step("pay", pay) >> Step("fail", fail)
both = Step("pay", pay) >> Step.parallel("both", {
    "legal": Step.human_in_the_loop("sign", "Legal?"),
    "press": Step("pay press", pay),
})
mapped = Step("split", str.split) >> Step.map_over("each", Step("pay", pay))
"""


@pytest.fixture(autouse=True)
def flows(tmp_path: Path) -> None:
    """Write the file of the workflows."""
    (tmp_path / "flows.py").write_text(FLOWS, encoding="utf-8")


def begun(capsys: Captured, *names: str, text: str = "x") -> None:
    """Start runs that are called like their workflows."""
    for name in names:
        flujo_afresh(capsys, "run", f"flows.py:{name}", "--input", text, "--run-id", name)


def lens(capsys: Captured, *arguments: str) -> Ended:
    """Show stored runs, where nothing of the workflows can be imported."""
    Path("flows.py").unlink(missing_ok=True)
    return flujo_afresh(capsys, "lens", *arguments)


def document(capsys: Captured, *arguments: str) -> Any:
    """Return what is shown as JSON."""
    ended = lens(capsys, *arguments, "--json")
    assert ended.err == "", "a document comes alone"
    return json.loads(ended.out)


def rows(text: str) -> list[list[str]]:
    """Return the cells of the rows of a table, without its head."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()[1:]]


def test_runs_are_listed_the_newest_first(capsys: Captured) -> None:
    """A row says which run of which pipeline stands how, since when, and what it cost to the last digit."""
    begun(capsys, "paying", "both", "failing")

    ended = lens(capsys, "list")

    assert [row[:3] for row in rows(ended.out)] == [
        ["failing", "failing", "failed"],
        ["both", "both", "paused"],
        ["paying", "paying", "completed"],
    ]
    assert rows(ended.out)[2][-2:] == ["$0.0002", "6"]


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        (["--status", "paused"], ["both"]),
        (["--pipeline", "paying"], ["paying"]),
        (["--since", "1h"], ["failing", "both", "paying"]),
        (["--since", "2000-01-01", "--until", "2000-01-02T10:00"], []),
        (["--until", "1d"], []),
        (["--limit", "1"], ["failing"]),
        (["--status", "completed", "--pipeline", "both"], []),
    ],
)
def test_lists_are_filtered(arguments: list[str], listed: list[str], capsys: Captured) -> None:
    """Status, pipeline, times and a number of runs narrow a list."""
    begun(capsys, "paying", "both", "failing")

    assert [run["run_id"] for run in document(capsys, "list", *arguments)] == listed


def test_a_list_that_is_cut_says_so(capsys: Captured) -> None:
    """Whoever sees some of the runs is told that there are more."""
    begun(capsys, "paying", "both")

    assert lens(capsys, "list", "--limit", "1").err == "the newest 1; --limit shows more\n"
    assert lens(capsys, "list", "--limit", "2").err == ""


def test_a_run_is_shown_as_a_tree(capsys: Captured) -> None:
    """Each step stands below the one around it, with what it took; what waits is asked again, and can be pasted."""
    begun(capsys, "both")

    ended = lens(capsys, "show", "bo")

    lines = ended.out.splitlines()
    assert "pipeline  both" in lines
    assert "file      flows.py:both" in lines
    table = rows(ended.out[ended.out.index("Step ") :])
    assert [row[:2] for row in table[:4]] == [
        ["pay", "completed"],
        ["step at 1", "waiting"],
        ["branch legal", "waiting"],
        ["pay press (branch press)", "completed"],
    ]
    assert table[4] == ["total", "paused", "$0.0002", "6"]
    assert lines[-2:] == ["waiting: step at 1/branch:legal/0 asks: Legal?", "answer: flujo resume both"]


def leaves(step: Any) -> list[Decimal]:
    """Return the costs of a step that are of nothing within it."""
    within = [cost for inner in step["steps"] for cost in leaves(inner)]
    return [*within, *(Decimal(call["cost"]) for call in step["calls"])] or [Decimal(step["cost"])]


def test_each_call_of_a_model_stands_below_its_step(capsys: Captured) -> None:
    """With its label, its tokens and its exact cost; an uncertain one says so, and all add up to the total."""
    begun(capsys, "asking")

    shown = rows(lens(capsys, "show", "asking").out)
    told = document(capsys, "show", "asking")

    calls = [["openai:a-model-with-a-very-long-name", "$0.0000001", "7"], ["call", "uncertain", "$0.02", "50"]]
    first = next(number for number, row in enumerate(shown) if row[0] == "ask")
    assert shown[first + 1 : first + 3] == calls
    assert shown[first + 5 : first + 7] == calls
    assert shown[-1][-2:] == ["$0.0401002", "117"]
    assert told["steps"][0]["calls"][1] == {"label": None, "cost": "0.02", "tokens": 50, "is_uncertain": True}
    assert sum(cost for step in told["steps"] for cost in leaves(step)) == Decimal(told["total_cost"])
    assert (told["cost_not_kept"], told["cost_not_charged"]) == ("0", "0")


def test_costs_stand_with_their_points_below_each_other(capsys: Captured) -> None:
    """However many digits they have; the names of models are whole where there is room for them."""
    begun(capsys, "asking")

    lines = lens(capsys, "show", "asking").out.splitlines()

    costs = [line for line in lines if "$" in line]
    assert len({line.index("$0") for line in costs}) == 1
    assert len({line.index("$0.") + 2 for line in costs if "$0." in line}) == 1


def test_the_calls_of_a_run_that_was_killed_are_shown(capsys: Captured) -> None:
    """What was answered, and what was in flight, which is no part of the total that is charged so far."""
    begun(capsys, "dying")

    lines = lens(capsys, "show", "dying", "--state-db", "killed.db").out
    told = document(capsys, "show", "dying", "--state-db", "killed.db")

    shown = rows(lines)
    assert ["openai:model", "$0.0031", "7"] in shown
    assert ["openai:model", "$0.01", "20"] in shown
    assert ["openai:model", "uncertain", "$0.02", "50"] in shown
    assert ["total", "running", "$0.0531001", "134"] in shown
    assert ["of it not charged yet", "$0.02", "50"] in shown
    total = Decimal(told["total_cost"]) + Decimal(told["cost_not_charged"])
    assert sum(cost for step in told["steps"] for cost in leaves(step)) == total


def test_a_first_try_whose_fallback_was_stopped_is_shown(capsys: Captured) -> None:
    """What it cost is in the tree, and in the total."""
    begun(capsys, "falling")

    shown = rows(lens(capsys, "show", "falling").out)
    told = document(capsys, "show", "falling")

    assert told["status"] == "stopped"
    assert sum(cost for step in told["steps"] for cost in leaves(step)) == Decimal(told["total_cost"])
    assert [row[0] for row in shown].count("openai:a-model-with-a-very-long-name") == 1


def test_a_step_that_failed_says_why(capsys: Captured) -> None:
    """What a failed step was called, how often it was tried and why it failed is stored, whatever it cost."""
    begun(capsys, "failing")

    ended = lens(capsys, "show", "failing")
    (_, failed) = document(capsys, "show", "failing")["steps"]

    lines = ended.out.splitlines()
    assert ["fail", "failed", "2"] in [row[:3] for row in rows(ended.out)]
    assert lines[-2:] == ["failed: step 'fail' at 1: ValueError: no", "go on: flujo resume failing"]
    assert (failed["name"], failed["attempts"], failed["feedback"]) == ("fail", 2, "ValueError: no")


def test_a_document_of_a_run_has_everything(capsys: Captured) -> None:
    """Exact costs, the tree with the outputs as they are stored, and what is waited for."""
    begun(capsys, "both", "drafting")

    shown = document(capsys, "show", "both")
    draft = document(capsys, "show", "drafting")

    assert (shown["status"], shown["total_cost"], shown["total_tokens"], shown["input"]) == ("paused", "0.0002", 6, "x")
    assert shown["waiting"] == [{"path": ["1", "branch:legal", "0"], "message": "Legal?"}]
    assert [step["cost"] for step in shown["steps"]] == ["0.0001", "0.0001"]
    assert draft["steps"][0]["output"]["v"] == {"text": "x"}


def test_many_steps_are_counted_and_not_all_shown(capsys: Captured) -> None:
    """Of a long map the first items are shown to people, and what the others cost; `--all` and JSON have them all."""
    begun(capsys, "mapped", text=" ".join("abc" * 10))

    shown = lens(capsys, "show", "mapped").out

    assert ["and 10 more", "$0.001", "30"] in rows(shown)
    assert "each" in shown
    assert len(rows(lens(capsys, "show", "mapped", "--all").out)) == len(rows(shown)) + 9
    assert len(document(capsys, "show", "mapped")["steps"][1]["steps"]) == 30


def test_a_trace_is_a_timeline(capsys: Captured) -> None:
    """Beginning, ends, questions and answers stand in the order in which they happened."""
    begun(capsys, "both")

    ended = lens(capsys, "trace", "both")
    events = document(capsys, "trace", "both")["events"]

    assert [event["event"] for event in events] == ["began", "ended", "ended", "asked", "ended"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert "step at 1/branch:legal/0 asks: Legal?" in ended.out
    assert "the run ended: paused" in ended.out


def test_a_trace_tells_when_what_is_within_a_finished_step_ended(capsys: Captured) -> None:
    """Each item of a map has its moment, before that of the map, though the map's entry took their place."""
    begun(capsys, "mapped", text=" ".join("abc"))

    events = document(capsys, "trace", "mapped")["events"]
    shown = rows(lens(capsys, "trace", "mapped").out)

    names = [event["name"] for event in events if "name" in event]
    assert names == ["split", "pay", "pay", "pay", "each"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert [row[1] for row in shown[2:6]] == [*(["pay completed"] * 3), "each completed, 3 steps within"]


def test_statistics_are_by_pipeline_and_step(capsys: Captured) -> None:
    """Counts, exact sums and percentiles of durations, of runs and of steps at every depth."""
    begun(capsys, "paying", "failing", "mapped")
    for number in range(3):
        Path("flows.py").write_text(FLOWS)
        flujo_afresh(capsys, "run", "flows.py:paying", "--input", "x", "--run-id", str(number))

    stats = {each["name"]: each for each in document(capsys, "stats")}
    shown = lens(capsys, "stats").out

    assert (stats["paying"]["count"], stats["paying"]["cost"]) == (4, "0.0008")
    assert stats["failing"]["statuses"] == {"failed": 1}
    assert [(step["name"], step["count"], step["cost"]) for step in stats["paying"]["steps"]] == [
        ("pay", 4, "0.0004"),
        ("again", 4, "0.0004"),
    ]
    assert 0 < stats["paying"]["p50_s"] <= stats["paying"]["p99_s"]
    assert ["paying", "4", "4", "$0.0008", "24"] in [row[:5] for row in rows(shown)]


def test_a_long_list_is_one_query(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs there are, one statement reads their rows, and no journal is opened."""
    begun(capsys, "paying", "both", "failing")
    statements: list[str] = []
    connect = sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)

    assert len(document(capsys, "list")) == 3
    assert sum("FROM runs" in statement for statement in statements) == 1
    assert not any("journal " in statement for statement in statements if "SELECT" in statement)


def test_nothing_of_the_user_is_imported(capsys: Captured) -> None:
    """Values of the user's own types are shown where the types are unknown."""
    begun(capsys, "drafting")

    assert lens(capsys, "show", "drafting").code == ExitCode.SUCCESS
    assert "flows" not in sys.modules


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["show", "absent"], "no run 'absent' is stored here"),
        (["trace", "absent"], "no run 'absent' is stored here"),
        (["list", "--since", "soon"], "--since is 'soon'; give a date such as"),
        (["list", "--limit", "0"], "Must be >= 1"),
        (["list", "--state-db", "other.db"], "there is no file other.db"),
    ],
)
def test_what_cannot_be_shown_is_one_line(arguments: list[str], reason: str, capsys: Captured) -> None:
    """A run that is not there and a time that is none are wrong usage."""
    begun(capsys, "paying")

    ended = lens(capsys, *arguments)

    assert ended.code == ExitCode.WRONG_USAGE
    assert reason in ended.error


def test_an_empty_list_says_so(capsys: Captured) -> None:
    """People are told that there is nothing; a document is an empty list."""
    SQLiteBackend("empty.db")
    begun(capsys, "paying")

    assert lens(capsys, "list", "--status", "aborted").err == "no such runs are stored here\n"
    assert document(capsys, "list", "--status", "aborted") == []
    assert lens(capsys, "stats", "--status", "aborted").err == "no such runs are stored here\n"


def test_what_is_damaged_is_not_shown_as_if_it_were_true(capsys: Captured) -> None:
    """A damaged record is called damaged in the list, and neither it nor a damaged entry is shown in detail."""
    begun(capsys, "paying", "both")
    with sqlite3.connect(".flujo/runs.db") as connection:
        connection.execute("UPDATE runs SET total_cost = '5' WHERE run_id = 'paying'")
        connection.execute("UPDATE journal SET payload = replace(payload, '0.0001', '0.0009') WHERE id >> 32 = 2")
    connection.close()

    listed = {row[0]: row[2] for row in rows(lens(capsys, "list").out)}
    record, entry = lens(capsys, "show", "paying"), lens(capsys, "show", "both")

    assert listed == {"both": "paused", "paying": "damaged"}
    assert (record.code, entry.code) == (ExitCode.FAILED, ExitCode.FAILED)
    assert record.error == "the record of run 'paying' is damaged in the store; flujo doctor says more"
    assert entry.error == "the entry of step 0 of run 'both' is damaged in the store; flujo doctor says more"
