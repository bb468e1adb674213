"""The settings of the command line: `flujo.toml`, then the environment, then flags, the later winning.

What models cost stands in `flujo.toml` only.
"""

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from flujo.agents.prices import set_price
from flujo.domain.models import UsageLimits
from flujo.domain.money import exact_usd
from flujo.exceptions import ConfigurationError, SettingsError

FILE_NAME = "flujo.toml"
_PREFIX = "FLUJO_"
_TABLES = {"run": "[run]", "prices": '[prices."provider:model"]'}


def _usd(amount: Any) -> Decimal:
    try:
        return exact_usd(Decimal(amount) if isinstance(amount, str) else amount)
    except (InvalidOperation, ValueError):
        raise ValueError("an amount of dollars is a number, 0 or more") from None


_Usd = Annotated[Decimal, BeforeValidator(_usd)]


class RunSettings(BaseModel):
    """The settings of `flujo run`: the `[run]` table of `flujo.toml`, and `FLUJO_LIMIT_USD` and the like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit_usd: _Usd | None = None
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


class PriceSettings(BaseModel):
    """What a model costs, in US dollars: a table such as `[prices."openai:my-model"]` of `flujo.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_usd_per_mtok: _Usd
    """For a million tokens of input."""
    output_usd_per_mtok: _Usd
    """For a million tokens of output, reasoning included."""
    cached_input_usd_per_mtok: _Usd | None = None
    """For a million tokens of input read from the provider's cache; `None` for the price of other input."""
    request_usd: _Usd | None = None
    """For each request, besides its tokens; `None` for nothing."""


_SettingsT = TypeVar("_SettingsT", bound=BaseModel)


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
    settings = RunSettings() if file is None else _read_run(file)
    in_environment = _read_environment(environment)
    settings = _over(settings, _checked(RunSettings, in_environment, lambda key: _PREFIX + key.upper()))
    return _over(settings, flags_only(flags))


def flags_only(flags: Mapping[str, Any]) -> RunSettings:
    """Return the settings that the user gave on the command line; `None` is not given.

    Raises:
        SettingsError: One does not fit.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    return _checked(RunSettings, given, lambda key: "--" + key.replace("_", "-"))


def read_run_settings(flags: Mapping[str, Any]) -> RunSettings:
    """Return the settings that hold in this process."""
    return read_settings(flags, folder=Path.cwd(), environment=os.environ)


def apply_price_settings(folder: Path) -> None:
    """Set the prices of models that `flujo.toml` gives; without a file, or without prices in it, there are none to set.

    Args:
        folder: Where to look for the file, as `read_settings` does.

    Raises:
        SettingsError: A setting is unknown, is missing or does not fit; the message names the file.
    """
    file = _find(folder)
    if file is None:
        return
    for model, price in _read_prices(file).items():
        try:
            set_price(
                model,
                input_usd_per_mtok=price.input_usd_per_mtok,
                output_usd_per_mtok=price.output_usd_per_mtok,
                cached_input_usd_per_mtok=price.cached_input_usd_per_mtok,
                request_usd=price.request_usd,
            )
        except ConfigurationError as error:
            raise SettingsError(f"{file}: [prices]: {error}") from error


def project_folder(folder: Path) -> Path:
    """Return the folder of the `flujo.toml` that holds in a folder; the folder itself if there is none."""
    file = _find(folder)
    return folder if file is None else file.parent


def _over(settings: RunSettings, later: RunSettings) -> RunSettings:
    return settings.model_copy(update={key: getattr(later, key) for key in later.model_fields_set})


def _find(folder: Path) -> Path | None:
    places = (folder, *folder.parents)
    return next((place / FILE_NAME for place in places if (place / FILE_NAME).is_file()), None)


def _read_run(file: Path) -> RunSettings:
    values = _read_table(file, "run")
    _refuse_unknown(values, RunSettings.model_fields, f"{file}: [run]")
    if isinstance(state_db := values.get("state_db"), str):
        values = {**values, "state_db": file.parent / state_db}
    return _checked(RunSettings, values, lambda key: f"{file}: [run] {key}")


def _read_prices(file: Path) -> dict[str, PriceSettings]:
    return {model: _read_price(file, model, values) for model, values in _read_table(file, "prices").items()}


def _read_price(file: Path, model: str, values: object) -> PriceSettings:
    if not isinstance(values, dict):
        raise SettingsError(f"{file}: [prices] {model} is {values!r}; a price is a table, written {_TABLES['prices']}")
    where = f'{file}: [prices."{model}"]'
    found: dict[str, Any] = values  # pyright: ignore[reportUnknownVariableType]  # TOML is untyped
    _refuse_unknown(found, PriceSettings.model_fields, where)
    return _checked(PriceSettings, found, lambda key: f"{where} {key}")


def _read_table(file: Path, name: str) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from error
    _refuse_unknown(tables, _TABLES, str(file))
    values: object = tables.get(name, {})
    if not isinstance(values, dict):
        raise SettingsError(f"{file}: {name} is a table, written {_TABLES[name]}")
    found: dict[str, Any] = values  # pyright: ignore[reportUnknownVariableType]  # TOML is untyped
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


def _checked(kind: type[_SettingsT], values: dict[str, Any], name_of: Callable[[str], str]) -> _SettingsT:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        (problem, *_) = error.errors(include_url=False)
        key = str(problem["loc"][0])
        if problem["type"] == "missing":
            raise SettingsError(f"{name_of(key)} is missing; give it a value") from error
        reason = problem["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{name_of(key)} is {values[key]!r}: {reason}") from error
