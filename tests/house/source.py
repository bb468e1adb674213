"""Reads a package's modules, to check rules on them without importing them."""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(slots=True, frozen=True)
class SourceModule:
    """One module as it is written."""

    name: str
    """Its dotted name; a package's is the package's, without `__init__`."""
    is_package: bool
    tree: ast.Module = field(repr=False)

    @classmethod
    def from_text(cls, name: str, text: str, *, is_package: bool = False) -> "SourceModule":
        """Parse a module."""
        return cls(name, is_package, ast.parse(text))

    @property
    def is_public(self) -> bool:
        """Whether users may import it: no part of its name begins with an underscore."""
        parts = self.name.split(".")
        return not any(part.startswith("_") for part in parts if part != "__main__")

    def at(self, node: ast.stmt | ast.expr | ast.ExceptHandler) -> str:
        """Say where a node stands, for a message."""
        return f"{self.name}:{node.lineno}"


def read_package(root: Path, package: str) -> list[SourceModule]:
    """Parse every module of the package that lies in the directory `root`, ordered by name."""
    return sorted(
        (_read(root, path) for path in (root / package).rglob("*.py")),
        key=lambda module: module.name,
    )


def _read(root: Path, path: Path) -> SourceModule:
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    return SourceModule.from_text(name, path.read_text(encoding="utf-8"), is_package=is_package)


def functions(tree: ast.AST) -> Iterable[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
