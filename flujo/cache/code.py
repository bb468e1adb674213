"""What a function's code is made of: a digest of it, the names it mentions, and the names whose values it changes."""

import dis
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

from flujo.cache.keys import Digester, joined

MUTATORS = frozenset(
    {
        *("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem"),
        *("popleft", "remove", "reverse", "setdefault", "sort", "subtract", "update"),
    }
)
"""Methods that change a container in place."""
_STORES = frozenset({"STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF"})
_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_DEREF", "LOAD_ATTR", "LOAD_METHOD", "LOAD_NAME"})
_ITEM_STORES = frozenset({"STORE_SUBSCR", "DELETE_SUBSCR"})


@dataclass(slots=True, frozen=True)
class CodeFacts:
    """What a key and a definition want to know of a function's code, nested functions included.

    Attributes:
        digest: Of bytecode, constants and names; not of line numbers and file names.
        names: The globals and attributes it mentions.
        assigned: Those that it assigns to, as in `self.calls += 1`.
        changed: Those whose values it changes in place, as in `self.inputs.append(data)`.
    """

    digest: bytes
    names: frozenset[str]
    assigned: frozenset[str]
    changed: frozenset[str]


@functools.lru_cache(maxsize=4096)
def facts_of(code: CodeType) -> CodeFacts:
    """Return the facts of a function's code."""
    names, assigned, changed = set[str](), set[str](), set[str]()
    for each in _with_nested(code):
        instructions = list(dis.get_instructions(each))
        names.update(each.co_names)
        assigned.update(_assigned(instructions))
        changed.update(_changed(instructions))
    return CodeFacts(_digest(code), frozenset(names), frozenset(assigned), frozenset(changed))


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)


class _ConstantDigester(Digester):
    def unknown(self, value: object, place: str, depth: int) -> bytes:
        return _digest(value) if isinstance(value, CodeType) else repr(type(value)).encode()


def _digest(code: CodeType) -> bytes:
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    parts = [code.co_name, shape, names, code.co_code, code.co_exceptiontable]
    digester = _ConstantDigester()
    return joined("code", [digester.digest(part, "code") for part in (*parts, code.co_consts)])


def _assigned(instructions: list[dis.Instruction]) -> Iterator[str]:
    """Yield the names that are assigned to, but for those of the context, which is no part of what runs."""
    for position, instruction in enumerate(instructions):
        if instruction.opname in _STORES and not _is_context(instructions, _owner_of(instructions, position)):
            yield str(instruction.argval)


def _owner_of(instructions: list[dis.Instruction], position: int) -> int:
    """Return where that is loaded whose attribute is stored at a position."""
    if position and instructions[position - 1].opname == "SWAP":  # `self.calls += 1` reads the attribute first
        while position and instructions[position].opname != "COPY":
            position -= 1
    return position - 1


def _is_context(instructions: list[dis.Instruction], position: int) -> bool:
    loaded = instructions[position]
    return position >= 0 and loaded.opname.startswith("LOAD_FAST") and loaded.argval == "context"


def _changed(instructions: list[dis.Instruction]) -> Iterator[str]:
    """Yield the names whose values are changed in place; what is not recognized is not known to change."""
    for position, instruction in enumerate(instructions):
        if instruction.opname in _ITEM_STORES:
            yield from _name_before(instructions, _key_of(instructions, position))
        elif instruction.argval in MUTATORS:
            yield from _name_before(instructions, position)


def _key_of(instructions: list[dis.Instruction], position: int) -> int:
    """Return where the key of an item is loaded that is stored at a position: right before, or before it was read."""
    if position and instructions[position - 1].opname == "SWAP":  # `counts[key] += 1` reads the item first
        while position and instructions[position].opname != "BINARY_SUBSCR":
            position -= 1
        while position and instructions[position - 1].opname == "COPY":
            position -= 1
    return position - 1


def _name_before(instructions: list[dis.Instruction], position: int) -> Iterator[Any]:
    is_named = position > 0 and instructions[position - 1].opname in _LOADS
    if is_named and not _is_context(instructions, position - 2):
        yield instructions[position - 1].argval
