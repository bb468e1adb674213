"""The frontier knows which entries of a journal count."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from flujo.application.core.frontier import Frontier
from flujo.state.records import EntryKind, JournalEntry

_KINDS: tuple[EntryKind, ...] = ("done", "note", "spent", "held", "asked", "answer")

_PARTS = st.sampled_from(["0", "1", "10", "branch:a", "a b", "~"])
_PATHS = st.lists(_PARTS, max_size=3).map("/".join)
_PUTS = st.tuples(_PATHS, st.sampled_from(_KINDS))
_FOLDS = st.tuples(_PATHS, st.none())


def _is_within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}/")


def _entry(number: int, path: str, kind: EntryKind) -> JournalEntry:
    return JournalEntry.sealed("run", number, path, kind, 1.5, "1")


@given(st.lists(_PUTS | _FOLDS, max_size=40), st.lists(_PATHS, max_size=5))
def test_a_frontier_is_what_was_put_and_not_folded(
    changes: list[tuple[str, EntryKind | None]], asked: list[str]
) -> None:
    """After any puts and folds it counts, knows and adds up the same entries as a plain list of them."""
    frontier, entries, numbers = Frontier(), list[JournalEntry](), count(1)

    for path, kind in changes:
        if kind is None:
            gone = [each for each in entries if each.kind != "answer" and _is_within(each.path, path)]
            assert sorted(frontier.fold(path)) == sorted(each.number for each in gone)
        else:
            entry = _entry(next(numbers), path, kind)
            gone = [each for each in entries if (each.path, each.kind) == (path, kind)]
            assert frontier.put(entry) == (gone[0].number if gone else None)
            entries.append(entry)
        entries = [each for each in entries if each not in gone]

    head = 0
    for entry in entries:
        head ^= entry.checksum
    assert (frontier.head, len(frontier)) == (head, len(entries))
    for path in {*asked, *(entry.path for entry in entries)}:
        assert all(
            frontier.has(path, kind) == any((each.path, each.kind) == (path, kind) for each in entries)
            for kind in _KINDS
        )
        if any(each.kind != "answer" and _is_within(each.path, path) for each in entries):
            assert frontier.knows(path)


def test_a_step_is_known_by_what_is_within_it() -> None:
    """Entries of inner steps make a step known, neighbours that only look alike and answers of its own do not."""
    frontier = Frontier()
    frontier.put(_entry(1, "1/branch:a/0", "done"))
    frontier.put(_entry(2, "2", "answer"))

    known = [path for path in ("", "1", "1/branch:a", "1/branch:a/0", "10", "1/branch", "2") if frontier.knows(path)]

    assert known == ["", "1", "1/branch:a", "1/branch:a/0"]
    assert [path for path in ("", "1", "1/branch:a/0") if frontier.has_inner(path)] == ["", "1"]
