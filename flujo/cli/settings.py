"""The settings of the command line: `flujo.toml`, then the environment, then flags, the later winning."""

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from flujo.domain.models import UsageLimits
from flujo.domain.money import exact_usd
from flujo.exceptions import SettingsError

FILE_NAME = "flujo.toml"
_PREFIX = "FLUJO_"


def _usd(amount: Any) -> Decimal:
    try:
        return exact_usd(Decimal(amount) if isinstance(amount, str) else amount)
    except (InvalidOperation, ValueError):
        raise ValueError("an amount of dollars is a number, 0 or more") from None


class RunSettings(BaseModel):
    """The settings of `flujo run`: the `[run]` table of `flujo.toml`, and `FLUJO_LIMIT_USD` and the like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit_usd: Annotated[Decimal, BeforeValidator(_usd)] | None = None
    """The most US dollars a run may use; `None` for no limit."""
    limit_tokens: Annotated[int, Field(ge=0)] | None = None
    """The most tokens a run may use; `None` for no limit."""
    state_db: Path | None = None
    """The database that keeps runs; `None` for that of the project. In a file it is relative to the file's folder."""

    def usage_limits(self) -> UsageLimits | None:
        """Return the limits, or `None` if there are none; limits that are not set are not among its set fields."""
        given = {"total_cost_usd_limit": self.limit_usd, "total_tokens_limit": self.limit_tokens}
        limits = {name: limit for name, limit in given.items() if limit is not None}
        return UsageLimits.model_validate(limits) if limits else None


def read_settings(flags: Mapping[str, Any], *, folder: Path, environment: Mapping[str, str]) -> RunSettings:
    """Return the settings that hold.

    Args:
        flags: What the user gave on the command line; `None` is not given.
        folder: Where to look for `flujo.toml`; its parents come next, and the first file found is the only one read.
        environment: The environment variables.

    Raises:
        SettingsError: A setting is unknown or does not fit; the message names its source.
    """
    file = _find(folder)
    settings = RunSettings() if file is None else _checked(_read_file(file), lambda key: f"{file}: [run] {key}")
    settings = _over(settings, _checked(_read_environment(environment), lambda key: _PREFIX + key.upper()))
    return _over(settings, flags_only(flags))


def flags_only(flags: Mapping[str, Any]) -> RunSettings:
    """Return the settings that the user gave on the command line; `None` is not given.

    Raises:
        SettingsError: One does not fit.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    return _checked(given, lambda key: "--" + key.replace("_", "-"))


def read_run_settings(flags: Mapping[str, Any]) -> RunSettings:
    """Return the settings that hold in this process."""
    return read_settings(flags, folder=Path.cwd(), environment=os.environ)


def project_folder(folder: Path) -> Path:
    """Return the folder of the `flujo.toml` that holds in a folder; the folder itself if there is none."""
    file = _find(folder)
    return folder if file is None else file.parent


def _over(settings: RunSettings, later: RunSettings) -> RunSettings:
    return settings.model_copy(update={key: getattr(later, key) for key in later.model_fields_set})


def _find(folder: Path) -> Path | None:
    places = (folder, *folder.parents)
    return next((place / FILE_NAME for place in places if (place / FILE_NAME).is_file()), None)


def _read_file(file: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from error
    _refuse_unknown(tables, ["run"], str(file))
    values = tables.get("run", {})
    if not isinstance(values, dict):
        raise SettingsError(f"{file}: run is a table, written [run]")
    _refuse_unknown(values, RunSettings.model_fields, f"{file}: [run]")  # pyright: ignore[reportUnknownArgumentType]  # TOML is untyped
    found: dict[str, Any] = values  # pyright: ignore[reportUnknownVariableType]  # TOML is untyped
    if isinstance(state_db := found.get("state_db"), str):
        found = {**found, "state_db": file.parent / state_db}
    return found


def _refuse_unknown(found: Iterable[str], known: Iterable[str], where: str) -> None:
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise SettingsError(f"{where} has no setting {key!r}; {hint}")


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings among the environment variables; one that is empty is not set.

    A variable that is nearly a setting is refused, because a limit that is misspelt would limit nothing;
    other variables may belong to somebody else.
    """
    known = [_PREFIX + key.upper() for key in RunSettings.model_fields]
    for name in environment:
        if name.startswith(_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.85)
            if near:
                raise SettingsError(f"the environment has no setting {name!r}; did you mean {near[0]}?")
    return {
        name.removeprefix(_PREFIX).lower(): environment[name] for name in known if environment.get(name, "").strip()
    }


def _checked(values: dict[str, Any], name_of: Callable[[str], str]) -> RunSettings:
    try:
        return RunSettings.model_validate(values)
    except ValidationError as error:
        (problem, *_) = error.errors(include_url=False)
        key = str(problem["loc"][0])
        reason = problem["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{name_of(key)} is {values[key]!r}: {reason}") from error
