"""Finds public code that does not say what it is for."""

import ast
import inspect
import re
from collections.abc import Iterable, Mapping

from tests.house.source import SourceModule

_NEXT_SENTENCE = re.compile(r"(?<!e\.g)(?<!i\.e)[.!?]\s+[A-Z]")


def undescribed_modules(modules: Iterable[SourceModule]) -> list[str]:
    """Find the public modules that do not open with one sentence; an empty `__init__` need not."""
    return [
        f"{module.name} opens with {first_line!r}; it should be one sentence that says what it is for"
        for module in modules
        if module.is_public
        and module.tree.body
        and not is_one_sentence(first_line := _first_line(ast.get_docstring(module.tree)))
    ]


def undescribed_objects(exported: Mapping[str, object]) -> list[str]:
    """Find the classes and functions without a docstring of their own."""
    return [
        f"{name} has no docstring"
        for name, value in exported.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and not _is_described(value)
    ]


def is_one_sentence(line: str) -> bool:
    """Tell whether a line is one sentence, with its full stop."""
    return line.endswith((".", "?")) and not _NEXT_SENTENCE.search(line)


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0].strip()


def _is_described(value: object) -> bool:
    docstring = _first_line(value.__doc__)
    generated = inspect.isclass(value) and docstring.startswith(f"{value.__name__}(")  # by @dataclass
    return bool(docstring) and not generated
