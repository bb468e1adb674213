"""The type checkers find the mistakes they should find, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import REPOSITORY

MISTAKES = Path(__file__).with_name("mistakes.py")
_DIRECTIVES = 2  # the lines that keep the checkers quiet when they read the whole repository
_CHECKERS = {
    "mypy": ["-m", "mypy", "--output=json"],
    "pyright": ["-m", "pyright", "--outputjson"],
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[int] | None]:
    """The lines that each checker complains about, from one run of both side by side; `None` if it does not start."""
    path = tmp_path_factory.mktemp("typing") / "mistakes.py"
    lines = MISTAKES.read_text().splitlines(keepends=True)
    path.write_text("\n" * _DIRECTIVES + "".join(lines[_DIRECTIVES:]))
    running = {
        name: subprocess.Popen(
            [sys.executable, *command, str(path)],
            cwd=REPOSITORY,
            env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name, command in _CHECKERS.items()
    }
    said = {name: process.communicate()[0].decode() for name, process in running.items()}
    return {"mypy": _mypy_lines(said["mypy"]), "pyright": _pyright_lines(said["pyright"])}


def _mypy_lines(said: str) -> set[int]:
    found = [json.loads(line) for line in said.splitlines()]
    return {complaint["line"] for complaint in found if complaint["severity"] == "error"}


def _pyright_lines(said: str) -> set[int] | None:
    if not said.lstrip().startswith("{"):
        return None  # it runs on Node.js, which it has to download where there is none
    found = json.loads(said)["generalDiagnostics"]
    return {
        complaint["range"]["start"]["line"] + 1  # pyright counts from 0
        for complaint in found
        if complaint["severity"] == "error" and complaint.get("rule") not in _NOT_ASKED
    }


_NOT_ASKED = {"reportUnusedExpression"}  # the mistakes are written as statements


@pytest.mark.timeout(180)  # a checker without a cache reads all of pydantic first
@pytest.mark.parametrize("checker", list(_CHECKERS))
def test_a_checker_finds_every_mistake(complaints: dict[str, set[int] | None], checker: str) -> None:
    """Each mistake is reported on its line, and right code is not."""
    found = complaints[checker]
    if found is None:
        pytest.skip(f"{checker} does not start on this machine")
    lines = MISTAKES.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}

    missed = [lines[number - 1].strip() for number in sorted(wrong - found)]
    too_strict = [lines[number - 1].strip() for number in sorted(found - wrong)]

    assert missed == []
    assert too_strict == []
    assert len(wrong) > 90
