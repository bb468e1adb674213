"""The documentation does what it says: every Python block runs, every link leads somewhere."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PageError, broken_links, read_page, run_page
from tests.house.source import REPOSITORY

_DOCUMENTED = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
_WRITTEN = sorted({*_DOCUMENTED, *REPOSITORY.glob("*.md")})


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", _DOCUMENTED, ids=_name)
def test_every_python_block_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page run in order, and do and print what the page says."""
    run_page(read_page(path), monkeypatch, tmp_path)


@pytest.mark.parametrize("path", _WRITTEN, ids=_name)
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    """A page links only to files that exist."""
    assert broken_links(read_page(path)) == []


def test_the_readme_is_read() -> None:
    """There is a README, and its blocks are found."""
    assert read_page(REPOSITORY / "README.md").blocks


# The runner itself


class _Pages:
    """Writes pages and runs them."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = directory / "page.md"
        self._monkeypatch = monkeypatch
        self._working_directory = directory / "work"
        self._working_directory.mkdir()

    def run(self, text: str) -> None:
        """Write a page and run it; `'''` stands for a fence."""
        self.path.write_text(text.replace("'''", "```"))
        run_page(read_page(self.path), self._monkeypatch, self._working_directory)

    def error_of(self, text: str) -> str:
        """Run a page that fails, and return the message, which begins with its name."""
        with pytest.raises(PageError) as caught:
            self.run(text)
        name, _, message = str(caught.value).partition(f"{self.path}:")
        assert name == ""
        return message


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Pages:
    """A place for made-up pages."""
    return _Pages(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "text",
    [
        "'''python\na = 1\n'''\n\n'''python\nassert a == 1\n'''",
        "'''python\nimport asyncio\nawait asyncio.sleep(0)\nloop = asyncio.get_running_loop()\n'''\n"
        "'''python\nasyncio.run(asyncio.sleep(0))\n'''\n"
        "'''python\nawait asyncio.sleep(0)\nassert loop is asyncio.get_running_loop()\n'''",
        "'''python\nfrom pathlib import Path\nassert not list(Path().iterdir())\nPath('x').touch()\n'''",
        "'''python\nimport __main__\nassert __name__ == '__main__' and vars(__main__) is globals()\n'''",
        "- In a list:\n\n  '''python title=\"a.py\"\n  if True:\n\n      a = 1\n  '''\n",
        "'''sh\nexit 1\n'''\n\n'''\nnot code\n'''",
        "````md\n'''python\n1 / 0\n'''\n````",
        '~~~python\na = "~~~"\n~~~',
        "<!-- expect: LookupError -->\n\n'''python\n{}['a']\n'''",
        "<!-- expect: SyntaxError -->\n'''python\na b\n'''",
        "'''python\nprint('a ')\nprint('b')\n'''\n\n<!-- output -->\n\n'''text\na\nb\n'''",
        "<!-- expect: KeyError -->\n'''python\nprint(1)\n{}['a']\n'''\n<!-- output -->\n'''text\n1\n'''",
    ],
    ids=[
        "one namespace",
        "one loop, and none outside of it",
        "an empty working directory",
        "a script",
        "an indented block",
        "other languages",
        "a block in a block",
        "tildes",
        "an expected error",
        "an expected syntax error",
        "an expected output",
        "both",
    ],
)
def test_a_page_that_does_what_it_says_passes(pages: _Pages, text: str) -> None:
    """What the documentation may contain runs as a reader would expect."""
    pages.run(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("'''python\na = 1\nassert a == 2\n'''", "3: AssertionError: "),
        ("# Page\n\n'''python\nawait nobody()\n'''", "4: NameError: name 'nobody' is not defined"),
        ("'''python\na = 1\n'''\n'''python\na b\n'''", "5: SyntaxError: "),
        (
            "'''python\ndef f():\n    raise KeyError('a')\n'''\n\n'''python\nf()\n'''",
            "3: KeyError: 'a'",
        ),
        ("'''python\nraise SystemExit(2)\n'''", "2: SystemExit: 2"),
        (
            "<!-- expect: KeyError -->\n'''python\na = 1\n'''",
            "3: raises nothing; expected KeyError",
        ),
        (
            "<!-- expect: KeyError -->\n'''python\n1 / 0\n'''",
            "3: ZeroDivisionError: division by zero; ",
        ),
        (
            "'''python\nprint(1)\n'''\n<!-- output -->\n'''text\n2\n'''",
            "2: prints\n1\ninstead of\n2",
        ),
        ("'''python\n'''\n<!-- output -->\n'''text\n2\n'''", "2: prints\n\ninstead of\n2"),
    ],
)
def test_a_page_that_does_otherwise_fails(pages: _Pages, text: str, message: str) -> None:
    """A failure names the page, the line and what happened there."""
    assert pages.error_of(text).startswith(message)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("'''python\na = 1\n", 1),
        ("<!-- expect: KeyError -->\n", 1),
        ("<!-- expect: KeyError -->\nSo:\n'''python\n{}['a']\n'''", 1),
        ("<!-- expect: KeyError -->\n'''text\nKeyError\n'''", 1),
        ("<!-- expect -->\n'''python\n{}['a']\n'''", 1),
        ("<!-- expect: KeyError -->\n<!-- expect: ValueError -->\n'''python\n{}['a']\n'''", 1),
        ("'''python\nprint(1)\n'''\nIt prints:\n<!-- output -->\n'''text\n2\n'''", 5),
        ("'''python\nprint(1)\n'''\n<!-- output -->\n'''json\n2\n'''", 4),
        ("'''sh\necho 1\n'''\n<!-- output -->\n'''text\n1\n'''", 4),
    ],
)
def test_a_page_that_cannot_be_understood_fails(pages: _Pages, text: str, line: int) -> None:
    """A block without an end, and a directive that belongs to no block, are found before anything runs."""
    assert pages.error_of(text).startswith(f"{line}: ")


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """Links are followed in the text, not in code, and not to other sites."""
    (tmp_path / "there.md").touch()
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md), [b](there.md#part), [c](#here), [d](https://example.com/x), [e](mailto:x@y.z)\n"
        "![f](gone.png) and `[g](code.md)` and [`h`](gone.md 'Title') and [i](/there.md)\n"
        "[j]: gone/reference.md\n"
        "```text\n[k](in_a_block.md)\n```\n"
    )

    found = [re.sub(r"^.*page\.md:", "", each) for each in broken_links(read_page(page))]

    assert found == [
        "2: gone.png does not exist",
        "2: gone.md does not exist",
        "2: /there.md does not exist",
        "3: gone/reference.md does not exist",
    ]
