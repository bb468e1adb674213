"""The frontier of a run: which entries of its journal count.

When a step finishes, its entry takes the place of those of the steps within it, so the frontier of a run stays small
however long the run is.
"""

from dataclasses import dataclass, field

from flujo.state.records import EntryKind, JournalEntry


@dataclass(slots=True)
class Frontier:
    """The entries of one run that count, without what they say.

    Attributes:
        head: The exclusive or of their checksums.
    """

    head: int = 0
    _entries: dict[tuple[str, EntryKind], tuple[int, int]] = field(
        default_factory=dict[tuple[str, EntryKind], tuple[int, int]]
    )  # number and checksum
    _calls: dict[str, dict[int, int]] = field(default_factory=dict[str, dict[int, int]])  # checksums by number
    _inner: dict[str, set[str]] = field(default_factory=dict[str, set[str]])  # paths that have entries at or below them

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._entries) + sum(map(len, self._calls.values())) if self._calls else len(self._entries)

    def put(self, entry: JournalEntry) -> int | None:
        """Let an entry count, and return the number of the one of its path and kind that counts no more."""
        if entry.kind == "call":
            self._put_call(entry)
            return None
        key = (entry.path, entry.kind)
        replaced = self._entries.get(key)
        self._entries[key] = (entry.number, entry.checksum)
        self.head ^= entry.checksum
        if replaced is not None:
            self.head ^= replaced[1]
            return replaced[0]
        self._add_path(entry.path)
        return None

    def _put_call(self, entry: JournalEntry) -> None:
        self._calls.setdefault(entry.path, {})[entry.number] = entry.checksum
        self.head ^= entry.checksum
        self._add_path(entry.path)

    def _add_path(self, path: str) -> None:
        while path:
            outer = path.rpartition("/")[0]
            inner = self._inner.setdefault(outer, set())
            if path in inner:
                return
            inner.add(path)
            path = outer

    def has(self, path: str, kind: EntryKind) -> bool:
        """Tell whether a step has an entry of a kind."""
        return (path, kind) in self._entries

    def has_inner(self, path: str) -> bool:
        """Tell whether there are entries of steps within the one at `path`."""
        return bool(self._inner.get(path))

    def knows(self, path: str) -> bool:
        """Tell whether there are entries of a step, besides an answer to it, or of steps within it."""
        entries = self._entries
        return (
            bool(self._inner.get(path))
            or (path, "done") in entries
            or (path, "spent") in entries
            or (path, "held") in entries
            or (path, "asked") in entries
            or (path, "note") in entries
            or path in self._calls
        )

    def drop(self, path: str, kind: EntryKind) -> int | None:
        """Let the entry of a kind count no more, and return its number; `None` if there is none."""
        gone = self._entries.pop((path, kind), None)
        if gone is None:
            return None
        self.head ^= gone[1]
        return gone[0]

    def drop_call(self, path: str, number: int) -> None:
        """Let the entry of a call count no more."""
        calls = self._calls[path]
        self.head ^= calls.pop(number)
        if not calls:
            del self._calls[path]

    def fold(self, path: str) -> list[int]:
        """Let the entries of a step and of all steps within it count no more, but answers; return their numbers."""
        numbers: list[int] = []
        waiting = [path]
        while waiting:
            current = waiting.pop()
            waiting.extend(self._inner.pop(current, ()))
            for number, checksum in self._calls.pop(current, _NO_CALLS).items():
                numbers.append(number)
                self.head ^= checksum
            for kind in _FOLDED:
                gone = self._entries.pop((current, kind), None)
                if gone is not None:
                    numbers.append(gone[0])
                    self.head ^= gone[1]
        self._inner.get(path.rpartition("/")[0], set[str]()).discard(path)
        return numbers


_FOLDED: tuple[EntryKind, ...] = ("done", "note", "spent", "held", "asked")
_NO_CALLS: dict[int, int] = {}
