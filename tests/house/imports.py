"""Which module imports which, and what breaks the layers.

An import of `flujo.steps.loop` also runs the `__init__` of `flujo.steps`, so it counts as an import of both.
Left out are the root's `__init__`, which always comes first, and those of the packages that the importer
is in: they run before it does, and may re-export it.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from tests.house.source import SourceModule, functions

ROOT = "flujo"

LAYERS: Sequence[Sequence[str]] = (
    ("flujo.domain.metering", "flujo.domain.models", "flujo.domain.money", "flujo.domain.results"),
    ("flujo.exceptions",),
    ("flujo.utils",),
    ("flujo.domain",),
    ("flujo.state", "flujo.cache", "flujo.telemetry", "flujo.agents"),
    ("flujo.application.core",),
    ("flujo.steps",),
    ("flujo.application",),
    ("flujo.testing", "flujo.bench", "flujo.cli", "flujo.__main__", ROOT),
)
"""The house, lowest layer first. The longest name that fits a module decides; the root stands for itself only."""

LAZY_IMPORTS: Mapping[str, Set[str]] = {
    "flujo.agents.making": {"flujo", "pydantic_ai"},
    "flujo.agents.model_agent": {"flujo", "pydantic_ai"},
    "flujo.agents.nested_runs": {"flujo"},
    "flujo.agents.prices": {"genai_prices"},
    "flujo.domain.prompts": {"jinja2"},
    "flujo.state.postgres": {"psycopg", "psycopg_pool"},
}
"""By module, the optional or heavy libraries that its functions may import: the one module that wraps them."""


@dataclass(slots=True, frozen=True)
class Import:
    """One module of the package imports another."""

    importer: str
    imported: str
    where: str
    implied: bool
    """The statement names a submodule; the `__init__` on the way there runs too."""


def imports_of(modules: Sequence[SourceModule]) -> list[Import]:
    """Find every import of one of the modules by another, wherever the statement stands."""
    known = {module.name for module in modules}
    return [found for module in modules for found in _imports_of(module, known)]


def _imports_of(module: SourceModule, known: Set[str]) -> Iterator[Import]:
    for node in ast.walk(module.tree):
        for target in _targets(module, node, known):
            assert isinstance(node, ast.stmt)
            yield Import(module.name, target, module.at(node), implied=False)
            for package in _packages_above(target):
                if package != ROOT and not _is_within(module.name, package):
                    yield Import(module.name, package, module.at(node), implied=True)


def _targets(module: SourceModule, node: ast.AST, known: Set[str]) -> Iterator[str]:
    """Yield the package's own modules that a statement names."""
    match node:
        case ast.Import(names=names):
            candidates = [[alias.name] for alias in names]
        case ast.ImportFrom(names=names):
            base = _absolute_base(module, node)
            candidates = [[f"{base}.{alias.name}", base] for alias in names]
        case _:
            return
    for names_of_one in candidates:
        target = next((name for name in names_of_one if name in known), None)
        if target is not None and target != module.name:
            yield target


def _absolute_base(module: SourceModule, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".")
    package = package[: len(package) + int(module.is_package) - node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _packages_above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def layer_of(name: str) -> int | None:
    """Return how high a module stands, or None if the house has no place for it."""
    if name == ROOT:
        return len(LAYERS) - 1
    homes = (
        (len(package), height)
        for height, packages in enumerate(LAYERS)
        for package in packages
        if package != ROOT and _is_within(name, package)
    )
    _, height = max(homes, default=(0, None))
    return height


def misplaced_modules(modules: Iterable[SourceModule]) -> list[str]:
    """Find the modules that belong to no layer; a package with an empty `__init__` needs none."""
    return [
        f"{module.name} belongs to no layer; add it to LAYERS"
        for module in modules
        if layer_of(module.name) is None and (module.tree.body or not module.is_package)
    ]


def upward_imports(modules: Sequence[SourceModule]) -> list[str]:
    """Find the imports of a higher layer."""
    found = imports_of(modules)
    importers = {each.importer for each in found}
    return [
        f"{each.where}: {each.importer} may not import {each.imported}, which is above it"
        for each in found
        if not (each.implied and each.imported not in importers)  # an `__init__` that imports nothing
        and _is_above(each.imported, each.importer)
    ]


def _is_above(imported: str, importer: str) -> bool:
    upper, lower = layer_of(imported), layer_of(importer)
    return upper is not None and lower is not None and upper > lower


def import_cycle(modules: Sequence[SourceModule]) -> list[str] | None:
    """Return one circle of imports, each module importing the next, or None."""
    graph: dict[str, set[str]] = {module.name: set() for module in modules}
    for each in imports_of(modules):
        graph[each.importer].add(each.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[::-1]
    return None


def hidden_imports(modules: Iterable[SourceModule], allowed: Mapping[str, Set[str]] = LAZY_IMPORTS) -> list[str]:
    """Find the imports inside functions that are not allowed there, and the permissions that nobody uses."""
    seen: dict[str, set[str]] = {}
    complaints: list[str] = []
    for module in modules:
        for statement in _imports_in_functions(module):
            for library in _libraries(statement):
                seen.setdefault(module.name, set()).add(library)
                if library not in allowed.get(module.name, ()):
                    complaints.append(f"{module.at(statement)}: {library} is imported inside a function")
    for name, libraries in allowed.items():
        complaints += [
            f"{name} no longer imports {library} inside a function; take it from LAZY_IMPORTS"
            for library in sorted(libraries - seen.get(name, set()))
        ]
    return complaints


def _imports_in_functions(module: SourceModule) -> list[ast.Import | ast.ImportFrom]:
    statements = {
        (node.lineno, node.col_offset): node
        for function in functions(module.tree)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return [statements[place] for place in sorted(statements)]


def _libraries(statement: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name.partition(".")[0] for alias in statement.names]
    return [(statement.module or ".").partition(".")[0] or "."]
