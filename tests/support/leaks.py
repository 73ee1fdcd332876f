# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test may leave behind: nothing. `Snapshot.take()` before and after, `leaks(before, after)` is the list.

Compared are: open fds, children (zombies included), helpers that live but lost their parent, mounts, kernel threads of
this process and Python's own, the program's files in the places where it keeps any, loop devices on the tests' files,
and the handlers of signals, the umask and the working folder. An fd that is gone or has become another one counts as
well: somebody closed what was not theirs.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

HELPER_UIDS = range(1_900_000_000, 1_900_065_536)
PLACES = (
    ("/run", "domward*"),
    ("/tmp", "domward*"),
    ("/var/tmp", "domward*"),
    ("/dev/shm", "domward*"),
    ("/var/log", "domward*"),
)
# Made by the first supervisor on a machine, and always empty: it stays, so that a lease needs no cleaning up.
KEPT = ("/run/domward", "/run/domward/uid-leases")
# The audit log of the commands that tests run, in a folder of this test run's own (`own_mounts`): it stays and grows.
KEPT_LOGS = ("/var/log/domward", *(f"/var/log/domward/audit.log{end}" for end in ("", ".head", ".lock")))
# The kernel takes a moment to let a joined thread and an auto-clearing loop device go; nothing else gets one.
GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class Snapshot:
    """The state of this process and its surroundings; each field maps something's name to its description."""

    fds: Mapping[str, str]
    children: Mapping[str, str]
    orphans: Mapping[str, str]
    mounts: Mapping[str, str]
    python_threads: Mapping[str, str]
    threads: Mapping[str, str]
    files: Mapping[str, str]
    loops: Mapping[str, str]
    process: Mapping[str, str]

    @classmethod
    def take(cls, loops_under: Path) -> Snapshot:
        """The present state; loop devices count where their file lies under `loops_under`."""
        let_closings_end()
        return cls(
            fds=_fds(),
            children=_children(),
            orphans=_orphans(),
            mounts=_mounts(),
            python_threads={str(t.ident): t.name for t in threading.enumerate()},
            threads=_threads(),
            files=_files(),
            loops=_loops(loops_under),
            process=_process(),
        )


def let_closings_end() -> None:
    """Waits for the threads that open, seal and close what might take for ever, and here does not."""
    for thread in threading.enumerate():
        if thread.name in ("domward-open", "domward-close"):
            thread.join(GRACE_SECONDS)


def leaks(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that is new, gone (fds) or different; empty where the test was clean."""
    found = []
    for field in fields(Snapshot):
        old, new = getattr(before, field.name), getattr(after, field.name)
        kind = field.name.replace("_", " ")
        for name in new:
            if name not in old:
                found.append(f"{kind}: left behind: {name} {new[name]}")
            elif old[name] != new[name] and field.name in ("fds", "process"):
                found.append(f"{kind}: changed: {name} was {old[name]}, is {new[name]}")
        if field.name in ("fds", "mounts"):
            found += [f"{kind}: gone: {name} was {old[name]}" for name in old if name not in new]
    return found


def settle(before: Snapshot, loops_under: Path) -> list[str]:
    """The leaks after GRACE_SECONDS for threads and loop devices only; all else must be gone at once."""
    found = leaks(before, Snapshot.take(loops_under))
    end = time.monotonic() + GRACE_SECONDS
    while found and all(line.startswith(("threads:", "loops:")) for line in found) and time.monotonic() < end:
        time.sleep(0.01)
        found = leaks(before, Snapshot.take(loops_under))
    return found


def _fds() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the listing's own fd
            continue
        found[fd] = target
    return found


def _stat(pid: str) -> tuple[str, str, str]:
    """(command, state, parent's pid) from /proc/PID/stat; the command may hold any byte but ends at the last ")"."""
    text = Path("/proc", pid, "stat").read_text(errors="replace")
    command, _, rest = text.partition("(")[2].rpartition(")")
    state, parent = rest.split()[:2]
    return command, state, parent


def _children() -> dict[str, str]:
    found = {}
    for task in os.listdir("/proc/self/task"):
        try:
            pids = Path("/proc/self/task", task, "children").read_text().split()
        except FileNotFoundError:  # the thread ended meanwhile
            continue
        for pid in pids:
            command, state, _parent = _stat(pid)
            found[pid] = f"{command} (state {state})"
    return found


def _orphans() -> dict[str, str]:
    """Live processes with a helper's uid whose parent is init: a supervisor that lives would be their parent."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid not in HELPER_UIDS and _status_uid(pid) not in HELPER_UIDS:
                continue
            command, state, parent = _stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == "1" and state != "Z":  # it has ended, and when init gets round to its zombies is not ours
            found[pid] = f"{command} (state {state})"
    return found


def _status_uid(pid: str) -> int:
    """The real uid: the owner of /proc/PID is root where the process is not dumpable."""
    for line in Path("/proc", pid, "status").read_text(errors="replace").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    return -1


def _mounts() -> dict[str, str]:
    lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    return {line.split()[0]: " ".join(line.split()[3:5]) for line in lines}


def _threads() -> dict[str, str]:
    found = {}
    for task in os.listdir("/proc/self/task"):
        try:
            found[task] = Path("/proc/self/task", task, "comm").read_text(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _files() -> dict[str, str]:
    found = {}
    for place, pattern in PLACES:
        for top in Path(place).glob(pattern):
            for path in (top, *top.rglob("*")) if top.is_dir() and not top.is_symlink() else (top,):
                found[str(path)] = ""
    return {path: what for path, what in found.items() if path not in KEPT + KEPT_LOGS}


def _loops(under: Path) -> dict[str, str]:
    found = {}
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = backing.read_text(errors="replace").strip()
        except OSError:  # cleared meanwhile
            continue
        if file.startswith(str(under)):
            found[backing.parts[3]] = file
    return found


def _process() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    state = dict(line.split(":\t", 1) for line in lines if line.startswith(("SigBlk", "Umask")))
    # Not SigCgt: the C library catches signals of its own once there is a thread.
    handlers = {f"signal {number}": repr(signal.getsignal(number)) for number in signal.valid_signals()}
    return state | handlers | {"working folder": os.getcwd()}
