"""The rules of the house that no other tool checks; each checker is shown to find what it looks for."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import flujo
from tests.house.docstrings import is_one_sentence, undescribed_modules, undescribed_objects
from tests.house.errors import lost_errors
from tests.house.files import (
    MACHINE_PATH,
    REGISTRY_HOST,
    REMOVED_MODULE,
    occurrences,
    repository_files,
)
from tests.house.imports import (
    hidden_imports,
    import_cycle,
    layer_of,
    misplaced_modules,
    upward_imports,
)
from tests.house.source import REPOSITORY, SourceModule, read_package

HEAVY_LIBRARIES = {
    "cyclopts",
    "genai_prices",
    "openai",
    "opentelemetry.sdk",
    "pydantic_ai",
    "rich",
    "starlette",
    "textual",
}

_MACHINE_PATHS = ["/".join(["", *parts]) for parts in (["work", "main"], ["root", ".venv"], ["opt", "pypi"])]
_REGISTRY_HOSTS = ["pypi" + ".org", "files.pythonhosted" + ".org", "registry.npmjs" + ".org"]


@pytest.fixture(scope="module")
def modules() -> list[SourceModule]:
    """Every module of flujo."""
    return read_package(REPOSITORY, "flujo")


def _package(**texts: str) -> list[SourceModule]:
    """Write modules of a made-up flujo: `exceptions="import flujo.steps"`, packages as `steps__init`."""
    made: list[SourceModule] = []
    for key, text in texts.items():
        name = "flujo." + key.replace("__", ".")
        package, _, last = name.rpartition(".")
        is_package = last == "init"
        made.append(SourceModule.from_text(package if is_package else name, text, is_package=is_package))
    return made


# The layers


def test_no_module_imports_from_above(modules: list[SourceModule]) -> None:
    """Every import points to the importer's own layer or a lower one."""
    assert misplaced_modules(modules) == []
    assert upward_imports(modules) == []


def test_no_modules_import_each_other(modules: list[SourceModule]) -> None:
    """There is no circle of imports, those for type checking included."""
    assert import_cycle(modules) is None


def test_functions_do_not_import(modules: list[SourceModule]) -> None:
    """Imports stand at the top, except where one module wraps a heavy library."""
    assert hidden_imports(modules) == []


def test_every_package_is_read(modules: list[SourceModule]) -> None:
    """The rules are checked on the whole package, its root and the core included."""
    names = {module.name for module in modules}

    assert {"flujo", "flujo.exceptions", "flujo.application.core.ultra_executor"} <= names


@pytest.mark.parametrize(
    "text",
    [
        "import flujo.steps.loop",
        "from flujo.steps import loop",
        "from flujo.steps.loop import LoopStep",
        "from .steps.loop import LoopStep",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from flujo.steps.loop import LoopStep",
        "def declare():\n    from flujo.steps.loop import LoopStep",
    ],
)
def test_an_import_of_a_higher_layer_is_found(text: str) -> None:
    """However it is written, an import from above is named with its place."""
    (complaint,) = upward_imports(_package(exceptions=text, steps__loop="class LoopStep: ..."))

    assert complaint.startswith(f"flujo.exceptions:{len(text.splitlines())}: ")
    assert "flujo.steps.loop" in complaint


def test_an_import_of_a_lower_layer_is_welcome() -> None:
    """A module may import what is below it, and what is beside it."""
    package = _package(
        steps__loop="from flujo.exceptions import FlujoError\nimport flujo.steps.map",
        steps__map="",
        exceptions="import flujo.domain.models",
        domain__init="",
        domain__models="",
    )

    assert upward_imports(package) == []
    assert import_cycle(package) is None


def test_an_init_that_runs_on_the_way_counts() -> None:
    """Importing a submodule from below a package's layer is refused once the package's `__init__` imports."""
    package = _package(
        exceptions="from flujo.domain.models import PipelineContext",
        domain__init="from flujo.domain.step import Step",
        domain__models="class PipelineContext: ...",
        domain__step="class Step: ...",
    )

    (complaint,) = upward_imports(package)

    assert "flujo.exceptions may not import flujo.domain," in complaint


def test_a_package_may_re_export_its_own_modules() -> None:
    """A package's `__init__` and its modules form no circle."""
    package = _package(
        cache__init="from flujo.cache.memory import InMemoryCache",
        cache__memory="from flujo.cache.keys import key",
        cache__keys="def key(): ...",
    )

    assert import_cycle(package) is None


@pytest.mark.parametrize(
    "package",
    [
        _package(steps__map="import flujo.steps.loop", steps__loop="import flujo.steps.map"),
        _package(
            state__sqlite="import flujo.cache.keys",
            cache__init="import flujo.cache.memory",
            cache__memory="import flujo.state.sqlite",
            cache__keys="",
        ),
        _package(cache__init="import flujo.cache.memory", cache__memory="from flujo.cache import get"),
    ],
    ids=["directly", "through an __init__ on the way", "with its own package"],
)
def test_a_circle_is_found(package: list[SourceModule]) -> None:
    """A circle of imports is returned from one module back to itself."""
    circle = import_cycle(package)

    assert circle is not None
    assert circle[0] == circle[-1]
    assert len(circle) > 2


def test_a_module_without_a_layer_is_found() -> None:
    """A new part of the house has to be given a place."""
    (complaint,) = misplaced_modules(_package(helpers="", steps__map=""))

    assert "flujo.helpers" in complaint


def test_the_longest_name_decides_the_layer() -> None:
    """The models are below the rest of the domain, the core is below the runner, and the root is on top."""
    heights = [
        layer_of(name)
        for name in (
            "flujo.domain.models",
            "flujo.exceptions",
            "flujo.domain.step",
            "flujo.application.core.frame",
            "flujo.steps.map",
            "flujo.application.runner",
            "flujo",
        )
    ]

    assert heights == sorted(set(heights), key=lambda height: -1 if height is None else height)
    assert None not in heights


def test_an_import_in_a_function_is_found_once() -> None:
    """An import in a nested function is one complaint, and a permission lets it pass."""
    package = _package(agents__prices="class A:\n def f(self):\n  async def g():\n   import genai_prices.data")

    (complaint,) = hidden_imports(package, {})
    allowed = hidden_imports(package, {"flujo.agents.prices": {"genai_prices"}})

    assert complaint.startswith("flujo.agents.prices:4: genai_prices ")
    assert allowed == []


def test_a_permission_that_nobody_uses_is_found() -> None:
    """The list of functions that may import names none that do not."""
    (complaint,) = hidden_imports(_package(exceptions=""), {"flujo.exceptions": {"rich"}})

    assert "no longer imports rich" in complaint


# Errors


def test_no_error_is_lost(modules: list[SourceModule]) -> None:
    """Every error that flujo catches is raised again, kept or turned into an answer."""
    assert lost_errors(modules) == []


@pytest.mark.parametrize(
    ("clause", "complaint"),
    [
        ("except ValueError: pass", "swallowed"),
        ("except ValueError: ...", "swallowed"),
        ("except ValueError: 'never mind'", "swallowed"),
        ("except (KeyError, ValueError): continue", "swallowed"),
        ("except ValueError as error: break", "swallowed"),
        ("except* ValueError: pass", "swallowed"),
        ("except: raise", "bare"),
        ("except Exception: answer = None", "none is kept"),
        ("except Exception as error: answer = None", "none is kept"),
        ("except (KeyError, builtins.BaseException) as error: answer = 0", "none is kept"),
        ("except asyncio.CancelledError as error: log(error)", "cancellation"),
    ],
)
def test_an_error_that_disappears_is_found(clause: str, complaint: str) -> None:
    """An `except` that loses its error is named with its line."""
    text = f"while True:\n try: work()\n {clause}"

    (found,) = lost_errors(_package(steps__map=text))

    assert found.startswith("flujo.steps.map:3: ")
    assert complaint in found


@pytest.mark.parametrize(
    "clause",
    [
        "except KeyError: answer = None",
        "except Exception as error: answer = error",
        "except Exception: log.exception('the hook failed')",
        "except BaseException:\n  undo()\n  raise",
        "except asyncio.CancelledError:\n  undo()\n  raise",
    ],
)
def test_an_error_that_is_kept_is_welcome(clause: str) -> None:
    """A handler may answer a named error, keep any error, or clean up and raise."""
    assert lost_errors(_package(steps__map=f"try: work()\n{clause}")) == []


@pytest.mark.parametrize(
    ("suppressed", "count"),
    [
        ("Exception", 1),
        ("asyncio.CancelledError", 1),
        ("OSError, BaseException", 1),
        ("KeyError", 0),
    ],
)
def test_only_named_errors_may_be_suppressed(suppressed: str, count: int) -> None:
    """`contextlib.suppress` is for an error one can name, which is never a cancellation."""
    text = f"with contextlib.suppress({suppressed}): work()"

    assert len(lost_errors(_package(steps__map=text))) == count


# Words


@pytest.mark.parametrize("word", [REMOVED_MODULE, MACHINE_PATH, REGISTRY_HOST], ids=lambda word: str(word.pattern))
def test_no_file_names_what_it_must_not(word: re.Pattern[str]) -> None:
    """No file names the module REQ-CORE-002 removed, a path of one machine, or a package registry."""
    assert occurrences(word, repository_files(REPOSITORY), within=REPOSITORY) == []


def test_a_forbidden_word_is_found_in_text_and_names(tmp_path: Path) -> None:
    """A word is found wherever it stands, in the name of a file and in bytes that are no text."""
    removed = "step" + "_logic"
    (tmp_path / f"{removed}.py").write_text("")
    (tmp_path / "notes.md").write_text(f"One line.\nfrom core import {removed}\n")
    (tmp_path / "image.png").write_bytes(b"\xff\x00" + removed.encode())

    found = occurrences(REMOVED_MODULE, sorted(tmp_path.iterdir()), within=tmp_path)

    assert found == ["image.png:1", "notes.md:2", f"{removed}.py: the name"]


@pytest.mark.parametrize("path", _MACHINE_PATHS)
def test_a_path_of_this_machine_is_found(path: str) -> None:
    """An absolute path of a machine is told from a relative one that looks alike."""
    assert MACHINE_PATH.search(f"see {path}/x")
    assert MACHINE_PATH.search(f'"{path}"')
    assert not MACHINE_PATH.search(f"see docs{path}/x")


@pytest.mark.parametrize("host", _REGISTRY_HOSTS)
def test_a_registry_host_is_found(host: str) -> None:
    """A registry is found by its host, whatever the scheme."""
    assert REGISTRY_HOST.search(f"https://{host}/simple")


def test_files_that_git_would_commit_are_listed(tmp_path: Path) -> None:
    """Tracked and new files are listed; ignored and deleted ones are not."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in ("tracked.py", "deleted.py", "new with é.py", "ignored.log"):
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("*.log\n")
    subprocess.run(["git", "add", "tracked.py", "deleted.py"], cwd=tmp_path, check=True)
    (tmp_path / "deleted.py").unlink()

    names = {path.name for path in repository_files(tmp_path)}

    assert names == {".gitignore", "tracked.py", "new with é.py"}


# What `import flujo` costs


def _loaded_by(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter and return the modules it loads."""
    listing = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(listing.stdout.split())


def test_importing_flujo_loads_nothing_heavy() -> None:
    """`import flujo` leaves the libraries alone that only some programs need."""
    loaded = _loaded_by("import flujo")

    assert "flujo" in loaded
    assert loaded & HEAVY_LIBRARIES == set()


def test_a_heavy_import_is_noticed() -> None:
    """The list of loaded modules names a heavy library that was loaded on the way."""
    assert _loaded_by("import rich.console") & HEAVY_LIBRARIES == {"rich"}


# Docstrings


def test_every_public_module_says_what_it_is_for(modules: list[SourceModule]) -> None:
    """The first line of a module is one sentence."""
    assert undescribed_modules(modules) == []


def test_everything_exported_has_a_docstring() -> None:
    """Whatever `flujo` exports is described where a user asks for help."""
    exported = {name: getattr(flujo, name) for name in flujo.__all__}

    assert undescribed_objects(exported) == []


@pytest.mark.parametrize("text", ["x = 1", '"""Loops"""', '"""Loops. Then stops."""', '"""Loops\nand stops."""'])
def test_a_module_without_one_sentence_is_found(text: str) -> None:
    """A public module is named that has no docstring, or one whose first line is no sentence."""
    package = _package(steps__map=text, steps___private=text, steps__init="")

    (complaint,) = undescribed_modules(package)

    assert complaint.startswith("flujo.steps.map ")


@pytest.mark.parametrize("line", ["Runs steps, e.g. Loops.", "Is it `flujo.run`?", "Keeps 1.5 seconds."])
def test_a_sentence_may_contain_full_stops(line: str) -> None:
    """Abbreviations, code and numbers do not end a sentence."""
    assert is_one_sentence(line)


def test_an_exported_object_without_a_docstring_is_found() -> None:
    """The docstring that a dataclass writes for itself does not count, and values need none."""

    class Bare: ...

    @dataclass
    class Generated:
        field: int

    def described() -> None:
        """Say so."""

    exported = {"Bare": Bare, "Generated": Generated, "described": described, "LIMIT": 3}

    assert undescribed_objects(exported) == ["Bare has no docstring", "Generated has no docstring"]
