"""Reads a Markdown page as a program, and runs it.

All Python blocks of a page run in order in one namespace, as one script would:

* A block with a top-level `await` runs in an event loop, the same one for the whole page; any other block
  runs outside, so that it may call `Flujo.run`.
* `<!-- expect: SomeError -->` before a block says that it raises that error, or one derived from it.
* `<!-- output -->` between a Python block and a `text` block says that the first prints the second.

A directive that belongs to no block is a mistake, so that none can be forgotten silently.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)$")
_DIRECTIVE = re.compile(r"^\s*<!--\s*(?P<kind>expect|output)\b(?:\s*:\s*(?P<error>\w+))?\s*-->\s*$")
_LINK = re.compile(r"(?<!`)\]\(\s*<?(?P<inline>[^)\s>]+)|^\s*\[[^\]]+\]:\s+(?P<reference>\S+)")
_INLINE_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
_PYTHON = {"python", "py", "python3"}


class PageError(AssertionError):
    """A page does not do what it says; the message begins with its name and line."""

    def __init__(self, page: Path, line: int, message: str) -> None:
        super().__init__(f"{page}:{line}: {message}")


@dataclass(slots=True, frozen=True)
class Link:
    """Where a page points to."""

    target: str
    line: int


@dataclass(slots=True)
class Block:
    """One fenced block."""

    language: str
    line: int
    """Where its code begins: the line after the fence."""
    code: str
    error: str | None = None
    """The name of the error that it raises."""
    output: str | None = None
    """What it prints; None leaves that open."""


@dataclass(slots=True, frozen=True)
class Page:
    """A Markdown page: its blocks and its links."""

    path: Path
    blocks: list[Block]
    links: list[Link]

    @property
    def programs(self) -> list[Block]:
        """The blocks that run."""
        return [block for block in self.blocks if block.language in _PYTHON]


def read_page(path: Path) -> Page:
    """Parse a page.

    Raises:
        PageError: A fence is not closed, or a directive belongs to no block.
    """
    blocks: list[Block] = []
    links: list[Link] = []
    directive: tuple[re.Match[str], int] | None = None
    before_directive: Block | None = None  # what stood directly above it
    above: Block | None = None  # what stands directly above this line, blank lines aside
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if fence := _FENCE.match(line):
            block = _read_block(path, number, fence, lines)
            blocks.append(block)
            if directive is not None:
                _apply(path, *directive, block, before_directive)
                directive = None
            above = block
        elif found := _DIRECTIVE.match(line):
            if directive is not None:
                raise _stray(path, *directive)
            directive, before_directive, above = (found, number), above, None
        elif line.strip():
            if directive is not None:
                raise _stray(path, *directive)
            above = None
            links += _links(line, number)
    if directive is not None:
        raise _stray(path, *directive)
    return Page(path, blocks, links)


def _read_block(path: Path, opened_at: int, fence: re.Match[str], lines: Iterator[tuple[int, str]]) -> Block:
    closing = re.compile(rf"^[ \t]*{re.escape(fence['fence'])}{fence['fence'][0]}*[ \t]*$")
    indent = fence["indent"]
    code: list[str] = []
    for _, line in lines:
        if closing.match(line):
            language = fence["info"].split()[0] if fence["info"].strip() else ""
            return Block(language, opened_at + 1, "".join(f"{each}\n" for each in code))
        code.append(line.removeprefix(indent) if line.strip() else "")
    raise PageError(path, opened_at, "this block has no end")


def _apply(path: Path, directive: re.Match[str], line: int, block: Block, before: Block | None) -> None:
    """Note on a block what a directive above it says."""
    error = directive["error"]
    if directive["kind"] == "expect" and error is not None and block.language in _PYTHON:
        block.error = error
    elif (
        directive["kind"] == "output"
        and error is None
        and block.language == "text"
        and before is not None
        and before.language in _PYTHON
    ):
        before.output = block.code
    else:
        raise _stray(path, directive, line)


def _stray(path: Path, directive: re.Match[str], line: int) -> PageError:
    return PageError(path, line, f"{directive[0].strip()} belongs to no block")


def _links(line: str, number: int) -> Iterator[Link]:
    for found in _LINK.finditer(_INLINE_CODE.sub("", line)):
        yield Link(found["inline"] or found["reference"], number)


def broken_links(page: Page) -> list[str]:
    """Find the links to files that are not there; other sites and places on the same page are not looked at."""
    return [
        f"{page.path}:{link.line}: {link.target} does not exist"
        for link in page.links
        if not re.match(r"[a-z][a-z+.-]*:|#", link.target) and not _exists(page.path.parent, link.target)
    ]


def _exists(directory: Path, target: str) -> bool:
    name = target.partition("#")[0]
    return not name.startswith("/") and (directory / name).exists()


def run_page(page: Page, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Run the Python blocks of a page, as a script that stands in `directory`.

    Raises:
        PageError: A block fails, does not fail as it should, or prints something else.
    """
    script = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.chdir(directory)
    with asyncio.Runner() as runner:
        for block in page.programs:
            _run_block(page.path, block, script, runner)


def _run_block(path: Path, block: Block, script: types.ModuleType, runner: asyncio.Runner) -> None:
    printed = io.StringIO()
    failure: Exception | SystemExit | None = None
    try:
        with contextlib.redirect_stdout(printed):
            _execute(path, block, script, runner)
    except (Exception, SystemExit) as error:  # the page is the code under test
        failure = error
    _check_error(path, block, failure)
    if block.output is not None and _tidy(printed.getvalue()) != _tidy(block.output):
        message = f"prints\n{_tidy(printed.getvalue())}\ninstead of\n{_tidy(block.output)}"
        raise PageError(path, block.line, message)


def _execute(path: Path, block: Block, script: types.ModuleType, runner: asyncio.Runner) -> None:
    source = "\n" * (block.line - 1) + block.code  # so that tracebacks name the lines of the page
    code = compile(source, path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    coroutine = eval(code, vars(script))
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(coroutine)


def _check_error(path: Path, block: Block, failure: Exception | SystemExit | None) -> None:
    if failure is None:
        if block.error is not None:
            raise PageError(path, block.line, f"raises nothing; expected {block.error}")
        return
    if block.error not in {kind.__name__ for kind in type(failure).__mro__}:
        expected = f"; expected {block.error}" if block.error else ""
        message = f"{type(failure).__name__}: {failure}{expected}"
        raise PageError(path, _line_of(failure, path) or block.line, message) from failure


def _line_of(failure: BaseException, path: Path) -> int | None:
    """Return the last line of the page that an error went through."""
    if isinstance(failure, SyntaxError) and failure.filename == str(path):
        return failure.lineno
    line = None
    traceback = failure.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _tidy(text: str) -> str:
    """Leave out what nobody sees: blanks at the end of lines, and blank lines around the text."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
