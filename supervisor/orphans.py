# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends helpers that outlived a supervisor which was killed.

They should not: a helper gets a signal when its parent dies, and ends when its channel does. This makes sure. A helper
is known by its uid: nothing else on the host may use one of the range, and the lease of each that a live supervisor
uses is locked in the kernel by that supervisor. So a process with a uid of the range whose lease can be had has lost
its supervisor. The lease is held until the process is dead, so the uid is not given to a new helper meanwhile; the
process is held by a pidfd, and its uid is looked at again after that was opened, so no other process can be meant.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

import psutil

from domward.protocol import limits
from domward.protocol.fds import Fd

from .config import Config
from .leases import UidLeases


def end_orphans(config: Config) -> list[int]:
    """Kills every such process and waits until it is dead; returns their pids. Raises OperationFailed."""
    ended: list[int] = []
    leases = UidLeases(config.state_directory, config.uid_base, config.uid_count)
    try:
        for process in psutil.process_iter():
            uid = _uid_of(process)
            if uid is None or not leases.claim(uid):
                continue
            try:
                if _end(process.pid, uid):
                    ended.append(process.pid)
            finally:
                leases.release(uid)
    finally:
        leases.close()
    return ended


def _uid_of(process: psutil.Process) -> int | None:
    """The real uid: the owner of /proc/PID is root where a process is not dumpable."""
    try:
        return process.uids().real
    except psutil.Error:  # it is gone
        return None


def _end(pid: int, uid: int) -> bool:
    with contextlib.suppress(OSError, psutil.Error), Fd(os.pidfd_open(pid), "an orphan's pidfd") as pidfd:
        if _uid_of(psutil.Process(pid)) != uid:
            return False
        signal.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
        dead = select.poll()
        dead.register(pidfd.fileno(), select.POLLIN)
        return bool(dead.poll(int(limits.KILL_SECONDS * 1000)))
    return False
