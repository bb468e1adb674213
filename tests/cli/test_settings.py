"""Settings of `flujo run`: the file, then the environment, then flags, the later winning; prices in the file only."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from flujo import SettingsError, UsageLimits
from flujo.agents.prices import TokenUsage, find_price, reset_prices
from flujo.cli.settings import apply_price_settings, read_settings


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


@pytest.fixture
def no_prices_set() -> Iterator[None]:
    """Leave no price behind."""
    yield
    reset_prices()


@pytest.mark.usefixtures("no_prices_set")
def test_prices_come_from_the_file(tmp_path: Path) -> None:
    """A price is that which the nearest file gives, exact, and the same file may have other settings."""
    below = tmp_path / "deep"
    below.mkdir()
    (tmp_path / "flujo.toml").write_text(
        """
        [run]
        limit_tokens = 10
        [prices."openai:my-own"]
        input_usd_per_mtok = 1.5
        output_usd_per_mtok = 6
        cached_input_usd_per_mtok = 0.75
        request_usd = 0.01
        [prices."openai:gpt-4o"]
        input_usd_per_mtok = 0.1
        output_usd_per_mtok = 0
        """
    )

    apply_price_settings(below)

    mine, known = find_price("openai:my-own"), find_price("openai:gpt-4o")
    assert mine is not None
    assert known is not None
    usage = TokenUsage(input_tokens=1000, cached_input_tokens=400, output_tokens=100)
    assert mine.cost(usage, datetime(2026, 1, 1, tzinfo=UTC)) == Decimal("0.0118")
    assert known.bound(1_000_000, 1_000_000) == Decimal("0.1")
    assert limits_of(below) == UsageLimits(total_tokens_limit=10)


@pytest.mark.parametrize("toml", [None, "", "[run]\nlimit_usd = 1\n", "[prices]\n"])
def test_without_prices_none_are_set(toml: str | None, tmp_path: Path) -> None:
    """A file need not give prices."""
    if toml is not None:
        (tmp_path / "flujo.toml").write_text(toml)

    apply_price_settings(tmp_path)

    assert find_price("openai:my-own") is None


@pytest.mark.usefixtures("no_prices_set")
@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("prices = 1", 'prices is a table, written [prices."provider:model"]'),
        ("[price]", "has no setting 'price'; did you mean prices?"),
        (
            "[prices]\ngpt = 1",
            '[prices] gpt is 1; a price is a table, written [prices."provider:model"]',
        ),
        (
            '[prices."a:m"]\ninput_usd_per_mtok = 1\noutput_usd_per_tok = 1',
            "[prices.\"a:m\"] has no setting 'output_usd_per_tok'; did you mean output_usd_per_mtok?",
        ),
        (
            '[prices."a:m"]\ninput_usd_per_mtok = 1\nzzz = 1',
            "[prices.\"a:m\"] has no setting 'zzz'; known are input_usd_per_mtok, output_usd_per_mtok",
        ),
        (
            '[prices."a:m"]\ninput_usd_per_mtok = 1',
            '[prices."a:m"] output_usd_per_mtok is missing; give it a value',
        ),
        (
            '[prices."a:m"]\ninput_usd_per_mtok = -1\noutput_usd_per_mtok = 1',
            '[prices."a:m"] input_usd_per_mtok is -1: an amount of dollars is a number, 0 or more',
        ),
        (
            '[prices."a:m"]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = nan',
            '[prices."a:m"] output_usd_per_mtok is nan: an amount of dollars is a number, 0 or more',
        ),
        (
            "[prices.gpt-4o]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1",
            "[prices]: the model 'gpt-4o' has no provider or no name; write \"provider:model\"",
        ),
        ("[prices.a:m]", "flujo.toml: "),
    ],
)
def test_a_wrong_price_is_refused(toml: str, reason: str, tmp_path: Path) -> None:
    """The message names the file, the table, the setting and its value, and says what to do."""
    (tmp_path / "flujo.toml").write_text(toml + "\n")

    with pytest.raises(SettingsError) as caught:
        apply_price_settings(tmp_path)

    assert str(caught.value).startswith(str(tmp_path / "flujo.toml"))
    assert reason in str(caught.value)
