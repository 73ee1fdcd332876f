# SPDX-License-Identifier: GPL-3.0-or-later
"""Ptys that a helper opened, checked before anything is done with them.

They are looked at in a thread: what a helper sends in their place may be on a file server that does not answer.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios

from domward.protocol.errors import ProtocolViolation
from domward.protocol.fds import Fd, close_all
from domward.protocol.messages import HelperKind, OpenPtys, PtysOpened
from domward.protocol.records import frozen

from .endings import to_its_end
from .helper import Helper, HelperHost
from .helper_states import HelperState
from .opening import NoThread, close_in_thread, in_thread

_TIOCGPTN = 0x80045430  # <asm-generic/ioctls.h>
_PTMX = os.makedev(5, 2)
_SLAVE_MAJORS = range(136, 144)  # Documentation/admin-guide/devices.txt


@frozen
class Pty:
    """One pty: master and slave, owned by whoever holds this; `number` is its name under /dev/pts."""

    master: Fd
    slave: Fd
    number: int

    def resize(self, columns: int, rows: int) -> None:
        """Sets its size; the kernel tells the processes in front of it, by SIGWINCH. Raises OSError."""
        fcntl.ioctl(self.master.fileno(), termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def close(self) -> None:
        """Closes both ends."""
        self.slave.close()
        self.master.close()


async def open_ptys(host: HelperHost, operation: str, count: int, columns: int, rows: int) -> list[Pty]:
    """`count` (1 to limits.PTYS) raw ptys, or an error: HelperDied, ProtocolViolation, OperationFailed.

    The slaves belong to root afterwards, mode 0600, so that a later helper with the same uid has no claim on them.
    """
    helper = Helper(HelperKind.PTY, operation, host)
    ptys: list[Pty] = []
    try:
        try:
            await helper.start()
            await helper.order(HelperState.OPENING, OpenPtys(count=count, columns=columns, rows=rows))
            received = await helper.receive()
            assert isinstance(received.message, PtysOpened)
            ptys = await _checked(received.fds, count, helper.name)
            host.trail.fds_received(helper.name, received.fds)
            await helper.ended()
        finally:
            await to_its_end(helper.close())
    except BaseException:
        _close(ptys)
        raise
    return ptys


async def _checked(fds: tuple[Fd, ...], count: int, helper: str) -> list[Pty]:
    """The `count` ptys that `fds` are, or ProtocolViolation; they are closed where there is no result."""

    def check() -> list[Pty]:
        try:
            if len(fds) != 2 * count:
                raise ProtocolViolation(
                    f"The pty helper opened {len(fds) // 2} ptys instead of {count}.", helper=helper
                )
            return [_check(master, slave, helper) for master, slave in zip(fds[::2], fds[1::2], strict=True)]
        except BaseException:
            close_all(fds)
            raise

    try:
        return await in_thread(check, _close)
    except NoThread:
        for fd in fds:
            close_in_thread(fd)
        raise


def _close(ptys: list[Pty]) -> None:
    for pty in ptys:
        pty.close()


def _check(master: Fd, slave: Fd, helper: str) -> Pty:
    for fd, right in ((master, lambda number: number == _PTMX), (slave, lambda n: os.major(n) in _SLAVE_MAJORS)):
        found = os.fstat(fd.fileno())
        if not stat.S_ISCHR(found.st_mode) or not right(found.st_rdev):
            raise ProtocolViolation("The pty helper sent an fd that is not a pty.", helper=helper)
    try:
        (number,) = struct.unpack("I", fcntl.ioctl(master.fileno(), _TIOCGPTN, b"\0" * 4))
        settings = termios.tcgetattr(slave.fileno())
        slave_device = os.fstat(slave.fileno()).st_rdev
        if os.minor(slave_device) + (os.major(slave_device) - _SLAVE_MAJORS[0]) * 256 != number:
            raise ProtocolViolation("The pty helper sent a slave of another master.", helper=helper)
        if settings[3] & (termios.ICANON | termios.ECHO | termios.ISIG):
            raise ProtocolViolation("The pty helper sent a pty that is not raw.", helper=helper)
        os.fchown(slave.fileno(), 0, 0)
        os.fchmod(slave.fileno(), 0o600)
    except (OSError, termios.error) as error:
        raise ProtocolViolation(f"The pty helper sent a pty that does not answer: {error}.", helper=helper) from error
    master.name, slave.name = f"master of pts/{number}", f"slave pts/{number}"
    return Pty(master, slave, number)
