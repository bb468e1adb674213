"""JSON that is the same in every process."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, field_serializer

from flujo.utils.stable_json import stable_json


class _Tagged(BaseModel):
    tags: set[str] = {"c", "a", "b"}
    by_name: dict[str, frozenset[int]] = {"n": frozenset({30, 4, 100})}
    secret: SecretStr = SecretStr("s")

    @field_serializer("by_name")
    def _renamed(self, value: dict[str, Any]) -> dict[str, Any]:
        return {"renamed": value["n"]}


@dataclass
class _Wrapped:
    inner: _Tagged = field(default_factory=_Tagged)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": {"y", "x"}, "a": ({3, 1, 2}, [frozenset({"q", "p"})])}, '{"b":["x","y"],"a":[[1,2,3],[["p","q"]]]}'),
        ([2, 1], "[2,1]"),
        ({1: {"b", "a"}}, '{"1":["a","b"]}'),
        (_Tagged(), '{"tags":["a","b","c"],"by_name":{"renamed":[100,30,4]},"secret":"**********"}'),
        (_Wrapped(), '{"inner":{"tags":["a","b","c"],"by_name":{"renamed":[100,30,4]},"secret":"**********"}}'),
    ],
)
def test_sets_have_an_order(value: object, text: str) -> None:
    """However deep they are; all else is as pydantic writes it."""
    assert stable_json(value) == text


def test_it_is_the_same_in_every_process() -> None:
    """Whatever the seed of its hashes."""
    code = "from flujo.utils.stable_json import stable_json; print(stable_json([set('abcdefgh'), {'k': set('xyz')}]))"
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2", "3")]

    written = {subprocess.check_output([sys.executable, "-c", code], env=each) for each in environments}

    assert written == {b'[["a","b","c","d","e","f","g","h"],{"k":["x","y","z"]}]\n'}
