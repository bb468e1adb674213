"""The commands of the quickstart print what it says they print."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from tests.docs.pages import read_page
from tests.house.source import REPOSITORY

_QUICKSTART = REPOSITORY / "docs" / "quickstart.md"
_FILE = re.compile(r'^```python title="(?P<name>[^"]+)"\n(?P<code>.*?)^```$', re.MULTILINE | re.DOTALL)


def test_the_commands_print_what_the_page_says(tmp_path: Path) -> None:
    """Each command that a text block follows prints that text, run beside the files that the page has saved."""
    for file in _FILE.finditer(_QUICKSTART.read_text(encoding="utf-8")):
        (tmp_path / file["name"]).write_text(file["code"], encoding="utf-8")
    blocks = read_page(_QUICKSTART).blocks
    shown = [
        (command.code, text.code)
        for command, text in pairwise(blocks)
        if command.language == "sh" and text.language == "text"
    ]

    printed = [(command, _run(command, tmp_path)) for command, _ in shown]

    assert shown
    assert printed == shown


def _run(command: str, directory: Path) -> str:
    """Run a `flujo` command and return what it prints, with a line end at its end."""
    program, *arguments = shlex.split(command)
    assert program == "flujo"
    ran = subprocess.run(
        [sys.executable, "-m", "flujo.cli", *arguments],
        cwd=directory,
        check=True,
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env={"PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1", "COLUMNS": "100"},
    )
    return ran.stdout.rstrip("\n") + "\n"
