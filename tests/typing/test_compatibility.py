"""What a run refuses, type checkers refuse too: whatever mypy lets pass, flujo does."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from flujo.domain.type_compatibility import fits
from tests.house.source import REPOSITORY
from tests.typing.kinds import KINDS

_SOURCE = Path(__file__).with_name("kinds.py").read_text()


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """The pairs of types of which mypy refuses to hand the one to the other."""
    path = tmp_path_factory.mktemp("typing") / "pairs.py"
    pairs = list(product(KINDS, KINDS))
    functions = [f"def f{i}(given: {given}) -> {taken}: return given" for i, (given, taken) in enumerate(pairs)]
    path.write_text(_SOURCE + "\n".join(functions))
    first = len(_SOURCE.splitlines()) + 1
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--output=json", str(path)],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    lines = [
        complaint["line"]
        for complaint in found
        if complaint["severity"] == "error" and complaint["code"] != "no-any-return"  # it would let it pass
    ]
    assert all(line >= first for line in lines), ran.stdout[:2000]
    return {pairs[line - first] for line in lines}


@pytest.mark.timeout(180)  # mypy without a cache reads all of pydantic first
def test_what_mypy_accepts_fits(refused: set[tuple[str, str]]) -> None:
    """No pair of types that mypy accepts is refused before a run."""
    too_strict = [
        pair for pair in product(KINDS, KINDS) if pair not in refused and not fits(KINDS[pair[0]], KINDS[pair[1]])
    ]

    assert too_strict == []
    assert len(refused) > 5000


def test_most_of_what_mypy_refuses_does_not_fit(refused: set[tuple[str, str]]) -> None:
    """Leniency is the exception: of what mypy refuses, a run refuses most before it starts."""
    lenient = [(given, taken) for given, taken in refused if fits(KINDS[given], KINDS[taken])]

    assert len(lenient) < len(refused) / 3
