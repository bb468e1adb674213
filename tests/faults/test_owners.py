"""A run has one owner: a second process is refused, and an owner that was superseded cannot write.

By default 100 runs are gone on with by two processes at once, and 10 have a frozen owner; `--long` has 1,000 and 100.
"""

import random
import time
from pathlib import Path

import pytest

from tests.faults.worker import Reference, Site, ending, kill, proceed, start, started, undisturbed, wait_until_stopped

pytestmark = pytest.mark.timeout(600)

_SHORT_LEASE_S = 0.4

_ALONE = ["first(1)", "increment(3)", "note(3)", "unreliable(2)", "big(4)", "cached(2)", "walled(4)", "last(6)"]
"""Effects during which nothing is written: a process that is frozen within a commit keeps the file locked."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A run that nobody disturbed."""
    return undisturbed(Site(tmp_path_factory.mktemp("reference"), asks=False))


def test_of_two_processes_that_go_on_with_a_run_one_does(
    tmp_path: Path, pytestconfig: pytest.Config, reference: Reference
) -> None:
    """The other one is refused with the name of the owner, or comes later and gets its result; no effect is twice."""
    chance = random.Random(7)
    refused = 0
    for trial in range(1000 if pytestconfig.getoption("--long") else 100):
        site = Site(tmp_path / str(trial), asks=False)
        site.folder.mkdir()
        process = start(site, "killed")
        process.join(chance.uniform(0, reference.took_s))
        kill(process)

        both = [start(site, name) for name in ("a", "b")]
        endings = [ending(site, process, name) for process, name in zip(both, ("a", "b"), strict=True)]

        done = [each for each in endings if each.result is not None]
        assert done, endings
        for each in done:
            reference.check(site, each, deaths=1)
        for each in endings:
            if each.result is None:
                owners = [f"process {process.pid} on host" for process in both]
                assert each.error == "RunOwnedError", each
                assert any(owner in each.message for owner in owners), each.message
                refused += 1
    assert refused > 0


@pytest.mark.parametrize("effect", _ALONE)
def test_a_live_process_keeps_its_run(tmp_path: Path, effect: str, reference: Reference) -> None:
    """Whoever comes while the owner is at work is refused, and the owner ends as if nobody had come."""
    site = Site(tmp_path, asks=False)
    with started(site, "owner", stop_at=effect) as owner:
        wait_until_stopped(owner)
        refused = ending(site, start(site))
        proceed(owner)
        came_to = ending(site, owner, "owner")

    assert refused.error == "RunOwnedError"
    assert f"process {owner.pid} on host" in refused.message
    reference.check(site, came_to, deaths=0)


def test_a_frozen_owner_that_was_superseded_cannot_write(
    tmp_path: Path, pytestconfig: pytest.Config, reference: Reference
) -> None:
    """Its run goes on elsewhere once its lease has run out; when it wakes up, it ends with `RunOwnedError`."""
    chance = random.Random(9)
    for trial in range(100 if pytestconfig.getoption("--long") else 10):
        site = Site(tmp_path / str(trial), asks=False, lease_s=_SHORT_LEASE_S)
        site.folder.mkdir()
        with started(site, "frozen", stop_at=chance.choice(_ALONE)) as frozen:
            wait_until_stopped(frozen)
            came_to = ending(site, start(site))
            deadline = time.monotonic() + 100 * _SHORT_LEASE_S
            while came_to.error == "RunOwnedError" and time.monotonic() < deadline:
                assert f"process {frozen.pid} on host" in came_to.message
                came_to = ending(site, start(site))
            proceed(frozen)
            woken = ending(site, frozen, "frozen")

        assert (woken.result, woken.error) == (None, "RunOwnedError")
        reference.check(site, came_to, deaths=1)
        reference.check(site, ending(site, start(site)), deaths=1)
