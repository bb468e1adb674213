"""What a store keeps of runs: a record for each run, and the entries of its journal.

Both carry checksums, because a database tells neither of a flipped bit nor of a lost row.
An entry's checksum is of all it says; a record's `head` is the exclusive or of the checksums of the run's entries,
which is the same in whatever order they are read, and changes with each entry that comes, goes or is damaged.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, Self
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict

from flujo.domain.models import StepPath
from flujo.domain.money import ZERO
from flujo.domain.results import RunStatus

StoredStatus = RunStatus | Literal["running"]
"""How a stored run stands; `running` until it ended in some way."""

EntryKind = Literal["done", "note", "spent", "asked", "answer"]
"""What an entry of a journal says of a step.

`done`: it finished, with this result. `note`: it stands here. `spent`: it paid this and did not finish.
`asked`: it waits for a person. `answer`: this is what the person said, which is kept as long as the run.
"""

_PLAIN = " !'()*+,:;=@[]^_`{|}~-.<>$&#?\""  # in a part of a path; everything else but letters and digits is escaped


_NOTHING = "%"  # a part without characters, so that no two addresses are written alike

_UNSTORABLE = re.compile("[%\0\ud800-\udfff]")  # what no column takes, and the mark of what stands in its place
_ESCAPED = re.compile("%([0-9a-f]{4})")


def written_path(path: StepPath) -> str:
    """Return an address as one text of ASCII, such as `2/branch:legal/0`; parts may hold any characters."""
    return "/".join([part if part.isalnum() and part.isascii() else _written_part(part) for part in path])


def _written_part(part: str) -> str:
    return quote(part, safe=_PLAIN, errors="surrogatepass") or _NOTHING


def read_path(text: str) -> StepPath:
    """Return the address that `written_path` gave the text for."""
    if not text:
        return ()
    return tuple("" if part == _NOTHING else unquote(part, errors="surrogatepass") for part in text.split("/"))


def running_order(path: StepPath) -> list[tuple[str, int]]:
    """Return a key that sorts paths with their numbers as numbers: `item:2` before `item:10`."""
    return [_number_aware(part) for part in path]


def _number_aware(part: str) -> tuple[str, int]:
    name, _, number = part.rpartition(":")
    return (name, int(number)) if number.isascii() and number.isdecimal() else (part, 0)


def stored_text(text: str) -> str:
    """Return any text as databases take it: without NUL and surrogates, and with `%0025` for `%`."""
    return _UNSTORABLE.sub(lambda found: f"%{ord(found[0]):04x}", text)


def read_text(stored: str) -> str:
    """Return the text that `stored_text` wrote."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), stored)


def is_within(path: str, outer: str) -> bool:
    """Tell whether a written path is another one or below it."""
    return path == outer or path.startswith(f"{outer}/") or not outer


@dataclass(slots=True, frozen=True)
class JournalEntry:
    """What a run knows of one of its steps; a step has one entry of each kind at the most.

    Attributes:
        path: The step's address, as `written_path` gives it.
        kind: What the entry says.
        at: When it was made, in seconds since 1970.
        payload: The rest, as JSON.
        checksum: Of all of these and the run they belong to.
    """

    path: str
    kind: EntryKind
    at: float
    payload: str
    checksum: int

    @classmethod
    def sealed(cls, run_id: str, path: str, kind: EntryKind, at: float, payload: str) -> Self:
        """Return an entry with its checksum."""
        return cls(path, kind, at, payload, _checksum(run_id, path, kind, repr(at), payload))

    def is_intact(self, run_id: str) -> bool:
        """Tell whether nothing has changed since the entry was sealed."""
        return self.checksum == _checksum(run_id, self.path, self.kind, repr(self.at), self.payload)


class RunRecord(BaseModel):
    """What is known of a run as a whole."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    pipeline_name: str
    pipeline_version: str
    status: StoredStatus = "running"
    created_at: datetime
    updated_at: datetime
    owner: str | None = None
    """Who runs it, as text; `None` while nobody does."""
    total_cost: Decimal = ZERO
    """US dollars, exact: what finished steps cost and failed ones spent."""
    total_tokens: int = 0
    start: str = "{}"
    """The input and the context that the run began with, as JSON."""
    head: int = 0
    """The exclusive or of the checksums of all entries."""
    entry_count: int = 0
    checksum: int = 0
    """Of what the owner stored: status, totals, start, head and count."""

    @property
    def seal(self) -> "RunSeal":
        """What the checksum is made of."""
        return RunSeal.of(self.run_id, self.start)

    def is_intact(self) -> bool:
        """Tell whether nothing has changed since the record was written."""
        return self.checksum == self.seal.checksum(
            self.status, self.total_cost, self.total_tokens, self.head, self.entry_count
        )


@dataclass(slots=True, frozen=True)
class RunSeal:
    """Makes the checksums of a run's record; what never changes of it is hashed once."""

    run_id: str
    start_sum: int

    @classmethod
    def of(cls, run_id: str, start: str) -> "RunSeal":
        """Return what seals the records of a run."""
        return cls(run_id, _checksum(start))

    def checksum(self, status: StoredStatus, cost: Decimal, tokens: int, head: int, entry_count: int) -> int:
        """Return the checksum of a record."""
        return _checksum(self.run_id, str(self.start_sum), status, str(cost), str(tokens), str(head), str(entry_count))


@dataclass(slots=True, frozen=True)
class StoredRun:
    """A run as it is stored."""

    record: RunRecord
    entries: list[JournalEntry]


@dataclass(slots=True, frozen=True, kw_only=True)
class JournalWrite:
    """What changes in a stored run, all of it at once or nothing.

    Attributes:
        status: How the run stands from now on.
        at: When that is, in seconds since 1970.
        total_cost: US dollars, exact.
        total_tokens: Input and output together.
        after: The `head` that the run has before; a change that builds on one that failed is refused.
        head: The `head` that it has afterwards.
        entry_count: How many entries it has afterwards.
        checksum: Of the record as it is afterwards.
        folded: Written paths whose entries, and those below them, vanish first; answers stay.
        entries: What is put then; an entry of the same path and kind is replaced.
        releases: Whether the run belongs to nobody afterwards.
    """

    status: StoredStatus
    at: float
    total_cost: Decimal
    total_tokens: int
    after: int
    head: int
    entry_count: int
    checksum: int
    folded: tuple[str, ...] = ()
    entries: tuple[JournalEntry, ...] = ()
    releases: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class RunQuery:
    """Which runs to list, the newest first.

    Attributes:
        status: Only runs that stand like this; `None` for all.
        pipeline_name: Only runs of this pipeline; `None` for all.
        since: Only runs that changed at this moment or later; `None` for all.
        until: Only runs that changed before this moment; `None` for all.
        limit: The most runs; `None` for all.
    """

    status: StoredStatus | None = None
    pipeline_name: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None


def _checksum(*parts: str) -> int:
    """Return 64 bits, signed as databases have them; lengths keep parts from running into each other."""
    made = hashlib.blake2b(
        "\0".join([f"{len(part)}:{part}" for part in parts]).encode("utf-8", "surrogatepass"), digest_size=8
    )
    return int.from_bytes(made.digest(), "big", signed=True)
