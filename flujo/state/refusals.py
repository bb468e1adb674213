"""What a store says when it refuses something; every store says the same."""

from flujo.exceptions import RunNotFoundError, RunOwnedError, StateError
from flujo.state.ownership import Owner


def run_not_found(run_id: str) -> RunNotFoundError:
    """Return the error for a run that is not stored."""
    return RunNotFoundError(f"no run {run_id!r} is stored here", run_id=run_id)


def run_owned(run_id: str, owner: Owner) -> RunOwnedError:
    """Return the error for a run that somebody else runs."""
    who = owner.describe()
    return RunOwnedError(f"run {run_id!r} belongs to {who}, which runs it; wait for it", run_id=run_id, owner=who)


def run_superseded(run_id: str, owner: Owner | None) -> RunOwnedError:
    """Return the error for what an owner writes that has lost its run."""
    who = "nobody" if owner is None else owner.describe()
    return RunOwnedError(
        f"run {run_id!r} was taken over and belongs to {who} now; nothing more was stored here",
        run_id=run_id,
        owner=who,
    )


def earlier_write_failed(run_id: str) -> StateError:
    """Return the error for a change that builds on one that is not stored."""
    return StateError(f"run {run_id!r} could not store an earlier step, so this one was not stored either; resume it")
