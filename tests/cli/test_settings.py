"""Settings of `flujo run`: the file, then the environment, then flags, the later winning."""

from pathlib import Path

import pytest

from flujo import SettingsError, UsageLimits
from flujo.cli.settings import read_settings


def limits_of(
    folder: Path, environment: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> UsageLimits | None:
    """Return the limits that hold in a folder."""
    return read_settings(flags or {}, folder=folder, environment=environment or {}).usage_limits()


def test_without_settings_there_are_no_limits(tmp_path: Path) -> None:
    """Nothing is limited unless somebody says so."""
    assert limits_of(tmp_path, {"FLUJO_LIMIT_USD": " ", "PATH": "x"}, {"limit_usd": None}) is None


def test_the_later_source_wins_for_each_setting(tmp_path: Path) -> None:
    """A setting comes from the last source that has it, whatever gives the others."""
    (tmp_path / "flujo.toml").write_text("[run]\nlimit_usd = 1\nlimit_tokens = 10\n")
    environment = {"FLUJO_LIMIT_USD": "2"}

    from_file = limits_of(tmp_path)
    from_environment = limits_of(tmp_path, environment)
    from_flags = limits_of(tmp_path, environment, {"limit_usd": "0.30", "limit_tokens": None})

    assert from_file == UsageLimits(total_cost_usd_limit=1, total_tokens_limit=10)
    assert from_environment == UsageLimits(total_cost_usd_limit=2, total_tokens_limit=10)
    assert from_flags == UsageLimits(total_cost_usd_limit=0.3, total_tokens_limit=10)


def test_the_nearest_file_is_the_only_one(tmp_path: Path) -> None:
    """A file is found from a folder below it, and one that is nearer hides it."""
    below = tmp_path / "project" / "deep"
    below.mkdir(parents=True)
    (tmp_path / "flujo.toml").write_text("[run]\nlimit_tokens = 10\n")
    far = limits_of(below)
    (below.parent / "flujo.toml").write_text("[run]\nlimit_usd = 1\n")

    near = limits_of(below)

    assert far == UsageLimits(total_tokens_limit=10)
    assert near == UsageLimits(total_cost_usd_limit=1)


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("[run]\nlimit_tokns = 1", "[run] has no setting 'limit_tokns'; did you mean limit_tokens?"),
        ("[run]\nzzz = 1", "[run] has no setting 'zzz'; known are limit_usd, limit_tokens"),
        ("[rum]\nlimit_tokens = 1", "has no setting 'rum'; did you mean run?"),
        ("run = 1", "run is a table, written [run]"),
        ("[run", "flujo.toml: "),
        ("[run]\nlimit_tokens = -1", "[run] limit_tokens is -1: Input should be greater than or equal to 0"),
        ("[run]\nlimit_usd = 'much'", "[run] limit_usd is 'much': an amount of dollars is a number, 0 or more"),
        ("[run]\nlimit_usd = [1]", "[run] limit_usd is [1]: an amount of dollars"),
        ("[run]\nlimit_usd = true", "[run] limit_usd is True: an amount of dollars"),
    ],
)
def test_a_wrong_file_is_refused(toml: str, reason: str, tmp_path: Path) -> None:
    """The message names the file, the setting and its value."""
    (tmp_path / "flujo.toml").write_text(toml + "\n")

    with pytest.raises(SettingsError) as caught:
        limits_of(tmp_path)

    assert str(caught.value).startswith(str(tmp_path / "flujo.toml"))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"FLUJO_LIMIT_US": "1"}, "the environment has no setting 'FLUJO_LIMIT_US'; did you mean FLUJO_LIMIT_USD?"),
        ({"FLUJO_LIMIT_USD": "-1"}, "FLUJO_LIMIT_USD is '-1': an amount of dollars is a number, 0 or more"),
        ({"FLUJO_LIMIT_TOKENS": "1.5"}, "FLUJO_LIMIT_TOKENS is '1.5': Input should be a valid integer"),
    ],
)
def test_a_wrong_variable_is_refused(environment: dict[str, str], reason: str, tmp_path: Path) -> None:
    """A limit that is misspelt would limit nothing, so it is an error."""
    with pytest.raises(SettingsError) as caught:
        limits_of(tmp_path, environment)

    assert str(caught.value).startswith(reason)


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    """Another variable with our prefix is not refused."""
    assert limits_of(tmp_path, {"FLUJO_HOME": "x"}) is None


@pytest.mark.parametrize("value", ["1.5", "abc", "", "-1", "1e3"])
def test_a_limit_of_tokens_is_not_rounded(value: str, tmp_path: Path) -> None:
    """A flag that is no count is refused by its name, and never rounded to one."""
    with pytest.raises(SettingsError) as caught:
        limits_of(tmp_path, flags={"limit_tokens": value})

    assert str(caught.value).startswith(f"--limit-tokens is {value!r}: ")


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-0.01", "", "$1"])
def test_a_limit_of_dollars_is_an_amount(value: str, tmp_path: Path) -> None:
    """A flag that is no amount of money is refused by its name."""
    with pytest.raises(SettingsError) as caught:
        limits_of(tmp_path, flags={"limit_usd": value})

    assert str(caught.value) == f"--limit-usd is {value!r}: an amount of dollars is a number, 0 or more"
