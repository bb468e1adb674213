"""`flujo show` and `flujo validate`: a workflow drawn, and a workflow checked."""

import json
from pathlib import Path

import pytest

from flujo.cli.exit_codes import ExitCode
from tests.cli.command import flujo

Captured = pytest.CaptureFixture[str]
EVERYTHING = """
print("importing")
from flujo import Flujo, RefinementCheck, Step

def same(text: str) -> str:
    return text

def check(text: str) -> RefinementCheck:
    return RefinementCheck(is_complete=True)

def many(text: str) -> list[str]:
    return [text]

same_step = Step("same", same)
pipeline = Flujo(
    Step("first", same).fallback(Step("rescue", same))
    >> Step.branch_on("choose", lambda text, _: "a", {"a": same_step, "b [x]": same_step}, Step("else", same))
    >> Step.loop_until("again", same_step, lambda text, _: True, max_loops=3)
    >> Step.refine_until("polish", same_step, Step("judge", check), max_refinements=2)
    >> Step("many", many)
    >> Step.map_over("each", same_step)
    >> Step.human_in_the_loop("ask", "may I?"),
    pipeline_name="everything",
)
"""


def test_a_tree_shows_every_step(tmp_path: Path, capsys: Captured) -> None:
    """The steps stand in order below each other, with what makes their kind."""
    (tmp_path / "flow.py").write_text(EVERYTHING)

    ended = flujo(capsys, "show", "flow.py")

    assert (ended.code, ended.err) == (ExitCode.SUCCESS, "importing\n")
    assert ended.out.splitlines() == [
        "everything",
        "├── first",
        "│   └── fallback: rescue",
        "├── choose (conditional)",
        "│   ├── branch a",
        "│   │   └── same",
        "│   ├── branch b [x]",
        "│   │   └── same",
        "│   └── default",
        "│       └── else",
        "├── again (loop, at most 3 times)",
        "│   └── iteration",
        "│       └── same",
        "├── polish (refine, at most 2 times)",
        "│   ├── generator",
        "│   │   └── same",
        "│   └── critic",
        "│       └── judge",
        "├── many",
        "├── each (for each item)",
        "│   └── item",
        "│       └── same",
        "└── ask (waits for a person)",
    ]


def test_a_flowchart_has_a_node_for_each_step(tmp_path: Path, capsys: Captured) -> None:
    """The mermaid text names every step, and what means something to mermaid is escaped."""
    (tmp_path / "flow.py").write_text(EVERYTHING)

    ended = flujo(capsys, "show", "flow.py", "--format", "mermaid")

    lines = ended.out.splitlines()
    assert lines[0] == "flowchart TD"
    for label in ("first", "rescue", "choose", "else", "same", "judge", "many", "ask"):
        assert f'"{label}"' in ended.out
    assert '|"b #91;x#93;"|' in ended.out
    assert sum(line.strip().startswith("subgraph") for line in lines) == sum(line.strip() == "end" for line in lines)


def test_a_valid_workflow_is_said_to_be(workflows: Path, capsys: Captured) -> None:
    """What may run is one line and code 0."""
    ended = flujo(capsys, "validate", f"{workflows}:noted")

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, "flows.py:noted is valid: 1 step, 0 warnings\n")


@pytest.mark.parametrize("arguments", [[], ["--json"]], ids=["lines", "json"])
def test_every_mistake_of_a_workflow_is_said(arguments: list[str], tmp_path: Path, capsys: Captured) -> None:
    """What a run would refuse is on stdout, all of it, with code 2."""
    (tmp_path / "flow.py").write_text(
        "from flujo import Step\n"
        "def count(text: str) -> int:\n    return 1\n"
        "def shout(text: str) -> str:\n    return text\n"
        "pipeline = Step('a', count) >> Step('b', shout) >> Step('c', count) >> Step('d', shout)\n"
    )

    ended = flujo(capsys, "validate", "flow.py", *arguments)

    messages = ["step 'a' gives int, but step 'b' takes str", "step 'c' gives int, but step 'd' takes str"]
    assert (ended.code, ended.err) == (ExitCode.WRONG_USAGE, "")
    if arguments:
        document = json.loads(ended.out)
        assert document["is_valid"] is False
        assert [each["message"] for each in document["errors"]] == messages
        assert [each["step_name"] for each in document["errors"]] == ["b", "d"]
    else:
        assert ended.out.splitlines() == [f"error: {message}" for message in messages]
