"""The architecture pages and their picture name what is in the code."""

import re
from pathlib import Path

import pytest

from tests.house.source import REPOSITORY

_ARCHITECTURE = REPOSITORY / "docs" / "architecture"
_PAGES = sorted(path for path in _ARCHITECTURE.iterdir() if path.suffix in (".md", ".svg"))
_MODULE = re.compile(r"`((?:flujo/[\w/]*)?\w+\.py)`")
_NAME = re.compile(r"\b(_handle_\w+_step|_?[A-Z][a-z]+[A-Z]\w+(?:\.[a-z_]+)?)\b")
_NOT_CODE = re.compile(r"^```python$.*?^```$|<style>.*?</style>", re.MULTILINE | re.DOTALL)
_CODE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "flujo").rglob("*.py")))


def _name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_every_module_that_is_named_exists(page: Path) -> None:
    """A module is named by its path, or by its file name alone."""
    named = set(_MODULE.findall(page.read_text(encoding="utf-8")))
    there = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "flujo").rglob("*.py")}

    lost = {name for name in named if name not in there and not any(path.endswith(f"/{name}") for path in there)}

    assert lost == set()


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_every_class_and_handler_that_is_named_exists(page: Path) -> None:
    """What a page names is defined in the package: classes and handlers, and the methods and attributes of classes."""
    names: list[str] = _NAME.findall(_NOT_CODE.sub("", page.read_text(encoding="utf-8")))
    named = {part for name in names for part in name.split(".")}

    lost = {
        name
        for name in named
        if not re.search(rf"^\s*(?:(?:async )?def |class ){name}\b|^\s*{name}\b.*[:=]", _CODE, re.M)
    }

    assert lost == set()
