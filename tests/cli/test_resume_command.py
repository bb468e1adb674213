"""How stored runs go on from the command line."""

import json
from pathlib import Path

import pytest

from flujo.cli.exit_codes import ExitCode
from tests.cli.command import Ended, flujo_afresh

Captured = pytest.CaptureFixture[str]

STORED = """
from pathlib import Path
from typing import Literal
from pydantic import BaseModel, Field
from flujo import Flujo, PipelineContext, SQLiteBackend, Step

class Review(BaseModel):
    ok: bool
    stars: int = Field(default=3, le=5)

class Notes(PipelineContext):
    topic: str

class Paid:
    cost_usd, token_counts = 0.5, 10
    def __init__(self, output): self.output = output

def effect(name):
    with Path("effects").open("a") as file:
        file.write(name + "\\n")

def pay(text: str):
    effect("pay")
    return Paid(text.upper())

def rate(review: Review) -> str:
    return f"{review.stars} stars"

def fail_once(text: str) -> str:
    effect("try")
    if Path("effects").read_text().count("try") == 1:
        raise ValueError("not yet")
    return text + "!"

def tell(text: str, context: Notes) -> str:
    return f"{context.topic}: {text}"

async def speak(text: str):
    yield text
    yield "?"

class Opaque:
    pass

def make_opaque(text: str):
    return Opaque()

asking = Step("pay", pay) >> Step.human_in_the_loop("ask", "may I?") >> Step("speak", speak)
rating = Step("pay", pay) >> Step.human_in_the_loop("rate", "how good?", input_schema=Review) >> Step("tell", rate)
both = Step.parallel("both", {
    "a": Step.human_in_the_loop("sign", "Legal?"),
    "b": Step.human_in_the_loop("print", "Press?", input_schema=Literal["yes", "no"]),
    "c": Step("pay", pay),
})
failing = Step("pay", pay, max_retries=0) >> Step("fail", fail_once, max_retries=0)
paying = Step("first", pay) >> Step("second", pay) >> Step("third", pay)
noted = Step.human_in_the_loop("ask", "why?") >> Step("tell", tell)
opaque = Step("pay", pay) >> Step("make", make_opaque)
own = Flujo(asking, state_backend=SQLiteBackend("own.db"))
"""


@pytest.fixture(autouse=True)
def stored(tmp_path: Path) -> Path:
    """Write the file of the workflows."""
    (tmp_path / "flows.py").write_text(STORED, encoding="utf-8")
    return tmp_path


def begun(capsys: Captured, name: str, *arguments: str) -> Ended:
    """Start a run that is called like its workflow."""
    return flujo_afresh(capsys, "run", f"flows.py:{name}", "--input", "x", "--run-id", name, *arguments)


def effects() -> list[str]:
    """Return what the steps did, in order."""
    return Path("effects").read_text().split()


def test_an_answer_ends_a_run(capsys: Captured) -> None:
    """The file and the variable are found by the run alone; what finished is not run again."""
    begun(capsys, "asking")

    ended = flujo_afresh(capsys, "resume", "asking", "--answer", "yes")

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, "yes?\n")
    assert effects() == ["pay"]


def test_the_beginning_of_an_identity_is_enough(capsys: Captured) -> None:
    """A prefix names a run, unless several begin with it."""
    for run_id, name in {"failing": "failing", "fails": "rating", "paying": "paying"}.items():
        flujo_afresh(capsys, "run", f"flows.py:{name}", "--input", "x", "--run-id", run_id)

    assert flujo_afresh(capsys, "resume", "pay").code == ExitCode.SUCCESS
    assert "2 runs begin with 'fail': " in flujo_afresh(capsys, "resume", "fail").error
    assert flujo_afresh(capsys, "resume", "fails", "--answer", '{"ok": true}').code == ExitCode.SUCCESS


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        ('{"ok": true, "stars": 5}', ExitCode.SUCCESS, "5 stars"),
        ('{"ok": true}', ExitCode.SUCCESS, "3 stars"),
        ('{"ok": true, "stars": 6}', ExitCode.WRONG_USAGE, "stars: Input should be less than or equal to 5"),
        ('{"stars": 1}', ExitCode.WRONG_USAGE, "ok: Field required"),
        ("fine", ExitCode.WRONG_USAGE, "Invalid JSON"),
    ],
)
def test_an_answer_is_read_by_its_schema(answer: str, code: ExitCode, told: str, capsys: Captured) -> None:
    """JSON becomes what the step asks for; what does not fit is refused, and the run still waits."""
    begun(capsys, "rating")

    ended = flujo_afresh(capsys, "resume", "rating", "--answer", answer)

    assert ended.code == code
    assert told in ended.out + ended.err
    assert flujo_afresh(capsys, "resume", "rating", "--answer", '{"ok": true}').code == (
        ExitCode.WRONG_USAGE if code == ExitCode.SUCCESS else ExitCode.SUCCESS
    )


def test_several_waiting_steps_are_answered_by_path(capsys: Captured) -> None:
    """Without a path all that wait are named; each answer is taken once, and the last one ends the run."""
    begun(capsys, "both")

    unclear = flujo_afresh(capsys, "resume", "both", "--answer", "yes")
    first = flujo_afresh(capsys, "resume", "both", "--answer", "yes", "--path", "0/branch:b/0")
    again = flujo_afresh(capsys, "resume", "both", "--answer", "yes", "--path", "0/branch:b/0")
    nowhere = flujo_afresh(capsys, "resume", "both", "--answer", "yes", "--path", "7")
    last = flujo_afresh(capsys, "resume", "both", "--answer", "fine", "--json")

    assert unclear.code == ExitCode.WRONG_USAGE
    assert "step 'sign' at 0/branch:a/0 asks: Legal?; step 'print' at 0/branch:b/0 asks: Press?" in unclear.error
    assert (first.code, again.code, nowhere.code) == (ExitCode.WAITING, ExitCode.WRONG_USAGE, ExitCode.WRONG_USAGE)
    assert "has been answered already" in again.error
    assert "nobody waits at" in nowhere.error
    assert json.loads(last.out)["output"] == {"a": "fine", "b": "yes", "c": "X"}
    assert effects() == ["pay"]


def test_nobody_at_the_terminal_cannot_be_asked(capsys: Captured) -> None:
    """Without a terminal and an answer, a run that waits is left alone, and what it asks is said."""
    begun(capsys, "asking")

    ended = flujo_afresh(capsys, "resume", "asking")

    assert (ended.code, ended.out) == (ExitCode.WAITING, "")
    assert ended.error == "step 'ask' at 1 asks: may I?; answer it with --answer"


def test_a_failed_run_is_tried_again(capsys: Captured) -> None:
    """A run that does not wait goes on at the step that failed."""
    assert begun(capsys, "failing").code == ExitCode.FAILED

    ended = flujo_afresh(capsys, "resume", "failing")

    assert (ended.code, ended.out) == (ExitCode.SUCCESS, "X!\n")
    assert effects() == ["pay", "try", "try"]


def test_a_finished_run_gives_its_result_again(capsys: Captured) -> None:
    """Its output is printed, nothing is run, and an answer is refused."""
    begun(capsys, "paying")

    again = flujo_afresh(capsys, "resume", "paying")

    assert (again.code, again.out) == (ExitCode.SUCCESS, "X\n")
    assert effects() == ["pay"] * 3
    assert "does not wait for an answer" in flujo_afresh(capsys, "resume", "paying", "--answer", "x").error
    assert begun(capsys, "paying").out == "X\n"
    assert effects() == ["pay"] * 3


def test_a_limit_that_was_a_flag_holds_until_another_is_given(capsys: Captured) -> None:
    """Resuming lifts no limit by itself, and nothing more is paid under it."""
    begun(capsys, "paying", "--limit-usd", "0.75")

    same = flujo_afresh(capsys, "resume", "paying")
    more = flujo_afresh(capsys, "resume", "paying", "--limit-usd", "2")

    assert (same.code, more.code) == (ExitCode.LIMIT, ExitCode.SUCCESS)
    assert "go on, with a larger limit: flujo resume paying" in same.err.splitlines()
    assert effects() == ["pay"] * 3


def test_the_context_model_is_remembered(capsys: Captured) -> None:
    """A run with `--context-model` goes on with that model and the data it began with."""
    begun(capsys, "noted", "--context-model", "Notes", "--context-data", '{"topic": "tea"}')

    assert flujo_afresh(capsys, "resume", "noted", "--answer", "thirst").out == "tea: thirst\n"


def test_a_file_that_is_gone_is_named(stored: Path, capsys: Captured) -> None:
    """The run goes on once the file's new place is given."""
    begun(capsys, "asking")
    (stored / "new").mkdir()
    (stored / "flows.py").rename(stored / "new" / "flows.py")

    gone = flujo_afresh(capsys, "resume", "asking", "--answer", "yes")
    found = flujo_afresh(capsys, "resume", "asking", "new/flows.py:asking", "--answer", "yes")

    assert gone.code == ExitCode.WRONG_USAGE
    assert gone.error.startswith("the file of run 'asking' is gone: flows.py; name where the workflow is now")
    assert (found.code, found.out) == (ExitCode.SUCCESS, "yes?\n")


def test_a_changed_workflow_is_refused_unless_allowed(stored: Path, capsys: Captured) -> None:
    """A finished step that is another one now is named, and `--allow-changes` goes on."""
    begun(capsys, "asking")
    changed = STORED.replace('asking = Step("pay", pay)', 'asking = Step("charge", pay)')
    (stored / "flows.py").write_text(changed)

    refused = flujo_afresh(capsys, "resume", "asking", "--answer", "yes")
    allowed = flujo_afresh(capsys, "resume", "asking", "--answer", "yes", "--allow-changes")

    assert refused.code == ExitCode.WRONG_USAGE
    assert "step 'charge' is another one now" in refused.error
    assert refused.error.endswith("(here: --allow-changes)")
    assert allowed.code == ExitCode.SUCCESS


def test_a_value_that_cannot_be_stored_is_one_line(capsys: Captured) -> None:
    """The type is named with the call that registers it; `--no-state` runs without a store."""
    ended = begun(capsys, "opaque", "--state-db", "named.db")

    assert ended.code == ExitCode.FAILED
    assert ended.err.splitlines()[-1].startswith("error: output is a Opaque, which flujo cannot store; call register_")
    assert ended.err.splitlines()[-1].endswith("; or keep nothing, with --no-state")
    assert begun(capsys, "opaque", "--no-state").code == ExitCode.SUCCESS


def test_a_workflow_with_a_store_of_its_own_is_resumed_by_its_file(capsys: Captured) -> None:
    """What is said at the pause can be pasted: it names the file."""
    paused = begun(capsys, "own")

    assert paused.err.splitlines()[-1] == "answer: flujo resume own flows.py:own"
    assert flujo_afresh(capsys, "resume", "own", "flows.py:own", "--answer", "a").out == "a?\n"
    assert not Path(".flujo").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["resume", "absent"], "no runs are stored: there is no file .flujo/runs.db"),
        (["resume", "absent", "--state-db", "x.db"], "no runs are stored: there is no file x.db"),
        (["resume", "x", "--json", "--stream"], "--json and --stream are both given"),
        (["run", "flows.py:asking", "--input", "x", "--state-db", "x", "--no-state"], "--state-db and --no-state"),
        (["run", "flows.py:asking", "--input", "x", "--state-db", "no/x.db"], "there is no folder no"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], reason: str, capsys: Captured) -> None:
    """What cannot be done says why, before anything is run."""
    ended = flujo_afresh(capsys, *arguments)

    assert ended.code == ExitCode.WRONG_USAGE
    assert reason in ended.error
    assert not Path("effects").exists()


def test_an_unknown_run_is_wrong_usage(capsys: Captured) -> None:
    """A run that is not stored is said to be none, with the command that lists those that are."""
    begun(capsys, "asking")

    assert (
        flujo_afresh(capsys, "resume", "other").error
        == "no run 'other' is stored here; flujo lens list shows those that are"
    )


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_the_database_can_be_named(source: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag, a variable and `flujo.toml` name the database, and nothing is made elsewhere."""
    flags = ["--state-db", "named.db"] if source == "flag" else []
    if source == "environment":
        monkeypatch.setenv("FLUJO_STATE_DB", "named.db")
    if source == "file":
        Path("flujo.toml").write_text('[run]\nstate_db = "named.db"\n')

    paused = begun(capsys, "asking", *flags)

    assert paused.err.splitlines()[-1] == " ".join(["answer: flujo resume asking", *flags])
    assert flujo_afresh(capsys, "resume", "asking", "--answer", "a", *flags).code == ExitCode.SUCCESS
    assert Path("named.db").exists()
    assert not Path(".flujo").exists()


def test_the_project_keeps_its_runs_in_one_place(
    stored: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a `flujo.toml` the database is the same in every folder below; git does not see it."""
    (stored / "flujo.toml").write_text("")
    begun(capsys, "asking")
    (stored / "below").mkdir()
    monkeypatch.chdir(stored / "below")

    assert flujo_afresh(capsys, "resume", "asking", "--answer", "a").code == ExitCode.SUCCESS
    assert (stored / ".flujo" / ".gitignore").read_text() == "*\n"
    assert not (stored / "below" / ".flujo").exists()
