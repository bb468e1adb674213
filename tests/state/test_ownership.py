"""Owners are told apart, and only those that are known to be dead are called so."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from flujo.state.ownership import Owner


def test_an_owner_is_read_as_it_was_written() -> None:
    """Its text names host, process, start and token; a host may have any characters."""
    for owner in (Owner(), Owner(host="odd/host#1#2", pid=7, started="", token="t")):
        assert Owner.parse(owner.text) == owner


def test_two_owners_of_one_process_differ() -> None:
    """Each run has an owner of its own."""
    assert Owner() != Owner()


def test_an_owner_here_lives_while_it_has_entered() -> None:
    """An owner of this process is dead before it begins and after it has left."""
    owner = Owner()
    assert owner.is_dead()
    owner.enter()
    assert not owner.is_dead()
    owner.leave()
    assert owner.is_dead()


def test_another_process_lives_until_it_ends() -> None:
    """A process that was killed is dead before its parent has asked for its end, and afterwards."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = replace(Owner(), pid=process.pid, started=_started(process.pid))
    assert not owner.is_dead()

    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_dead()
    process.communicate()
    assert owner.is_dead()


def test_the_number_of_a_process_may_be_used_again() -> None:
    """A live process with the number of the owner, but another start, is not the owner."""
    assert replace(Owner(), pid=os.getppid(), started="1").is_dead()
    assert not replace(Owner(), pid=os.getppid(), started=_started(os.getppid())).is_dead()


@pytest.mark.parametrize("host", ["elsewhere", "", f"{Owner().host}1", Owner().host.rpartition("#")[0] + "#1"])
def test_of_another_host_or_container_nothing_is_known(host: str) -> None:
    """Numbers of processes mean nothing on another host, after another boot, or in another namespace."""
    assert not replace(Owner(), host=host, pid=2**22 + 1, started="1").is_dead()


@pytest.mark.parametrize("text", ["", "noise", "a/b/c/d", "///", "host/-1/1/t", "host/²/1/t"])
def test_of_a_damaged_owner_nothing_is_known(text: str) -> None:
    """What cannot be read is an owner that its lease keeps."""
    assert not Owner.parse(text).is_dead()


def _started(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(")")[2].split()[19]
