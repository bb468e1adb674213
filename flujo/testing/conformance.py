"""What every store of runs has to do, as tests that any implementation can inherit.

pytest collects the tests of a subclass; each of them runs an event loop of its own, so no plugin for asyncio is needed.
"""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Protocol, TypeVar

import pytest

from flujo.exceptions import RunNotFoundError, RunOwnedError, StateError
from flujo.state.backend import StateBackend
from flujo.state.ownership import Owner
from flujo.state.records import (
    EntryKind,
    JournalEntry,
    JournalWrite,
    RunQuery,
    RunRecord,
    StoredRun,
    StoredStatus,
)


class _MakesStores(Protocol):
    def new_store(self, *, lease_s: float) -> StateBackend: ...


SuiteT = TypeVar("SuiteT", bound=_MakesStores)

_START = datetime(2026, 1, 1, 12, 30, 15, 123457, tzinfo=UTC)
LONG_S = 3600.0
"""A lease that does not run out during a test."""

_SHORT_S = 0.02  # a lease that runs out while a test waits for it
_PATIENCE_S = 20.0  # how long a test waits for a lease to run out

TEXTS = (
    "",
    " leading and trailing ",
    "nul \x00 within, and at the end \x00",
    "a lone surrogate \ud800, and a pair the wrong way round \udc00\ud83d",
    "emoji 🦜 and 漢字, e\u0301 and é",
    "'; DROP TABLE runs; --",
    '100%, %00, %41, %ud800, under_score, back\\slash, "quotes", {braces}, $1, ?',
    "line\nfeed\r\ttab\x1b\x7f\u2028",
    "x" * 20_000,
)
"""Identities, names and parts of paths that a store has to keep as they are."""


def in_a_loop(test: Callable[[SuiteT, Any], Coroutine[Any, Any, None]]) -> Callable[[SuiteT], None]:
    """Run a test in an event loop of its own, with a fresh store that is closed afterwards."""

    def run(self: SuiteT) -> None:
        async def scenario() -> None:
            store = self.new_store(lease_s=LONG_S)
            try:
                await test(self, store)
            finally:
                await store.close()

        asyncio.run(scenario())

    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    return run


@dataclass(slots=True)
class RunDraft:
    """A run as its owner knows it: makes its record, and changes that follow one another.

    Attributes:
        run_id: Its identity.
        name: That of its pipeline.
        version: That of its pipeline.
        created_at: When it began.
        start: The input and the context that it begins with, as JSON.
        entries: What its journal holds, by number.
    """

    run_id: str = field(default_factory=lambda: f"run-{uuid.uuid4().hex}")
    name: str = "pipeline"
    version: str = "latest"
    created_at: datetime = _START
    start: str = '{"input":1,"context":{}}'
    entries: dict[int, JournalEntry] = field(default_factory=dict[int, JournalEntry])
    _last_number: int = 0

    @property
    def head(self) -> int:
        """The exclusive or of the checksums of the entries."""
        head = 0
        for entry in self.entries.values():
            head ^= entry.checksum
        return head

    def record(self) -> RunRecord:
        """Return the record of the run as it begins."""
        return RunRecord(
            run_id=self.run_id,
            pipeline_name=self.name,
            pipeline_version=self.version,
            created_at=self.created_at,
            updated_at=self.created_at,
            start=self.start,
        ).sealed()

    def entry(self, path: str, kind: EntryKind = "done", payload: str = '{"output":1}') -> JournalEntry:
        """Return the next entry of the run, sealed."""
        self._last_number += 1
        return JournalEntry.sealed(self.run_id, self._last_number, path, kind, _START.timestamp() + 0.1, payload)

    def change(
        self,
        *entries: JournalEntry,
        removed: Iterable[JournalEntry] = (),
        status: StoredStatus = "running",
        at: datetime = _START,
        cost: Decimal = Decimal(0),
        tokens: int = 0,
        releases: bool = False,
    ) -> JournalWrite:
        """Return the change that removes and adds entries, and count on its being stored."""
        after, gone = self.head, [entry.number for entry in removed]
        for number in gone:
            del self.entries[number]
        self.entries.update({entry.number: entry for entry in entries})
        head, count = self.head, len(self.entries)
        return JournalWrite(
            status=status,
            at=at.timestamp(),
            total_cost=cost,
            total_tokens=tokens,
            after=after,
            head=head,
            entry_count=count,
            checksum=self.record().seal.checksum(status, at.timestamp(), cost, tokens, head, count),
            removed=gone,
            entries=entries,
            releases=releases,
        )

    def is_like(self, stored: StoredRun) -> bool:
        """Tell whether the store holds exactly the entries of this draft, and a record that is not damaged."""
        found = {entry.number: entry for entry in stored.entries}
        return (
            len(found) == len(stored.entries)
            and found == self.entries
            and all(entry.is_intact(self.run_id) for entry in stored.entries)
            and stored.record.is_intact()
            and (stored.record.run_id, stored.record.head) == (self.run_id, self.head)
            and (stored.record.start, stored.record.entry_count) == (self.start, len(self.entries))
        )


def owner_elsewhere() -> Owner:
    """Return an owner on another host: whether it lives cannot be told, so only its lease counts."""
    return Owner(host="elsewhere#0", pid=4711, started="1")


class StateBackendConformance:
    """Tests of all that `StateBackend` promises; a subclass says how its store is made.

    Example:
        ```python
        from flujo import InMemoryBackend
        from flujo.testing.conformance import StateBackendConformance

        class TestMyStore(StateBackendConformance):
            def new_store(self, *, lease_s: float) -> InMemoryBackend:
                return InMemoryBackend(lease_s=lease_s)

            def reopened(self, store: InMemoryBackend, *, lease_s: float) -> InMemoryBackend:
                store.lease_s = lease_s
                return store

        TestMyStore().test_a_run_is_created_once()  # pytest calls this one and all others
        ```
    """

    def new_store(self, *, lease_s: float) -> StateBackend:
        """Return a new store without runs; what it needs, such as a folder, comes from `autouse` fixtures."""
        raise NotImplementedError("say how the store is made")

    def reopened(self, store: Any, *, lease_s: float) -> StateBackend:
        """Return a store of the same runs with another lease, as a second process would open it.

        A store that cannot be opened twice changes its lease and returns itself.
        """
        raise NotImplementedError("say how a second store of the same runs is made")

    # Beginning

    @in_a_loop
    async def test_a_run_is_created_once(self, store: StateBackend) -> None:
        """The first to create a run gets it; whoever comes later is told so, and changes nothing."""
        draft, first = RunDraft(), owner_elsewhere()
        record = draft.record()

        assert await store.create(record, first) is True
        assert await store.create(record.model_copy(update={"pipeline_name": "other"}), owner_elsewhere()) is False
        assert await store.create(record, first) is False
        stored = await store.load(draft.run_id)
        assert stored.record == record.model_copy(update={"owner": first.text})
        assert draft.is_like(stored)

    @in_a_loop
    async def test_what_is_created_comes_back_as_it_is(self, store: StateBackend) -> None:
        """Names, times to the microsecond and a start of a megabyte are the same when they are read."""
        zone = timezone(timedelta(hours=5, minutes=45))
        start = '{"input":"' + "ab\\u0000\\ud800" * 80_000 + '"}'
        draft = RunDraft(name="né\U0001f99c", version="2.0-β", created_at=_START.astimezone(zone), start=start)

        await store.create(draft.record(), owner_elsewhere())

        found = (await store.load(draft.run_id)).record
        assert (found.pipeline_name, found.pipeline_version, found.start) == ("né\U0001f99c", "2.0-β", start)
        assert found.created_at == found.updated_at == _START
        assert found.status == "running"
        assert found.is_intact()

    @in_a_loop
    async def test_any_text_is_an_identity_and_a_name(self, store: StateBackend) -> None:
        """NUL, surrogates, quotes, wildcards, nothing at all and very long texts name runs and pipelines."""
        for text in TEXTS:
            draft, owner = RunDraft(text, name=text, version=text), owner_elsewhere()
            assert await store.create(draft.record(), owner), text
            await store.write(text, owner, draft.change(draft.entry("0")))

        for text in TEXTS:
            stored = await store.load(text)
            assert (stored.record.run_id, stored.record.pipeline_name) == (text, text)
            assert stored.record.pipeline_version == text
            assert [entry.path for entry in stored.entries] == ["0"]
            (named,) = await store.list_runs(RunQuery(pipeline_name=text))
            assert named.run_id == text
        assert len(await store.list_runs(RunQuery())) == len(TEXTS)

    @in_a_loop
    async def test_identities_are_compared_exactly(self, store: StateBackend) -> None:
        """Case, accents, trailing spaces and escapes tell runs from each other."""
        alike = ["run", "RUN", "run ", "rún", "ru\u0301n", "run%00", "run\x00", "run%2500", "ru_", "ru%"]
        for text in alike:
            assert await store.create(RunDraft(text, name=text).record(), owner_elsewhere()) is True, text

        for text in alike:
            assert [record.run_id for record in await store.list_runs(RunQuery(pipeline_name=text))] == [text]
        with pytest.raises(RunNotFoundError):
            await store.load("Run")

    @in_a_loop
    async def test_of_many_who_create_one_run_one_succeeds(self, store: StateBackend) -> None:
        """Twenty tasks that create the same run at once make one run, which belongs to the one who was told so."""
        draft = RunDraft()
        owners = [owner_elsewhere() for _ in range(20)]

        made = await asyncio.gather(*(store.create(draft.record(), owner) for owner in owners))

        assert sum(made) == 1
        assert (await store.load(draft.run_id)).record.owner == owners[made.index(True)].text

    # Claiming

    @in_a_loop
    async def test_a_run_that_belongs_to_nobody_can_be_claimed(self, store: StateBackend) -> None:
        """Whoever claims a run that was let go owns it, and gets its record and its entries."""
        draft, first, second = RunDraft(), owner_elsewhere(), owner_elsewhere()
        await store.create(draft.record(), first)
        await store.write(draft.run_id, first, draft.change(draft.entry("0"), draft.entry("1"), releases=True))
        assert (await store.load(draft.run_id)).record.owner is None

        claimed = await store.claim(draft.run_id, second)

        assert draft.is_like(claimed)
        assert claimed.record.owner == (await store.load(draft.run_id)).record.owner == second.text
        await store.write(draft.run_id, second, draft.change(draft.entry("2")))
        with pytest.raises(RunOwnedError):
            await store.write(draft.run_id, first, draft.change(draft.entry("3")))

    @in_a_loop
    async def test_a_run_of_somebody_else_cannot_be_claimed(self, store: StateBackend) -> None:
        """While the lease of an owner that cannot be asked lasts, the error names the run and the owner."""
        draft, first = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), first)

        with pytest.raises(RunOwnedError) as refused:
            await store.claim(draft.run_id, owner_elsewhere())

        assert refused.value.run_id == draft.run_id
        assert refused.value.owner == first.describe() == "process 4711 on host elsewhere"
        assert (await store.load(draft.run_id)).record.owner == first.text

    @in_a_loop
    async def test_an_owner_may_claim_its_own_run_again(self, store: StateBackend) -> None:
        """Who owns a run and claims it gets it, and goes on owning it."""
        draft, owner = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), owner)

        assert draft.is_like(await store.claim(draft.run_id, owner))
        await store.write(draft.run_id, owner, draft.change(draft.entry("0")))

    @in_a_loop
    async def test_a_live_owner_in_this_process_keeps_its_run(self, store: StateBackend) -> None:
        """An owner that runs here is known to live: its run is refused to others, and free once it has left."""
        draft, first, second = RunDraft(), Owner(), Owner()
        first.enter()
        try:
            await store.create(draft.record(), first)
            with pytest.raises(RunOwnedError):
                await store.claim(draft.run_id, second)
        finally:
            first.leave()

        assert (await store.claim(draft.run_id, second)).record.owner == second.text

    @in_a_loop
    async def test_a_dead_owner_is_superseded_at_once(self, store: StateBackend) -> None:
        """A process of this host that is gone keeps nothing, however long its lease is."""
        draft, gone = RunDraft(), replace(Owner(), started="another time")
        await store.create(draft.record(), gone)

        claimed = await store.claim(draft.run_id, owner_elsewhere())

        assert draft.is_like(claimed)

    def test_an_owner_is_superseded_when_its_lease_runs_out(self) -> None:
        """After the lease anybody may claim; what the superseded owner writes is refused and changes nothing."""

        async def scenario() -> None:
            store = self.new_store(lease_s=_SHORT_S)
            draft, first, second = RunDraft(), owner_elsewhere(), owner_elsewhere()
            await store.create(draft.record(), first)
            await _claimed_at_last(store, draft.run_id, second)
            await store.close()
            store = self.reopened(store, lease_s=LONG_S)
            await store.renew(draft.run_id, second)
            before = await store.load(draft.run_id)

            for refused in (
                lambda: store.write(draft.run_id, first, RunDraft(draft.run_id).change(draft.entry("0"))),
                lambda: store.renew(draft.run_id, first),
                lambda: store.claim(draft.run_id, first),
            ):
                with pytest.raises(RunOwnedError) as error:
                    await refused()
                assert (error.value.run_id, error.value.owner) == (draft.run_id, second.describe())
            await store.release(draft.run_id, first)
            assert await store.load(draft.run_id) == before
            await store.close()

        asyncio.run(scenario())

    def test_writing_and_renewing_make_the_lease_last(self) -> None:
        """A lease that would have run out is renewed by each of the things that an owner does."""

        async def scenario() -> None:
            for renewed_by in ("renew", "write", "claim"):
                store = self.new_store(lease_s=_SHORT_S)
                draft, owner = RunDraft(), owner_elsewhere()
                await store.create(draft.record(), owner)
                await store.close()
                store = self.reopened(store, lease_s=LONG_S)
                if renewed_by == "renew":
                    await store.renew(draft.run_id, owner)
                elif renewed_by == "write":
                    await store.write(draft.run_id, owner, draft.change(draft.entry("0")))
                else:
                    await store.claim(draft.run_id, owner)
                await asyncio.sleep(2 * _SHORT_S)  # the first lease has run out by now
                with pytest.raises(RunOwnedError):
                    await store.claim(draft.run_id, owner_elsewhere())
                await store.close()

        asyncio.run(scenario())

    @in_a_loop
    async def test_of_many_who_claim_a_run_one_gets_it(self, store: StateBackend) -> None:
        """Twenty tasks that claim a free run at once make one owner; the others are told who it is."""
        draft, first = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), first)
        await store.release(draft.run_id, first)
        owners = [owner_elsewhere() for _ in range(20)]

        results = await asyncio.gather(*(store.claim(draft.run_id, owner) for owner in owners), return_exceptions=True)

        claimed = [result for result in results if isinstance(result, StoredRun)]
        assert len(claimed) == 1
        assert sum(isinstance(result, RunOwnedError) for result in results) == len(owners) - 1
        assert (await store.load(draft.run_id)).record.owner == claimed[0].record.owner

    @in_a_loop
    async def test_a_completed_run_belongs_to_nobody(self, store: StateBackend) -> None:
        """Claiming a run that completed returns it to everybody, and lets nobody write."""
        draft, first = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), first)
        await store.write(draft.run_id, first, draft.change(draft.entry("0"), status="completed", releases=True))

        for _ in range(2):
            second = owner_elsewhere()
            claimed = await store.claim(draft.run_id, second)
            assert draft.is_like(claimed)
            assert (claimed.record.status, claimed.record.owner) == ("completed", None)
            with pytest.raises(RunOwnedError):
                await store.write(draft.run_id, second, draft.change())
        assert (await store.load(draft.run_id)).record.owner is None

    @in_a_loop
    async def test_runs_that_ended_otherwise_can_be_claimed(self, store: StateBackend) -> None:
        """Paused, failed, stopped, aborted and cancelled runs go on with a new owner."""
        statuses: tuple[StoredStatus, ...] = ("paused", "failed", "stopped", "aborted", "cancelled")
        for status in statuses:
            draft, first, second = RunDraft(), owner_elsewhere(), owner_elsewhere()
            await store.create(draft.record(), first)
            await store.write(draft.run_id, first, draft.change(draft.entry("0"), status=status, releases=True))

            claimed = await store.claim(draft.run_id, second)

            assert (claimed.record.status, claimed.record.owner) == (status, second.text)
            await store.write(draft.run_id, second, draft.change(draft.entry("1")))
            assert (await store.load(draft.run_id)).record.status == "running"

    @in_a_loop
    async def test_a_run_that_is_not_there_is_not_found(self, store: StateBackend) -> None:
        """Whatever needs a run names the one that is missing; letting go and forgetting need none."""
        draft, owner = RunDraft("no such run"), owner_elsewhere()
        await store.create(RunDraft().record(), owner)

        for missing in (
            lambda: store.claim(draft.run_id, owner),
            lambda: store.load(draft.run_id),
            lambda: store.write(draft.run_id, owner, draft.change(draft.entry("0"))),
            lambda: store.renew(draft.run_id, owner),
        ):
            with pytest.raises(RunNotFoundError) as error:
                await missing()
            assert error.value.run_id == draft.run_id
        await store.release(draft.run_id, owner)
        await store.delete(draft.run_id)
        assert len(await store.list_runs(RunQuery())) == 1

    # Writing

    @in_a_loop
    async def test_a_change_is_stored_with_all_it_says(self, store: StateBackend) -> None:
        """Status, time, exact totals, head, count and entries of every kind come back as they were written."""
        draft, owner = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), owner)
        kinds: tuple[EntryKind, ...] = ("done", "note", "spent", "asked", "answer")
        change = draft.change(
            *(draft.entry("2/branch:legal/0", kind, f'{{"kind":"{kind}"}}') for kind in kinds),
            status="paused",
            at=_START + timedelta(microseconds=1),
            cost=Decimal("12345678901234567890.123456789012345678900"),
            tokens=2**62,
        )

        await store.write(draft.run_id, owner, change)

        stored = await store.load(draft.run_id)
        assert draft.is_like(stored)
        assert stored.record.status == "paused"
        assert str(stored.record.total_cost) == "12345678901234567890.123456789012345678900"
        assert stored.record.total_tokens == 2**62
        assert (stored.record.created_at, stored.record.updated_at) == (_START, _START + timedelta(microseconds=1))

    @in_a_loop
    async def test_what_is_removed_vanishes_and_nothing_else(self, store: StateBackend) -> None:
        """Entries go by their numbers, whatever their paths, and those of other runs stay."""
        draft, other, owner = RunDraft(), RunDraft(), owner_elsewhere()
        for each in (draft, other):
            await store.create(each.record(), owner)
            entries = [each.entry(path, kind) for path in ("", "1", "1/0") for kind in ("done", "spent")]
            await store.write(each.run_id, owner, each.change(*entries))
        first, second, *_, last = draft.entries.values()

        await store.write(draft.run_id, owner, draft.change(removed=[second]))
        await store.write(draft.run_id, owner, draft.change(removed=[last, first]))

        assert draft.is_like(await store.load(draft.run_id))
        assert len(draft.entries) == 3
        assert other.is_like(await store.load(other.run_id))

    @in_a_loop
    async def test_an_entry_takes_the_place_of_others_in_one_change(self, store: StateBackend) -> None:
        """What is removed and what is added, of the same path too, are one change."""
        draft, owner = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), owner)
        within = [draft.entry(f"1/{position}") for position in range(1_500)]
        before = draft.entry("1", "spent", "1")
        await store.write(draft.run_id, owner, draft.change(before, *within, draft.entry("1/0", "answer")))

        await store.write(draft.run_id, owner, draft.change(draft.entry("1", "spent", "2"), removed=[before, *within]))

        assert draft.is_like(await store.load(draft.run_id))
        assert [(entry.path, entry.payload) for entry in draft.entries.values()][1:] == [("1", "2")]

    @in_a_loop
    async def test_any_text_is_part_of_a_path(self, store: StateBackend) -> None:
        """Paths are ASCII as `written_path` makes them, of any length, and tell upper from lower case."""
        draft, owner = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), owner)
        paths = ["branch:A", "branch:a", "a/" * 2_000 + "a", "%00", "%ED%A0%80", "!'()*+,:;=@[]^_`{|}~-.<>$&#?\" "]

        await store.write(draft.run_id, owner, draft.change(*(draft.entry(path) for path in paths)))

        assert draft.is_like(await store.load(draft.run_id))

    @in_a_loop
    async def test_a_large_payload_is_kept(self, store: StateBackend) -> None:
        """Megabytes of JSON are one entry like any other."""
        draft, owner = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), owner)
        payload = '"' + "\\u0000\\ud800 abc" * 250_000 + '"'

        await store.write(draft.run_id, owner, draft.change(draft.entry("0", "done", payload), draft.entry("1")))

        assert draft.is_like(await store.load(draft.run_id))

    @in_a_loop
    async def test_a_change_that_builds_on_a_lost_one_is_refused(self, store: StateBackend) -> None:
        """A head that the run does not have is a `StateError`, and nothing is changed."""
        draft, owner = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), owner)
        first = draft.entry("0")
        await store.write(draft.run_id, owner, draft.change(first))
        before = await store.load(draft.run_id)
        draft.change(draft.entry("1"))  # never stored

        with pytest.raises(StateError) as error:
            await store.write(draft.run_id, owner, draft.change(draft.entry("2"), removed=[first], status="completed"))

        assert not isinstance(error.value, RunOwnedError)
        assert await store.load(draft.run_id) == before

    @in_a_loop
    async def test_a_change_in_vain_leaves_the_owner_its_run(self, store: StateBackend) -> None:
        """After a refused change the owner may do the right one."""
        draft, owner = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), owner)
        lost = RunDraft(draft.run_id)
        lost.change(lost.entry("lost"))
        with pytest.raises(StateError):
            await store.write(draft.run_id, owner, lost.change(lost.entry("0")))

        await store.write(draft.run_id, owner, draft.change(draft.entry("0")))

        assert draft.is_like(await store.load(draft.run_id))

    @in_a_loop
    async def test_many_runs_are_written_at_once(self, store: StateBackend) -> None:
        """Fifty tasks that write ten changes each lose none, and those that are refused hurt nobody."""
        drafts, owner = [RunDraft() for _ in range(50)], owner_elsewhere()

        async def work(draft: RunDraft, position: int) -> None:
            await store.create(draft.record(), owner)
            for step in range(10):
                if position % 5 == 0:
                    with pytest.raises(RunOwnedError):
                        await store.write(draft.run_id, owner_elsewhere(), RunDraft(draft.run_id).change())
                await store.write(draft.run_id, owner, draft.change(draft.entry(str(step))))

        await asyncio.gather(*(work(draft, position) for position, draft in enumerate(drafts)))

        for draft in drafts:
            assert len(draft.entries) == 10
            assert draft.is_like(await store.load(draft.run_id))

    @in_a_loop
    async def test_a_cancelled_change_is_made_or_not(self, store: StateBackend) -> None:
        """Who stops waiting leaves the run as before or as after the change, and the store works on."""
        for turns in range(4):
            draft, owner = RunDraft(), owner_elsewhere()
            await store.create(draft.record(), owner)
            after = RunDraft(draft.run_id)
            writing = asyncio.ensure_future(store.write(draft.run_id, owner, after.change(after.entry("0"))))
            for _ in range(turns):
                await asyncio.sleep(0)

            writing.cancel()
            await asyncio.wait([writing])
            await store.renew(draft.run_id, owner)  # comes after it, if it comes at all

            stored = await store.load(draft.run_id)
            assert draft.is_like(stored) or after.is_like(stored)

    # Letting go

    @in_a_loop
    async def test_only_its_owner_lets_a_run_go(self, store: StateBackend) -> None:
        """Releasing by somebody else does nothing; by the owner it frees the run and keeps all else."""
        draft, owner = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), owner)
        await store.write(draft.run_id, owner, draft.change(draft.entry("0")))

        await store.release(draft.run_id, owner_elsewhere())
        assert (await store.load(draft.run_id)).record.owner == owner.text
        await store.release(draft.run_id, owner)

        stored = await store.load(draft.run_id)
        assert draft.is_like(stored)
        assert (stored.record.owner, stored.record.status) == (None, "running")
        with pytest.raises(RunOwnedError):
            await store.renew(draft.run_id, owner)

    # Listing

    @in_a_loop
    async def test_runs_are_listed_newest_first(self, store: StateBackend) -> None:
        """The order is that of the last change, and a limit leaves out the oldest."""
        owner, drafts = owner_elsewhere(), [RunDraft() for _ in range(4)]
        for position, draft in enumerate(drafts):
            draft.created_at += timedelta(seconds=position)
            await store.create(draft.record(), owner)
        await store.write(drafts[0].run_id, owner, drafts[0].change(at=_START + timedelta(seconds=9)))

        listed = await store.list_runs(RunQuery())

        expected = [drafts[position].run_id for position in (0, 3, 2, 1)]
        assert [record.run_id for record in listed] == expected
        for limit in (0, 1, 3, 4, 5):
            limited = await store.list_runs(RunQuery(limit=limit))
            assert [record.run_id for record in limited] == expected[:limit]
        assert listed[0] == (await store.load(drafts[0].run_id)).record

    @in_a_loop
    async def test_runs_are_listed_by_what_they_are(self, store: StateBackend) -> None:
        """Status, pipeline and time choose runs, alone and together; `since` counts in, `until` does not."""
        owner = owner_elsewhere()
        statuses: tuple[StoredStatus, ...] = ("running", "paused", "completed")
        for day, status in enumerate(statuses):
            for name in ("a", "b"):
                draft, at = RunDraft(f"{name}{day}", name), _START + timedelta(days=day)
                await store.create(draft.record(), owner)
                await store.write(draft.run_id, owner, draft.change(status=status, at=at))
        second, third = _START + timedelta(days=1), _START + timedelta(days=2)

        for query, expected in (
            (RunQuery(status="paused"), {"a1", "b1"}),
            (RunQuery(pipeline_name="a"), {"a0", "a1", "a2"}),
            (RunQuery(since=second), {"a1", "b1", "a2", "b2"}),
            (RunQuery(since=second.astimezone(timezone(timedelta(hours=-7)))), {"a1", "b1", "a2", "b2"}),
            (RunQuery(until=second), {"a0", "b0"}),
            (RunQuery(since=second, until=third), {"a1", "b1"}),
            (RunQuery(status="completed", pipeline_name="b", since=third), {"b2"}),
            (RunQuery(status="failed"), set[str]()),
            (RunQuery(pipeline_name="A"), set[str]()),
        ):
            assert {record.run_id for record in await store.list_runs(query)} == expected, query

    # Forgetting

    @in_a_loop
    async def test_a_deleted_run_is_gone_with_its_journal(self, store: StateBackend) -> None:
        """Its identity is free again, nothing of the old journal comes back, and other runs stay."""
        draft, other, owner = RunDraft(), RunDraft(), owner_elsewhere()
        for each in (draft, other):
            await store.create(each.record(), owner)
            await store.write(each.run_id, owner, each.change(each.entry("0"), each.entry("0", "answer")))
        await store.release(draft.run_id, owner)

        await store.delete(draft.run_id)

        with pytest.raises(RunNotFoundError):
            await store.load(draft.run_id)
        assert other.is_like(await store.load(other.run_id))
        again = RunDraft(draft.run_id)
        assert await store.create(again.record(), owner) is True
        assert again.is_like(await store.load(draft.run_id))

    @in_a_loop
    async def test_a_run_of_a_live_owner_is_not_deleted(self, store: StateBackend) -> None:
        """Whoever owns a run keeps it; what belonged to a dead owner can be deleted."""
        draft, owned = RunDraft(), RunDraft()
        await store.create(draft.record(), replace(Owner(), started="another time"))
        await store.create(owned.record(), owner_elsewhere())

        with pytest.raises(RunOwnedError):
            await store.delete(owned.run_id)
        await store.delete(draft.run_id)

        assert [record.run_id for record in await store.list_runs(RunQuery())] == [owned.run_id]

    # The store itself

    @in_a_loop
    async def test_a_closed_store_may_be_used_again(self, store: StateBackend) -> None:
        """Closing loses nothing, may be done twice, and before anything was stored."""
        await store.close()
        draft, owner = RunDraft(), owner_elsewhere()
        await store.create(draft.record(), owner)
        await store.close()
        await store.close()

        await store.write(draft.run_id, owner, draft.change(draft.entry("0")))

        assert draft.is_like(await store.load(draft.run_id))

    def test_a_store_is_used_from_one_event_loop_after_another(self) -> None:
        """What one loop stored is there in the next one, with and without closing in between."""
        store, draft, owner = self.new_store(lease_s=LONG_S), RunDraft(), owner_elsewhere()
        asyncio.run(_ignore(store.create(draft.record(), owner)))
        for step in range(3):
            asyncio.run(store.write(draft.run_id, owner, draft.change(draft.entry(str(step)))))
            if step == 1:
                asyncio.run(store.close())

        stored = asyncio.run(store.load(draft.run_id))

        assert draft.is_like(stored)
        asyncio.run(store.close())

    def test_another_store_of_the_same_runs_sees_them(self) -> None:
        """What one store has stored, another one reads and goes on with, as another process would."""

        async def scenario() -> None:
            first = self.new_store(lease_s=LONG_S)
            draft, owner, successor = RunDraft(), owner_elsewhere(), owner_elsewhere()
            await first.create(draft.record(), owner)
            entry = draft.entry("0")
            await first.write(draft.run_id, owner, draft.change(entry, releases=True))
            second = self.reopened(first, lease_s=LONG_S)

            assert draft.is_like(await second.claim(draft.run_id, successor))
            await second.write(draft.run_id, successor, draft.change(draft.entry("1"), removed=[entry]))

            assert draft.is_like(await first.load(draft.run_id))
            with pytest.raises(RunOwnedError):
                await first.write(draft.run_id, owner, draft.change())
            await second.close()
            await first.close()

        asyncio.run(scenario())

    @in_a_loop
    async def test_a_store_says_how_long_it_keeps_what(self, store: StateBackend) -> None:
        """Its durability is one of three, and its lease the one that it was made with."""
        assert store.durability in ("full", "fast", "exit")
        assert store.lease_s == LONG_S


async def _claimed_at_last(store: StateBackend, run_id: str, owner: Owner) -> StoredRun:
    """Claim a run as soon as the lease on it has run out."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            try:
                return await store.claim(run_id, owner)
            except RunOwnedError:
                await asyncio.sleep(_SHORT_S / 4)


async def _ignore(awaited: Coroutine[Any, Any, object]) -> None:
    await awaited
