"""A process that is killed at any moment loses nothing that was finished, and repeats no more than it was at.

By default 200 runs are killed once and 50 up to five times, and 50 in Postgres; `--long` kills ten times as many.
"""

import random
from pathlib import Path

import pytest

from flujo.state.backend import Durability
from tests.faults.worker import Reference, Site, ending, kill, start, undisturbed
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A run that nobody killed."""
    undisturbed(Site(tmp_path_factory.mktemp("warming up")))
    return undisturbed(Site(tmp_path_factory.mktemp("reference")))


def test_a_run_killed_at_any_moment_goes_on(tmp_path: Path, pytestconfig: pytest.Config, reference: Reference) -> None:
    """Output, context and answers are those of a run that nobody killed; no finished step is paid for again."""
    chance = random.Random(3)
    killed = 0
    for trial in range(2000 if pytestconfig.getoption("--long") else 200):
        durability: Durability = chance.choice(["fast", "full"])
        site = Site(tmp_path / str(trial), durability=durability)
        site.folder.mkdir()
        process = start(site, "killed")
        process.join(chance.uniform(0, reference.took_s))
        killed += process.is_alive()
        kill(process)

        came_to = ending(site, start(site))

        reference.check(site, came_to, deaths=1)
    assert killed > 0


def test_a_run_killed_again_while_it_recovers_goes_on(
    tmp_path: Path, pytestconfig: pytest.Config, reference: Reference
) -> None:
    """Any number of deaths in a row, as early as the first read, add no more than what was in flight at each."""
    chance = random.Random(5)
    for trial in range(500 if pytestconfig.getoption("--long") else 50):
        site = Site(tmp_path / str(trial))
        site.folder.mkdir()
        deaths = chance.randint(2, 5)
        for _ in range(deaths):
            process = start(site, "killed")
            process.join(chance.uniform(0, reference.took_s / 2))
            kill(process)

        came_to = ending(site, start(site))

        reference.check(site, came_to, deaths=deaths)


def test_a_run_in_postgres_killed_at_any_moment_goes_on(
    tmp_path: Path, pytestconfig: pytest.Config, reference: Reference, postgres: PostgresServer
) -> None:
    """What a client left half done when it was killed is undone by the server."""
    chance = random.Random(7)
    dsn, killed = postgres.new_database(), 0
    for trial in range(500 if pytestconfig.getoption("--long") else 50):
        site = Site(tmp_path / str(trial), run_id=f"run {trial}", dsn=dsn)
        site.folder.mkdir()
        deaths = chance.randint(1, 3)
        for _ in range(deaths):
            process = start(site, "killed")
            process.join(chance.uniform(0, 2 * reference.took_s))
            killed += process.is_alive()
            kill(process)

        came_to = ending(site, start(site))

        reference.check(site, came_to, deaths=deaths)
    assert killed > 0
