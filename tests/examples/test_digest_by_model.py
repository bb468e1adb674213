"""The digest example with a model, as a command, at every limit: the provider's bill never passes it."""

import os
import re
import shlex
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from flujo.cli.exit_codes import ExitCode
from tests.cli.command import Ended
from tests.examples.texts import long_manual
from tests.providers.server import HttpError, Provider, ReceivedRequest, Text

_DIGEST = Path(__file__).parent.parent.parent / "examples" / "digest.py"
_PARTS = 12
_PRICES = """
[prices."openai:model"]
input_usd_per_mtok = 10
output_usd_per_mtok = 100
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: Provider) -> None:
    """Work in a folder with a text and a price list, which is that of the provider."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flujo.toml").write_text(_PRICES, encoding="utf-8")
    (tmp_path / "manual.md").write_text(long_manual(_PARTS), encoding="utf-8")
    provider.price("model", input_usd_per_mtok=10, output_usd_per_mtok=100)
    provider.script(_summarise)


def _summarise(request: ReceivedRequest) -> Text:
    """Answer with a sentence of its own for each part."""
    return Text(
        f"Model sentence number {request.number} tells what {'abcdefghijkl'[request.number % 12] * 8} is about."
    )


def _digest(*arguments: str) -> Ended:
    command = [sys.executable, str(_DIGEST), "--input-file", "manual.md", *arguments]
    return _run(command)


def _run(command: list[str]) -> Ended:
    environment = {**os.environ, "COLUMNS": "200", "OPENAI_API_KEY": "test"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    return Ended(done.returncode, done.stdout, done.stderr)


def _by_model(provider: Provider, limit: str, run_id: str = "run") -> Ended:
    return _digest(
        *("--model", "openai:model", "--base-url", provider.base_url, "--limit-usd", limit, "--run-id", run_id)
    )


def test_with_no_money_nothing_is_asked_and_all_is_quoted(provider: Provider) -> None:
    """The digest is that of no model; what is missing and the limit that is enough for it are said."""
    ended = _by_model(provider, "0")

    assert ended.code == ExitCode.LIMIT
    assert provider.requests == []
    assert ended.out == _digest().out
    assert f"0 of {_PARTS} parts are summarised, for $0; the others are quoted" in ended.err
    assert ended.err.splitlines()[-1].startswith("error: the run has $0 left to spend, and the next call may cost $0.0")


@pytest.mark.parametrize("limit", ["0.000001", "0.01", "0.02", "0.05", "0.1"])
def test_a_limit_is_never_passed_and_what_it_paid_for_is_in_the_digest(provider: Provider, limit: str) -> None:
    """The command that is offered then pays for the rest, and repeats nothing."""
    ended = _by_model(provider, limit)
    asked = len(provider.bill)

    assert provider.total_usd <= Decimal(limit)
    said = re.search(rf"(\d+) of {_PARTS} parts are summarised, for \$(\S+); .* at the most \$(\S+) more", ended.err)
    if asked == _PARTS:
        assert ended.code == ExitCode.SUCCESS
        return
    assert ended.code == ExitCode.LIMIT
    assert said is not None
    assert (int(said[1]), Decimal(said[2])) == (asked, provider.total_usd)
    assert ("Model sentence" in ended.out) == (asked > 0)
    (offered,) = re.findall(r"go on, with a larger limit: (.*)", ended.err)

    finished = _run(shlex.split(offered))

    assert finished.code == ExitCode.SUCCESS
    assert len(provider.bill) == _PARTS
    assert provider.total_usd <= Decimal(said[2]) + Decimal(said[3])
    assert "Model sentence" in finished.out


def test_an_ample_limit_is_as_good_as_none(provider: Provider) -> None:
    """Each part is asked for once, and what is told of the cost is the bill."""
    ended = _by_model(provider, "5")

    assert ended.code == ExitCode.SUCCESS
    assert len(provider.bill) == _PARTS
    assert "Model sentence" in ended.out
    total = next(line for line in ended.err.splitlines() if line.startswith("total"))
    assert f"${provider.total_usd.normalize():f}" in total.split()


def test_a_limit_below_what_is_spent_asks_nothing_more(provider: Provider) -> None:
    """Who goes on with less than was spent is told so."""
    _by_model(provider, "0.025")
    spent, asked = provider.total_usd, len(provider.requests)
    assert spent > Decimal("0.01")

    ended = _by_model(provider, "0.01")

    assert ended.code == ExitCode.LIMIT
    assert len(provider.requests) == asked
    assert "error: the run passed its limit of $0.01" in ended.err


def test_a_provider_that_fails_fails_the_run(provider: Provider) -> None:
    """That is no matter of money: nothing is charged, and the error is that of the provider."""
    provider.script(HttpError(400))

    ended = _by_model(provider, "1")

    assert ended.code == ExitCode.FAILED
    assert provider.total_usd == 0
    assert "status_code: 400" in ended.err


@pytest.mark.parametrize(("limit", "code"), [("0", ExitCode.LIMIT), ("1", ExitCode.SUCCESS)])
def test_a_model_without_a_provider_has_a_price_too(limit: str, code: ExitCode) -> None:
    """So limits can be tried without any money."""
    ended = _digest("--model", "test", "--limit-usd", limit)

    assert ended.code == code
    assert ("success (no tool calls)" in ended.out) == (code == ExitCode.SUCCESS)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "nonsense"], "no agent can be made of the model 'nonsense'"),
        (["--limit-usd", "much"], "--limit-usd is 'much': an amount of dollars is a number"),
        (["--model", "openai:other", "--limit-usd", "1"], "no price is known for the model 'openai:other'"),
        (["--input", "x"], "--input and --input-file are both given"),
    ],
)
def test_what_does_not_work_is_one_line(arguments: list[str], reason: str) -> None:
    """It names what is wrong, and the code is that of wrong usage."""
    ended = _digest(*arguments)

    assert (ended.code, ended.out) == (ExitCode.WRONG_USAGE, "")
    assert ended.error.startswith(reason)
