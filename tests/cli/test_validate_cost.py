"""`flujo validate --cost`: what a run can cost at the most."""

import json
from pathlib import Path

import pytest

from flujo.cli.exit_codes import ExitCode
from tests.cli.command import flujo

FLOW = """
from flujo import Flujo, Step, UsageLimits


async def look_up(word):
    return word


async def ask(text, *, meter):
    return text


paid = Step("look up", look_up, max_cost_usd=0.002, max_retries=2)
again = Step("again", look_up, max_cost_usd=0.002, max_retries=2)
asked = Step("ask", ask)
chosen = Step.branch_on("choose", lambda text, context: "a", {"a": paid, "b": paid >> again})
pipeline = paid >> chosen >> Step.map_over("every", paid, max_items=50)
open_ended = asked >> Step("look", look_up)
metered = Flujo(asked, usage_limits=UsageLimits(total_cost_usd_limit=0.25))
unlimited = Flujo(asked)
broken = Step("todo") >> paid
"""

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def flow(tmp_path: Path) -> None:
    """Write a file with workflows."""
    (tmp_path / "flow.py").write_text(FLOW)


def test_the_ceiling_is_shown_by_step(capsys: Captured) -> None:
    """Steps are indented below those that they are within, and the whole comes last."""
    ended = flujo(capsys, "validate", "flow.py", "--cost")

    assert (ended.code, ended.err) == (ExitCode.SUCCESS, "")
    assert [line.rstrip() for line in ended.out.splitlines()] == [
        "flow.py is valid: 3 steps, 0 warnings",
        "Step                     At most  Because",
        "pipeline                  $0.318  3 steps",
        "  look up                 $0.006  3 attempts of $0.002",
        "  choose                  $0.012  the dearest of 2 branches",
        "    look up (branch a)    $0.006  3 attempts of $0.002",
        "    pipeline (branch b)   $0.012  2 steps",
        "      look up             $0.006  3 attempts of $0.002",
        "      again               $0.006  3 attempts of $0.002",
        "  every                     $0.3  max_items=50",
        "    look up (item)        $0.006  3 attempts of $0.002",
        "a run costs at most $0.318",
    ]


def test_what_is_unbounded_is_no_error(capsys: Captured) -> None:
    """Each reason is a line of its own, with the step and what to do, and the run may start."""
    ended = flujo(capsys, "validate", "flow.py:open_ended", "--cost")

    lines = ended.out.splitlines()
    assert ended.code == ExitCode.SUCCESS
    assert [" ".join(line.split()) for line in lines[2:5]] == [
        "pipeline unbounded 2 steps",
        "ask unbounded unknown",
        "look unbounded unknown",
    ]
    assert [line.partition(";")[0] for line in lines[5:]] == [
        "unbounded: step 'ask' at 0: its agent may ask as often and as much as it likes",
        "unbounded: step 'look' at 1: its agent may report any cost",
    ]


@pytest.mark.parametrize(
    ("name", "limit", "whole"),
    [
        ("metered", "", "a run costs at most $0.25"),
        ("metered", "0.1", "a run costs at most $0.1"),
        ("unlimited", "0.5", "a run costs at most $0.5"),
    ],
)
def test_limits_of_the_run_count(
    name: str, limit: str, whole: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of the Flujo in the file, and over them those of the environment."""
    if limit:
        monkeypatch.setenv("FLUJO_LIMIT_USD", limit)

    ended = flujo(capsys, "validate", f"flow.py:{name}", "--cost")

    assert ended.out.splitlines()[-1] == whole


def test_the_ceiling_as_json_is_exact(capsys: Captured) -> None:
    """Amounts are text, `null` is no bound, and without `--cost` there is no ceiling."""
    bounded = json.loads(flujo(capsys, "validate", "flow.py:paid", "--cost", "--json").out)
    unbounded = json.loads(flujo(capsys, "validate", "flow.py:asked", "--cost", "--json").out)["cost_ceiling"]
    plain = json.loads(flujo(capsys, "validate", "flow.py:paid", "--json").out)

    assert bounded["cost_ceiling"] == {
        "usd": "0.006",
        "by_step": [
            {
                "path": ["0"],
                "step_name": "look up",
                "basis": "3 attempts of $0.002",
                "usd": "0.006",
                "unbounded": None,
            }
        ],
        "unbounded": [],
    }
    assert unbounded["usd"] is None
    assert unbounded["unbounded"] == [f"step 'ask' at 0: {unbounded['by_step'][0]['unbounded']}"]
    assert "cost_ceiling" not in plain


def test_a_workflow_that_may_not_run_is_refused_all_the_same(capsys: Captured) -> None:
    """Its errors come first, and decide the exit code."""
    ended = flujo(capsys, "validate", "flow.py:broken", "--cost")

    lines = ended.out.splitlines()
    assert ended.code == ExitCode.WRONG_USAGE
    assert lines[0] == "error: step 'todo' has no agent; give it one with Step(name, agent)"
    assert lines[-1] == "unbounded: step 'todo' at 0: it has no agent; give it one with Step(name, agent)"
