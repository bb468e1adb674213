"""A link to a place on a page leads to a heading."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import read_page
from tests.house.source import REPOSITORY

_PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^(`{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    headings: list[str] = _HEADING.findall(_BLOCK.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", _PAGES, ids=_name)
def test_every_link_to_a_place_on_a_page_leads_to_a_heading(path: Path) -> None:
    """What follows the `#` of a link is the name of a heading of the page that it leads to."""
    placed = [link.target.partition("#") for link in read_page(path).links if "#" in link.target]
    inside = [(file, anchor) for file, _, anchor in placed if not re.match(r"[a-z]+:", file)]

    lost = [(file, anchor) for file, anchor in inside if anchor not in _anchors(path.parent / file if file else path)]

    assert lost == []


def test_headings_are_named_as_github_names_them(tmp_path: Path) -> None:
    """Marks are left out and blanks become hyphens; a comment in a block is no heading."""
    page = tmp_path / "page.md"
    page.write_text("# All at once: `Step.parallel`\n\n```sh\n# nothing\n```\n\n## What comes back\n", encoding="utf-8")

    assert _anchors(page) == {"all-at-once-stepparallel", "what-comes-back"}
