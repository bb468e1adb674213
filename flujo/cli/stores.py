"""Which database the command line keeps runs in, and which stored run is meant.

A database is named by `--state-db`, `FLUJO_STATE_DB` or `[run] state_db` in `flujo.toml`.
Without a name it is `.flujo/runs.db` beside the `flujo.toml` that holds, or else in the working directory.
"""

import asyncio
import shlex
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from flujo.cli.exit_codes import WrongUsageError
from flujo.cli.settings import RunSettings, project_folder, read_run_settings
from flujo.exceptions import RunNotFoundError, StateError
from flujo.state.backend import StateBackend
from flujo.state.records import RunQuery, RunRecord
from flujo.state.sqlite import SQLiteBackend

DEFAULT_STATE_DB = Path(".flujo", "runs.db")

_MOST_NAMED = 4


def new_store(settings: RunSettings) -> SQLiteBackend:
    """Return the store that new runs are kept in; before it is used, its folder has to be made.

    Raises:
        WrongUsageError: The folder of a database that is named is not there.
    """
    path = _path(settings)
    if settings.state_db is not None and not path.parent.is_dir():
        raise WrongUsageError(f"{path} cannot be made, because there is no folder {path.parent}")
    # Who names a file wants the runs in it whatever happens; waiting for the disk after every step is for them only.
    return SQLiteBackend(path, durability="fast" if settings.state_db is None else "full")


def make_folder(settings: RunSettings) -> None:
    """Make the folder of the default database, hidden from git; one that is named has its folder.

    Raises:
        StateError: It cannot be made.
    """
    path = _path(settings)
    if settings.state_db is not None:
        return
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        ignore = path.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="ascii")
    except OSError as error:
        raise StateError(
            f"runs are kept in {path}, and {path.parent} cannot be made: {error.strerror}; name a file with "
            "--state-db, or keep nothing with --no-state"
        ) from error


def existing_database(state_db: str | None, *, what: str = "runs", hint: str = "") -> Path:
    """Return the file that runs are kept in.

    Args:
        state_db: What `--state-db` names.
        what: What is looked for in it.
        hint: How it comes to be there.

    Raises:
        WrongUsageError: There is no file, so that nothing is stored.
    """
    path = _path(read_run_settings({"state_db": state_db}))
    if not path.is_file():
        hints = f"{hint}, and --state-db names another one" if hint else "--state-db names another one"
        raise WrongUsageError(f"no {what} are stored: there is no file {path}; {hints}")
    return path


@contextmanager
def closed_at_end(store: StateBackend) -> Generator[None]:
    """Close a store after the block, however it ends."""
    try:
        yield
    finally:
        asyncio.run(store.close())


def stored_record(store: StateBackend, given: str) -> RunRecord:
    """Return the record of the run that a person means.

    Args:
        store: Where to look for it.
        given: Its identity, or the beginning of it.

    Raises:
        WrongUsageError: There is no such run, or there are several.
    """
    with suppress(RunNotFoundError):
        return asyncio.run(store.load(given)).record
    records = {record.run_id: record for record in asyncio.run(store.list_runs(RunQuery()))}
    matching = [identity for identity in records if given and identity.startswith(given)]
    if not matching:
        raise WrongUsageError(f"no run {given!r} is stored here; flujo lens list shows those that are")
    if len(matching) > 1:
        named = ", ".join(matching[:_MOST_NAMED]) + (", ..." if len(matching) > _MOST_NAMED else "")
        raise WrongUsageError(f"{len(matching)} runs begin with {given!r}: {named}")
    return records[matching[0]]


def resume_command(run_id: str, *, file: str | None = None, state_db: str | None = None) -> str:
    """Return the command that goes on with a run.

    Args:
        run_id: The identity of the run.
        file: The workflow, if the store does not know it or it has a store of its own.
        state_db: What `--state-db` named.
    """
    words = ["flujo", "resume", run_id, *([] if file is None else [file])]
    return shlex.join([*words, *([] if state_db is None else ["--state-db", state_db])])


def top_up_command(name: str, option: str, store: StateBackend) -> str:
    """Return how a person lets more of a budget be used.

    Args:
        name: The budget.
        option: What there is too little of, such as `--usd USD`.
        store: Where the budget is.
    """
    if not isinstance(store, SQLiteBackend):
        return f"await {type(store).__name__}(...).top_up_budget({name!r}, Amounts(...))"
    words = [f"flujo budget top-up {shlex.quote(name)} {option}"]
    if store.path.resolve() != _path(read_run_settings({})).resolve():
        words.append(f"--state-db {shlex.quote(str(shown_path(store.path)))}")
    return " ".join(words)


def shown_path(path: Path) -> Path:
    """Return a file as a person in the working directory would name it."""
    with suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def _path(settings: RunSettings) -> Path:
    return settings.state_db or shown_path(project_folder(Path.cwd()) / DEFAULT_STATE_DB)
