"""How `flujo run` ends, what it prints where, and what it takes."""

import json
from pathlib import Path
from typing import Any

import pytest

from flujo.cli.exit_codes import ExitCode
from tests.cli.command import flujo, flujo_process

Captured = pytest.CaptureFixture[str]


def table_of(text: str) -> dict[str, list[str]]:
    """Read the table of a run: the cells of each row by its label."""
    lines = text[text.index("Step ") :].splitlines()
    rows = [[cell for cell in line.split("  ") if cell.strip()] for line in lines if not line.startswith("error: ")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_a_completed_run_prints_its_output_and_what_it_took(workflows: Path, capsys: Captured) -> None:
    """The output alone is on stdout; progress, the workflow's own prints and the table are on stderr."""
    ended = flujo(capsys, "run", f"{workflows}:shouting", "--input", "hello")

    table = table_of(ended.err)
    assert (ended.code, ended.out) == (ExitCode.SUCCESS, "HELLO\n")
    run, *rest = ended.err.splitlines()
    assert run.startswith("run ")
    assert rest[:4] == ["[1/2] shout", "from the workflow", "[2/2] again", "from the workflow"]
    assert list(table) == ["Step", "shout", "again", "total"]
    assert table["shout"][:2] == ["completed", "1"]


def test_a_failed_run_says_why(workflows: Path, capsys: Captured) -> None:
    """The reason is the last line, the table shows what did not start, and stdout is empty."""
    ended = flujo(capsys, "run", f"{workflows}:failing", "--input", "x")

    table = table_of(ended.err)
    assert (ended.code, ended.out) == (ExitCode.FAILED, "")
    assert ended.err.splitlines()[-1] == "error: step 'fail' failed after 3 attempts: ValueError: no such model"
    assert table["fail"][:2] == ["failed", "3"]
    assert table["never"] == ["not started"]


def test_a_run_that_waits_says_what_is_asked(workflows: Path, capsys: Captured) -> None:
    """A question is on stderr with the step that asks it."""
    ended = flujo(capsys, "run", f"{workflows}:asking", "--input", "x", "--run-id", "one")

    assert (ended.code, ended.out) == (ExitCode.WAITING, "")
    assert ended.err.splitlines()[-2:] == ["waiting: step 'ask' at 1 asks: may I?", "answer: flujo resume one"]


@pytest.mark.parametrize(
    ("target", "arguments", "reason"),
    [
        ("paying", ["--limit-usd", "0.75"], "the run passed its limit of $0.75: $1 spent"),
        ("paying", ["--limit-tokens", "15"], "the run passed its limit of 15 tokens: 20 spent"),
        ("limited", [], "the run passed its limit of 15 tokens: 20 spent"),
        ("limited", ["--limit-usd", "100"], "the run passed its limit of 15 tokens: 20 spent"),
        ("paying", ["--limit-usd", "0"], "the run passed its limit of $0: $0.5 spent"),
    ],
    ids=["dollars", "tokens", "own", "own and flag", "zero"],
)
def test_a_limit_stops_a_run(target: str, arguments: list[str], reason: str, workflows: Path, capsys: Captured) -> None:
    """The limit and what was spent are said, and the table shows what was paid for."""
    ended = flujo(capsys, "run", f"{workflows}:{target}", "--input", "x", *arguments)

    assert (ended.code, ended.out) == (ExitCode.LIMIT, "")
    assert ended.err.splitlines()[-1] == f"error: {reason}"
    assert table_of(ended.err)["pay"][-2:] == ["$0.5", "10"]
    assert table_of(ended.err)["pay more"] == ["not started"]


def test_a_flag_replaces_the_limit_of_the_file(workflows: Path, capsys: Captured) -> None:
    """A limit on the command line wins over the same one of the workflow's own runner."""
    ended = flujo(capsys, "run", f"{workflows}:limited", "--input", "x", "--limit-tokens", "30")

    assert ended.code == ExitCode.SUCCESS


@pytest.mark.parametrize(
    ("target", "arguments", "code", "status"),
    [
        ("shouting", [], ExitCode.SUCCESS, "completed"),
        ("failing", [], ExitCode.FAILED, "failed"),
        ("limited", [], ExitCode.LIMIT, "stopped"),
        ("asking", [], ExitCode.WAITING, "paused"),
        ("garbling", [], ExitCode.SUCCESS, "completed"),
        ("speaking", [], ExitCode.SUCCESS, "completed"),
    ],
)
def test_json_is_the_whole_result_whatever_the_status(
    target: str, arguments: list[str], code: ExitCode, status: str, workflows: Path, tmp_path: Path
) -> None:
    """Stdout is one JSON document with the status, the history and the run's identity, and nothing else."""
    ended = flujo_process(
        "run", f"{workflows}:{target}", "--input", "x", "--json", "--run-id", "run-7", *arguments, folder=tmp_path
    )

    document = json.loads(ended.out)
    assert ended.code == code
    assert (document["run_id"], document["status"]) == ("run-7", status)
    assert document["success"] is (code == ExitCode.SUCCESS)
    assert document["final_pipeline_context"]["initial_prompt"] == "x"
    assert document["step_history"]
    assert [line for line in ended.err.splitlines() if line != "from the workflow" and line[:7] != "error: "] == []


def test_json_of_a_waiting_run_says_who_waits(workflows: Path, capsys: Captured) -> None:
    """The waiting step, its path and its question are in the document."""
    ended = flujo(capsys, "run", f"{workflows}:asking", "--input", "x", "--json")

    assert json.loads(ended.out)["waiting"] == [{"path": ["1"], "step_name": "ask", "message": "may I?"}]


def test_money_is_exact_in_json(workflows: Path, capsys: Captured) -> None:
    """The exact sum is there beside the float."""
    document = json.loads(flujo(capsys, "run", f"{workflows}:paying", "--input", "x", "--json").out)

    assert (document["total_cost"], document["total_cost_usd"], document["total_tokens"]) == ("1.5", 1.5, 30)


@pytest.mark.parametrize(
    ("target", "text", "output"),
    [
        ("numbers", "21", "42\n"),
        ("orders", '{"item": "tea"}', '{\n  "item": "tea",\n  "count": 1\n}\n'),
        ("shouting", "", "\n"),
        ("shouting", "--why -not\n", "--WHY -NOT\n"),
        ("shouting", "a\r\nb", "A\r\nB\n"),
    ],
)
def test_the_input_is_read_as_the_first_step_takes_it(
    target: str, text: str, output: str, workflows: Path, capsys: Captured
) -> None:
    """A string is taken as it is, any other type as JSON; the output ends its line."""
    ended = flujo(capsys, "run", f"{workflows}:{target}", "--input", text)

    assert ended.code == ExitCode.SUCCESS
    assert ended.out.lstrip("\n") == output.lstrip("\n")


@pytest.mark.parametrize(
    ("target", "text", "reason"),
    [
        ("numbers", "many", "which takes int: Invalid JSON"),
        ("numbers", "[1]", "which takes int: Input should be a valid integer"),
        ("orders", '{"item": "tea", "count": "x"}', "count: Input should be a valid integer"),
        ("orders", '{"count": 2}', "item: Field required"),
        ("orders", "{item", "Invalid JSON"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(
    target: str, text: str, reason: str, workflows: Path, capsys: Captured
) -> None:
    """The step, the type it takes, the field and the reason are said in one line."""
    ended = flujo(capsys, "run", f"{workflows}:{target}", "--input", text)

    assert ended.code == ExitCode.WRONG_USAGE
    assert ended.error.startswith("the input does not fit step ")
    assert reason in ended.error


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["--context-data", '{"topic": "tea"}'], "x about tea, 1 pages\n"),
        (["--context-data", '{"topic": "tea", "pages": 3}'], "x about tea, 3 pages\n"),
        (["--context-file", "notes.json"], "x about rain, 1 pages\n"),
    ],
)
def test_fields_of_the_context_are_given(
    arguments: list[str], output: str, workflows: Path, tmp_path: Path, capsys: Captured
) -> None:
    """The fields come from the command line or from a file."""
    (tmp_path / "notes.json").write_text('{"topic": "rain"}')

    ended = flujo(capsys, "run", f"{workflows}:noted", "--input", "x", *arguments)

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, output)


def test_a_context_model_of_the_file_is_used(workflows: Path, capsys: Captured) -> None:
    """--context-model names the model for a pipeline that brings none."""
    ended = flujo(
        capsys, "run", f"{workflows}:shouting", "--input", "x", "--json", "--context-model", "Notes",
        "--context-data", '{"topic": "tea"}',
    )  # fmt: skip

    assert json.loads(ended.out)["final_pipeline_context"]["topic"] == "tea"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Notes lacks the required fields topic"),
        (["--context-data", '{"topic": 5}'], "topic"),
        (["--context-data", '{"topic": "tea", "page": 5}'], "'page'"),
        (["--context-data", "[1]"], "--context-data: give a JSON object"),
        (["--context-data", "{topic"], "--context-data: Invalid JSON"),
        (["--context-file", "absent.json"], "there is no file or folder absent.json"),
        (["--context-file", "absent.json", "--context-data", "{}"], "--context-data and --context-file"),
        (["--context-model", "Note"], "did you mean Notes?"),
        (["--context-model", "shout"], "shout is of type function, not a pydantic model"),
    ],
)
def test_a_context_that_does_not_do_is_refused(
    arguments: list[str], reason: str, workflows: Path, capsys: Captured
) -> None:
    """What is wrong with the context is said in one line, and nothing is run."""
    ended = flujo(capsys, "run", f"{workflows}:noted", "--input", "x", *arguments)

    assert ended.code == ExitCode.WRONG_USAGE
    assert reason in ended.error


def test_chunks_are_printed_as_they_come(workflows: Path, capsys: Captured) -> None:
    """With --stream the chunks are the output, which is not printed again."""
    ended = flujo(capsys, "run", f"{workflows}:speaking", "--input", "one two", "--stream")

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, "ONE TWO \n")


def test_a_last_step_that_does_not_stream_prints_its_output(workflows: Path, capsys: Captured) -> None:
    """With --stream a step without chunks gives its output at the end."""
    assert flujo(capsys, "run", f"{workflows}:shouting", "--input", "x", "--stream").out == "X\n"


def test_types_that_do_not_fit_are_refused_before_the_run(tmp_path: Path, capsys: Captured) -> None:
    """A pipeline whose steps do not fit is wrong usage, and none of its steps runs."""
    (tmp_path / "flow.py").write_text(
        "from flujo import Step\n"
        "def count(text: str) -> int:\n    print('ran')\n    return 1\n"
        "def shout(text: str) -> str:\n    return text\n"
        "pipeline = Step('count', count) >> Step('shout', shout)\n"
    )

    ended = flujo(capsys, "run", "flow.py", "--input", "x")

    assert ended.code == ExitCode.WRONG_USAGE
    assert ended.error == "step 'count' gives int, but step 'shout' takes str"


def outcome_of(document: dict[str, Any]) -> tuple[Any, ...]:
    """Return what two runs of the same workflow have in common."""
    return document["status"], document["output"], [each["name"] for each in document["step_history"]]


def test_the_same_input_gives_the_same_result_twice(workflows: Path, capsys: Captured) -> None:
    """A file can be run again in the same process."""
    first, second = (flujo(capsys, "run", f"{workflows}:shouting", "--input", "x", "--json").out for _ in range(2))

    assert outcome_of(json.loads(first)) == outcome_of(json.loads(second))
