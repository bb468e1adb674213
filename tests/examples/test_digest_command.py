"""The digest example, run by the command that the README shows."""

import json
from pathlib import Path

import pytest

from flujo.cli.exit_codes import ExitCode
from tests.cli.command import flujo, flujo_process, imports_forgotten
from tests.examples.texts import long_manual

REPOSITORY = Path(__file__).parent.parent.parent
STEPS = ["split", "summarise parts", "refine", "lay out"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep no runs in the repository."""
    monkeypatch.setenv("FLUJO_STATE_DB", str(tmp_path / "runs.db"))


def test_the_readme_is_digested() -> None:
    """The digest goes to stdout, and what each step took and cost to stderr."""
    ended = flujo_process("run", "examples/digest.py", "--input-file", "README.md", folder=REPOSITORY)

    assert ended.code == ExitCode.SUCCESS
    assert ended.out.startswith("# flujo\n\nflujo runs AI workflows")
    assert [line for line in ended.err.splitlines() if line.startswith("[")] == [
        f"[{number}/4] {name}" for number, name in enumerate(STEPS, 1)
    ]
    rows = [line.split("  ")[0] for line in ended.err.splitlines() if "completed" in line]
    assert [row for row in rows if row] == [*STEPS, "total"]
    assert "$0" in ended.err


def test_the_documentation_is_digested(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of documents is one text, whose chapters are the documents."""
    with imports_forgotten(REPOSITORY / "examples"):
        ended = flujo(capsys, "run", REPOSITORY / "examples/digest.py", "--input-file", REPOSITORY / "docs")

    assert ended.code == ExitCode.SUCCESS
    assert ended.out.count("\n## ") > 3
    assert 200 < len(ended.out.split()) < 600


def test_machines_get_the_whole_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the run is one document: the output, the history and the context that the steps shared."""
    text = tmp_path / "manual.md"
    text.write_text(long_manual(20))

    with imports_forgotten(REPOSITORY / "examples"):
        ended = flujo(capsys, "run", REPOSITORY / "examples/digest.py", "--input-file", text, "--json")

    document = json.loads(ended.out)
    assert ended.err == ""
    assert [each["name"] for each in document["step_history"]] == STEPS
    assert document["output"].startswith("# The town")
    assert len(document["step_history"][1]["step_history"]) == 20
    assert document["final_pipeline_context"]["title"] == "The town"
