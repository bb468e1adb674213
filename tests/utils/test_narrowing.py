"""Values of the user's are told apart by what they are, without looking into them."""

from collections import OrderedDict, deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel, RootModel

from flujo.utils.narrowing import is_dict, is_items, is_list, is_mapping, is_sequence, is_set


class Draft(BaseModel):
    """Iterable, as every pydantic model is: it gives its fields."""

    text: str = ""


class Rows(RootModel[list[int]]):
    """Iterable because it says so."""

    def __iter__(self) -> Any:
        return iter(self.root)


_VALUES: dict[str, Any] = {
    "dict": {},
    "ordered": OrderedDict(),
    "proxy": MappingProxyType({}),
    "list": [],
    "tuple": (),
    "set": set(),
    "frozenset": frozenset(),
    "deque": deque(),
    "range": range(3),
    "keys": {}.keys(),
    "generator": (each for each in [1]),
    "text": "abc",
    "bytes": b"abc",
    "number": 7,
    "nothing": None,
    "model": Draft(),
    "rows": Rows([1]),
}


@pytest.mark.parametrize(
    ("is_kind", "kinds"),
    [
        (is_dict, "dict ordered"),
        (is_mapping, "dict ordered proxy"),
        (is_list, "list"),
        (is_sequence, "list tuple"),
        (is_set, "set frozenset"),
        (is_items, "list tuple set frozenset deque range keys generator rows"),
    ],
)
def test_a_kind_is_told(is_kind: Callable[[object], bool], kinds: str) -> None:
    """Exactly the values of the kind are told to be of it."""
    assert [name for name, value in _VALUES.items() if is_kind(value)] == kinds.split()


def test_a_generator_is_not_used_up_by_the_question() -> None:
    """Nothing is taken out of what can be read only once."""
    once = iter([1, 2])

    assert is_items(once)
    assert list(once) == [1, 2]
