"""The journal of a run keeps where its unfinished steps stand."""

from dataclasses import dataclass

from flujo.application.core.state_manager import StateManager


@dataclass(frozen=True)
class Place:
    position: int


@dataclass(frozen=True)
class OtherPlace:
    position: int


def test_a_fresh_journal_has_no_checkpoint() -> None:
    """A run that begins starts every step afresh."""
    assert StateManager().take(("0",), Place) is None


def test_a_checkpoint_is_taken_once() -> None:
    """A step that runs again in the same run, as in a loop, does not start where it stood before the pause."""
    journal = StateManager(found={("0", "1"): Place(2)})

    assert journal.take(("0", "1"), Place) == Place(2)
    assert journal.take(("0", "1"), Place) is None


def test_a_checkpoint_belongs_to_its_path() -> None:
    """A step at another path does not get it."""
    journal = StateManager(found={("0",): Place(2)})

    assert journal.take(("0", "1"), Place) is None
    assert journal.take(("0",), Place) == Place(2)


def test_a_checkpoint_of_another_kind_is_left_where_it_is() -> None:
    """A step gets only what its own kind left; a step and what wraps it may share a path."""
    journal = StateManager(found={("0",): Place(2)})

    assert journal.take(("0",), OtherPlace) is None
    assert journal.take(("0",), Place) == Place(2)


def test_what_a_run_leaves_is_not_what_it_found() -> None:
    """A checkpoint that is saved is for the next run, not for this one."""
    journal = StateManager()

    journal.save(("0",), Place(3))

    assert journal.left == {("0",): Place(3)}
    assert journal.take(("0",), Place) is None


def test_the_last_checkpoint_of_a_path_counts() -> None:
    """A step that saves again has moved on."""
    journal = StateManager()

    journal.save(("0",), Place(3))
    journal.save(("0",), Place(4))

    assert journal.left == {("0",): Place(4)}
