"""Imports a user's Python file, and says in one line what is wrong with it if it cannot be imported."""

import difflib
import importlib.util
import sys
import traceback
from importlib.abc import Loader
from pathlib import Path
from types import ModuleType

from flujo.cli.exit_codes import WrongUsageError


def import_file(path: Path) -> ModuleType:
    """Import a file as a module that annotations and pickles can find by its name.

    Its folder goes to the front of `sys.path` and stays there, as for `python FILE`.

    Raises:
        WrongUsageError: There is no such file, it is no Python, or it raises.
    """
    _check(path)
    folder = str(path.resolve().parent)
    if folder not in sys.path[:1]:
        sys.path.insert(0, folder)
    taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names
    name = f"flujo_file_{path.stem}" if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None, "a name that ends in .py has a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        _execute(path, spec.loader, module)
    except WrongUsageError:
        del sys.modules[name]
        raise
    return module


def _execute(path: Path, loader: Loader | None, module: ModuleType) -> None:
    assert loader is not None, "a name that ends in .py has a loader"
    try:
        loader.exec_module(module)
    except SystemExit as left:
        raise WrongUsageError(
            f"{path} calls sys.exit({left.code!r}) when it is imported; put that under if __name__ == '__main__'"
        ) from left
    except Exception as error:  # the file is the user's code
        raise WrongUsageError(f"{_place(path, error)}: {type(error).__name__}: {_message(error)}") from error


def _check(path: Path) -> None:
    if path.is_dir():
        raise WrongUsageError(f"{path} is a folder; give a Python file")
    if not path.exists():
        near = difflib.get_close_matches(path.name, _neighbours(path), 1)
        hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
        raise WrongUsageError(f"there is no file {path}{hint}")
    if path.suffix != ".py":
        raise WrongUsageError(f"{path} is not a Python file; its name has to end in .py")


def _neighbours(path: Path) -> list[str]:
    return [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []


def _place(path: Path, error: Exception) -> str:
    """Return the innermost line of the user's own files that led to an error."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_shown(path, error.filename)}:{error.lineno}"
    folder = path.resolve().parent
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if folder in Path(frame.filename).parents and "site-packages" not in frame.filename
    ]
    return f"{_shown(path, own[-1].filename)}:{own[-1].lineno}" if own else str(path)


def _shown(path: Path, filename: str) -> str:
    """Return a file of the user's as it stands beside the file that was given."""
    file, folder = Path(filename), path.resolve().parent
    return str(path.parent / file.relative_to(folder)) if folder in file.parents else filename


def _message(error: Exception) -> str:
    return error.msg if isinstance(error, SyntaxError) else str(error)
