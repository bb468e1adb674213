"""Who runs a run, and whether they still can.

An owner is a process on a host; whoever owns a run renews a lease on it.
When the lease has run out, anybody may take the run over; at once if the process is known to be dead,
which a process of the same host can tell. What a superseded owner writes afterwards is refused by the store.
"""

import os
import platform
import sys
import uuid
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_ALIVE: set[str] = set()  # tokens of the owners in this very process; a fact about it, as its number is


_set = object.__setattr__  # past being frozen, while an owner is made


@cache
def _host() -> str:
    """Return the name of this host, with its boot and the namespace that its processes are numbered in.

    So the number of a process is not taken for that of one before the boot, or in another container.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
        numbers = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:  # only Linux has them
        boot = numbers = ""
    return f"{platform.node()}#{boot}#{numbers}"


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_host.cache_clear)  # the child may be in another namespace


def _stat(pid: int) -> tuple[str, str]:
    """Return the state of a process, and when it started in the clock of its host; empty if that cannot be told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]


def _started(pid: int) -> str:
    return _stat(pid)[1]


def process_state(pid: int) -> str:
    """Return the letter that the system has for the state of a process, such as `T` for stopped; empty if unknown."""
    return _stat(pid)[0]


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
        """Return the owner that was written as `text`; of a damaged one only the lease can tell whether it lives."""
        match text.rsplit("/", 3):
            case [host, pid, started, token] if pid.isascii() and pid.isdecimal():
                return cls(host, int(pid), started, token)
            case _:
                return cls(text, 0, "", "")

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
        state, started = _stat(self.pid)
        if started:
            return started != self.started or state in _ENDED
        return not _is_running(self.pid)


_ENDED = ("Z", "X")  # killed, and only its parent does not know yet


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True
