"""Who runs a run, and whether they still can.

An owner is a process on a host; whoever owns a run renews a lease on it.
When the lease has run out, anybody may take the run over; at once if the process is known to be dead,
which a process of the same host can tell. What a superseded owner writes afterwards is refused by the store.
"""

import os
import platform
import uuid
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_ALIVE: set[str] = set()  # tokens of the owners in this very process; a fact about it, as its number is


_set = object.__setattr__  # past being frozen, while an owner is made


@cache
def _host() -> str:
    """Return the name of this host, and its boot, so that numbers of processes are not taken for older ones."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:  # only Linux has it
        boot = ""
    return f"{platform.node()}#{boot}"


def _started(pid: int) -> str:
    """Return when a process started, in the clock of its host; empty where that cannot be told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


@dataclass(slots=True, frozen=True)
class Owner:
    """A process that runs a run.

    Attributes:
        host: Its host.
        pid: Its number there.
        started: When it started, so that its number is not taken for that of another.
        token: Its own for each run, so that two runners of one process are told apart.
    """

    host: str = field(default_factory=_host)
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: _started(os.getpid()))
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    text: str = field(init=False, compare=False, repr=False)
    """The owner as it is stored."""

    def __post_init__(self) -> None:
        _set(self, "text", f"{self.host}/{self.pid}/{self.started}/{self.token}")

    @classmethod
    def parse(cls, text: str) -> "Owner":
        """Return the owner that was written as `text`."""
        host, pid, started, token = text.rsplit("/", 3)
        return cls(host, int(pid), started, token)

    def describe(self) -> str:
        """Return the owner as people read it."""
        return f"process {self.pid} on host {self.host.partition('#')[0]}"

    def enter(self) -> None:
        """Count as alive in this process from now on."""
        _ALIVE.add(self.token)

    def leave(self) -> None:
        """Do not count as alive any more."""
        _ALIVE.discard(self.token)

    def is_dead(self) -> bool:
        """Tell whether this owner is known to run nothing any more; `False` if that cannot be told from here."""
        if self.host != _host():
            return False
        if self.pid == os.getpid() and self.started == _started(self.pid):
            return self.token not in _ALIVE
        return not _is_running(self.pid) or _started(self.pid) != self.started


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True
