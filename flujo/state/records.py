"""What a store keeps of runs: a record for each run, and the entries of its journal.

Both carry checksums, because a database tells neither of a flipped bit nor of a lost row.
An entry's checksum is of all it says; a record's `head` is the exclusive or of the checksums of the run's entries,
which is the same in whatever order they are read, and changes with each entry that comes, goes or is damaged.
"""

import hashlib
import re
from collections.abc import Sequence
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

EntryKind = Literal["done", "note", "spent", "held", "call", "asked", "answer"]
"""What an entry of a journal says of a step.

`done`: it finished, with this result. `note`: it stands here. `spent`: it paid this and did not finish.
`held`: it may have paid this in an attempt that did not come to an end. `call`: this is what a call gave that an
attempt made which did not come to an end.
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
    if "%" not in text:
        return tuple(text.split("/")) if text else ()
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


@dataclass(slots=True)
class JournalEntry:
    """What a run knows of one of its steps; a step has one entry of each kind at the most, but for calls.

    Attributes:
        number: Its own in the run; what was written later has a higher one.
        path: The step's address, as `written_path` gives it.
        kind: What the entry says.
        at: When it was made, in seconds since 1970.
        payload: The rest, as JSON.
        checksum: Of all of these and the run they belong to.
    """

    number: int
    path: str
    kind: EntryKind
    at: float
    payload: str
    checksum: int

    @classmethod
    def sealed(cls, run_id: str, number: int, path: str, kind: EntryKind, at: float, payload: str) -> Self:
        """Return an entry with its checksum."""
        return cls(number, path, kind, at, payload, _entry_sum(run_id, number, path, kind, at, payload))

    def is_intact(self, run_id: str) -> bool:
        """Tell whether nothing has changed since the entry was sealed."""
        made = _entry_sum(run_id, self.number, self.path, self.kind, self.at, self.payload)
        return self.checksum == made


def _entry_sum(run_id: str, number: int, path: str, kind: str, at: float, payload: str) -> int:
    return checksum_of(f"{len(run_id)}\0{run_id}\0{number}\0{path}\0{kind}\0{at!r}\0{payload}")


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
    """Of all that the owner stored; who owns the run is not part of it, because that changes without the owner."""

    @property
    def seal(self) -> "RunSeal":
        """What the checksum is made of."""
        created_at = self.created_at.timestamp()
        return RunSeal.of(self.run_id, self.pipeline_name, self.pipeline_version, created_at, self.start)

    def sealed(self) -> Self:
        """Return the record with its checksum."""
        return self.model_copy(update={"checksum": self._made_checksum()})

    def is_intact(self) -> bool:
        """Tell whether nothing has changed since the record was written."""
        return self.checksum == self._made_checksum()

    def _made_checksum(self) -> int:
        return self.seal.checksum(
            self.status,
            self.updated_at.timestamp(),
            self.total_cost,
            self.total_tokens,
            self.head,
            self.entry_count,
        )


@dataclass(slots=True, frozen=True)
class RunSeal:
    """Makes the checksums of a run's record; what never changes of it is hashed once."""

    beginning_sum: int

    @classmethod
    def of(cls, run_id: str, pipeline_name: str, pipeline_version: str, created_at: float, start: str) -> "RunSeal":
        """Return what seals the records of a run."""
        parts = (run_id, pipeline_name, pipeline_version, repr(created_at), start)
        return cls(checksum_of("\0".join([f"{len(part)}:{part}" for part in parts])))  # no part runs into the next

    def checksum(self, status: StoredStatus, at: float, cost: Decimal, tokens: int, head: int, entry_count: int) -> int:
        """Return the checksum of a record, which was last changed at a moment in seconds since 1970."""
        return checksum_of(f"{self.beginning_sum} {status} {at!r} {cost} {tokens} {head} {entry_count}")


@dataclass(slots=True, frozen=True)
class StoredRun:
    """A run as it is stored."""

    record: RunRecord
    entries: list[JournalEntry]


@dataclass(slots=True, kw_only=True)
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
        removed: The numbers of the entries that vanish.
        entries: What is added; none has the number of one that is there.
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
    removed: Sequence[int] = ()
    entries: Sequence[JournalEntry] = ()
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


def checksum_of(text: str) -> int:
    """Return 64 bits, signed as databases have them."""
    made = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(made.digest(), "big", signed=True)
