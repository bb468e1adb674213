"""Finds words that no file of the repository may contain."""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

REMOVED_MODULE = re.compile("step" + "_" + "logic")
"""The module that REQ-CORE-002 removed, in two pieces so that this file does not name it either."""

MACHINE_PATH = re.compile(r"(?<![\w.\-*}])/(?:(?:wor[k]|roo[t])/|opt/(?:pypi|wheels)\b)")
"""A path that exists on one machine only."""

REGISTRY_HOST = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|anaconda\.org)\b")
"""A host that packages come from: the reader's own settings choose it."""


def repository_files(repository: Path) -> list[Path]:
    """List what is committed or would be: tracked files, and untracked ones that are not ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = (repository / name for name in sorted(set(listing.stdout.split("\0"))) if name)
    return [path for path in paths if path.is_file()]


def occurrences(word: re.Pattern[str], files: Iterable[Path], *, within: Path) -> list[str]:
    """Find a word in the files and in their names, which begin below `within`."""
    found: list[str] = []
    for file in files:
        name = file.relative_to(within).as_posix()
        if word.search(name):
            found.append(f"{name}: the name")
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        found += [f"{name}:{number}" for number, line in enumerate(lines, 1) if word.search(line)]
    return found
