"""Tells which process keeps others from writing to a SQLite file, where the system says so: on Linux."""

from pathlib import Path

from flujo.state.ownership import process_state

_WRITE_LOCK = "120"  # the byte of the file of shared memory that a writer locks: https://sqlite.org/walformat.html


def describe_writer(database: Path) -> str | None:
    """Return the process that is within a transaction that writes, as people read it; `None` if that cannot be told."""
    try:
        inode = database.with_name(f"{database.name}-shm").stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return None
    for line in locks.splitlines():
        match line.split():
            case [_, "POSIX", _, "WRITE", pid, file, start, _] if start == _WRITE_LOCK and file.endswith(f":{inode}"):
                is_stopped = process_state(int(pid)) == "T"
                return f"process {pid}{', which is stopped,' if is_stopped else ''}"
            case _:
                pass
    return None
