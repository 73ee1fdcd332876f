# SPDX-License-Identifier: GPL-3.0-or-later
"""A control group for each operation, cgroups(7), where this process's part of the unified tree is delegated to it.

Systemd marks what it delegates (Delegate=yes) with an extended attribute, and leaves it to us what is made below. The
daemon itself moves into a leaf, because the kernel hands no controller to the children of a group that has processes:

    domwardd.service/                  delegated
        supervisor/                    domwardd and its launcher
        domward-boot-0123456789ab/     an operation: memory.max, pids.max where there are these controllers

A helper is born in its operation's group (CLONE_INTO_CGROUP), so nothing that it starts is ever elsewhere. States of a
group: made -> closed; closing kills what is left in it (cgroup.kill, Linux 5.14) and removes it. Each is locked while
its supervisor lives: one that can be locked has lost it, and the next daemon removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd
from domward.protocol.records import frozen

from . import paths
from .config import Budgets

_LOG = logging.getLogger("domward.cgroups")
_CONTROLLERS = ("memory", "pids")
#: systemd.exec(5) and CGROUP_DELEGATION.md; the second is for who may not read the first.
_DELEGATED = ("trusted.delegate", "user.delegate")
_LEAF = "supervisor"
_PREFIX = "domward-"
_OWN_PROCESSES = 4  # pty, datacopier, bootloader or a program's collector, and one that is just ending
_LOOK_SECONDS = 0.02


@frozen
class Groups:
    """The place where operations get their groups."""

    folder: Path

    @classmethod
    def delegated(cls) -> Groups | None:
        """This process's own group, or the one above its leaf, where that is delegated; else None."""
        own = _own_folder()
        if own is None:
            return None
        for folder in (own, own.parent) if own.name == _LEAF else (own,):
            if _is_delegated(folder):
                return cls(folder)
        return None

    def prepare(self) -> None:
        """Moves this process into its leaf and hands the controllers on; removes what a killed predecessor left.

        For a process that is alone in what was delegated to it: the daemon. What the kernel does not do is left out.
        """
        with contextlib.suppress(OSError):
            leaf = self.folder / _LEAF
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text("0")
            for controller in self._controllers("cgroup.controllers"):
                (self.folder / "cgroup.subtree_control").write_text(f"+{controller}")
        for folder in self.folder.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                self._end_lost(folder)

    def _end_lost(self, folder: Path) -> None:
        """Kills what is in a group, and removes it. Raises OSError for one whose supervisor lives."""
        with Fd(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "a lost group") as fd:
            fcntl.flock(fd.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(folder, "cgroup.kill", "1")
            end = time.monotonic() + limits.KILL_SECONDS
            while "populated 1" in (folder / "cgroup.events").read_text() and time.monotonic() < end:
                time.sleep(_LOOK_SECONDS)
            folder.rmdir()

    @property
    def bounds(self) -> tuple[str, ...]:
        """What is bounded here: "memory", "pids", both or nothing."""
        with contextlib.suppress(OSError):
            return tuple(self._controllers("cgroup.subtree_control"))
        return ()

    def _controllers(self, file: str) -> Iterator[str]:
        found = (self.folder / file).read_text().split()
        return (name for name in _CONTROLLERS if name in found)

    def new(self, operation: str, budgets: Budgets) -> Group:
        """The group of `operation`. Raises OperationFailed."""
        folder = self.folder / f"{_PREFIX}{operation}"
        try:
            folder.mkdir()
            try:
                fd = Fd(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "control group")
                try:
                    fcntl.flock(fd.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _bound(folder, budgets)
                except BaseException:
                    fd.close()
                    raise
            except BaseException:
                folder.rmdir()
                raise
        except OSError as error:
            raise OperationFailed(f"The operation's control group could not be made: {error.strerror}.") from error
        return Group(folder, fd)


@frozen
class Group:
    """The group of one operation; owns `fd`, which is of its folder."""

    folder: Path
    fd: Fd

    def holds(self, pid: int) -> bool:
        """Whether a process is in it."""
        return str(pid) in (self.folder / "cgroup.procs").read_text().split()

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed it because it had no more memory than it may have."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "memory.events").read_text().splitlines()
            return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in lines)
        return False

    async def close(self) -> None:
        """Kills what is left in it, and removes it. One that the kernel holds on to is left to the next daemon."""
        with contextlib.suppress(OSError):
            _write(self.folder, "cgroup.kill", "1")
        for _ in range(int(limits.KILL_SECONDS / _LOOK_SECONDS)):
            try:
                self.folder.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                await asyncio.sleep(_LOOK_SECONDS)
        else:
            _LOG.warning("%s is still in use, and stays", self.folder.name)
        self.fd.close()


def has_kill() -> bool:
    """Whether this kernel ends all processes of a group at once: Linux 5.14."""
    own = _own_folder()
    # The root of the tree has no such file; any other group tells.
    return own is not None and any(folder.joinpath("cgroup.kill").exists() for folder in (own, *own.glob("*/")))


def _bound(folder: Path, budgets: Budgets) -> None:
    """Bounds what all processes of an operation have together."""
    # Kernel and ramdisk twice, as a program leaves them in its /tmp and they are copied; reader and relay.
    memory = 2 * (budgets.kernel_bytes + budgets.ramdisk_bytes + budgets.helper_address_space)
    _write(folder, "memory.max", str(memory))
    _write(folder, "memory.swap.max", "0")
    _write(folder, "memory.oom.group", "1")
    _write(folder, "pids.max", str(limits.PROGRAM_PROCESSES + _OWN_PROCESSES))


def _write(folder: Path, file: str, value: str) -> None:
    """Sets a file that is there only with its controller, or on a newer kernel."""
    with contextlib.suppress(FileNotFoundError), open(folder / file, "r+", encoding="ascii") as setting:
        setting.write(value)


def _own_folder() -> Path | None:
    """Where this process's group of the unified tree is seen."""
    try:
        own = next(line for line in paths.OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))[3:]
        for line in paths.OWN_MOUNTS.read_text().splitlines():
            fields, _, kind = line.partition(" - ")
            root, mounted = fields.split()[3:5]
            if kind.startswith("cgroup2 ") and Path(own).is_relative_to(root):
                return Path(mounted) / Path(own).relative_to(root)
    except (OSError, StopIteration):
        return None
    return None


def _is_delegated(folder: Path) -> bool:
    if not os.access(folder, os.W_OK) or not os.access(folder / "cgroup.procs", os.W_OK):
        return False
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False
