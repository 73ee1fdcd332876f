# SPDX-License-Identifier: GPL-3.0-or-later
"""Child processes by pidfd: exactly one death event each, whatever the host application does with SIGCHLD.

States: active -> dead. By cases, when the pidfd becomes readable:

- waitid(P_PIDFD) gives the status: reaped here, the usual case.
- ECHILD: somebody else reaped it (waitpid(-1) in another thread) or the kernel did (SIGCHLD ignored). The pidfd itself
  still knows the status on Linux 6.15 and newer (PIDFD_GET_INFO); before that the status is None, "unknown".

A signal is sent through the pidfd, so it can never reach another process that got the same pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import struct

from domward.protocol import limits
from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd

from .events import Condition, Events
from .forks import Birthplace

_WALL = 0x40000000  # <linux/wait.h>: also children whose exit signal is not SIGCHLD
_PIDFD_GET_INFO = 0xC040FF0B  # <linux/pidfd.h>: _IOWR(0xFF, 11, struct pidfd_info) of 64 bytes
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ11Ii")


class ChildStuck(OperationFailed):
    """A process does not die of SIGKILL; the kernel's or the disk's fault."""

    code = "process-stuck"


class Child:
    """One child; owns its pidfd. `name` says what it is, for messages. A child that cannot be watched is killed.

    `status` is None while active; then `death` is done and holds the exit code, minus the signal's number, or None
    where the kernel cannot tell.
    """

    def __init__(self, pid: int, pidfd: Fd, name: str, events: Events, *, exit_info: bool = True) -> None:
        self.pid = pid
        self.name = name
        self._pidfd = pidfd
        self._exit_info = exit_info
        self._birthplace = Birthplace()
        self.death: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        try:
            self._watch = events.watch(pidfd.fileno(), Condition.IN, self._on_exit)
        except BaseException:
            kill_unwatched(pidfd)
            raise

    @property
    def alive(self) -> bool:
        """Whether the death event is still to come."""
        return not self.death.done()

    def has_ended(self) -> bool:
        """Whether the kernel knows of its end, perhaps before the death event was delivered."""
        if not self.alive or self._pidfd.closed:
            return True
        look = select.poll()
        look.register(self._pidfd.fileno(), select.POLLIN)
        return bool(look.poll(0))

    @property
    def pidfd(self) -> Fd:
        """The pidfd, this object's."""
        return self._pidfd

    def describe_death(self) -> str:
        """How it ended, as the end of a sentence: "exited with code 1", "was killed by SIGKILL"."""
        status = self.death.result()
        if status is None:
            return "ended with a status that nobody can tell any more"
        if status < 0:
            return f"was killed by {_signal_name(-status)}"
        return f"exited with code {status}"

    def send_signal(self, number: int) -> None:
        """Sends a signal; does nothing for a child that is dead, or is not ours since we were forked."""
        if not self._pidfd.closed and self._birthplace.here:
            try:
                signal.pidfd_send_signal(self._pidfd.fileno(), number)
            except ProcessLookupError:
                return  # dead, and its death event is on its way

    async def end(self, grace: float) -> int | None:
        """Sends TERM, after `grace` seconds KILL, and returns the status. Safe to call for a dead child. See `kill`."""
        if self.alive:
            self.send_signal(signal.SIGTERM)
            await asyncio.wait([self.death], timeout=grace)
        return await self.kill()

    async def kill(self) -> int | None:
        """Sends KILL and returns the status once it is dead.

        Raises ChildStuck after limits.KILL_SECONDS: a read that a file server neither answers nor lets go of keeps a
        process beyond SIGKILL. Its death event comes when the server gives in.
        """
        if self.alive:
            self.send_signal(signal.SIGKILL)
            if not (await asyncio.wait([self.death], timeout=limits.KILL_SECONDS))[0]:
                raise ChildStuck(
                    f"{self.name} cannot be ended: the kernel holds it in a wait that even SIGKILL does not end.",
                    advice="See what serves the disk; the process ends when that answers or goes away.",
                )
        return self.death.result()

    def let_go(self) -> None:
        """Gives up a child that is stuck: its death will be seen by nobody here. Does nothing for a dead one."""
        if self.alive:
            self._watch.cancel()
            self._pidfd.close()

    def _on_exit(self, _conditions: Condition) -> None:
        try:
            found = os.waitid(os.P_PIDFD, self._pidfd.fileno(), os.WEXITED | os.WNOHANG | _WALL)
        except ChildProcessError:
            status = self._status_from_pidfd() if self._exit_info else None
        else:
            if found is None:
                self._watch.resume()
                return
            status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        self._watch.cancel()
        self._pidfd.close()
        self.death.set_result(status)

    def _status_from_pidfd(self) -> int | None:
        request = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *(0,) * 13))
        try:
            fcntl.ioctl(self._pidfd.fileno(), _PIDFD_GET_INFO, request)
        except OSError:
            return None  # before Linux 6.13
        mask, *_, wait_status = _PIDFD_INFO.unpack(request)
        return os.waitstatus_to_exitcode(wait_status) if mask & _PIDFD_INFO_EXIT else None


def pidfds_tell() -> bool:
    """Whether a pidfd tells of its process (PIDFD_GET_INFO, Linux 6.13), tried with this one's own."""
    with Fd(os.pidfd_open(os.getpid()), "probe") as own:
        try:
            fcntl.ioctl(own.fileno(), _PIDFD_GET_INFO, bytearray(_PIDFD_INFO.size))
        except OSError:
            return False
    return True


def kill_unwatched(pidfd: Fd) -> None:
    """Kills, reaps and closes a child that nobody will watch."""
    with pidfd, contextlib.suppress(ProcessLookupError, ChildProcessError):
        signal.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd.fileno(), os.WEXITED | _WALL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
