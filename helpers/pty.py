# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: A005 - it is domward.helpers.pty, and no import here is relative to sys.path
"""The helper that opens ptys: one request, one answer, exit.

It opens them in its own, empty root, where the confinement has put the host's ptmx and devpts and nothing else, so
the privileged side never follows a path into devpts. Slaves are opened through their masters (TIOCGPTPEER, Linux 4.13),
never by a path. All of the ptys are handed over or none: on a failure everything opened so far is closed first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import termios
from collections.abc import Iterator

from domward.protocol.channel import Channel, ChannelClosed
from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd, close_all
from domward.protocol.messages import Failed, OpenPtys, PtysOpened

from . import paths

_PTMX = os.fsencode(paths.PTMX)

# <asm-generic/ioctls.h>, as on x86 and Arm; Python 3.11 has no names for the two.
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441

# The keys of Linux' own new terminals (INIT_C_CC): interrupt, quit, erase, kill, end of file.
_KEYS = {
    termios.VINTR: b"\x03",
    termios.VQUIT: b"\x1c",
    termios.VERASE: b"\x7f",
    termios.VKILL: b"\x15",
    termios.VEOF: b"\x04",
}

_OPEN = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC


def run(channel: Channel, *, ptmx: bytes = _PTMX) -> int:
    """Answers one OpenPtys. Returns the exit code: 0, also where the supervisor is gone; 1 after a Failed."""
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    waiting.poll()
    received = channel.receive((OpenPtys,))
    if received is None:
        return 0
    request = received.message
    assert isinstance(request, OpenPtys), "nothing else was allowed"
    fds: list[Fd] = []
    try:
        for _ in range(request.count):
            _open_pty(ptmx, request, fds)
        channel.send(PtysOpened(count=request.count), fds)
    except ChannelClosed:
        return 0
    except (OSError, OperationFailed) as error:
        close_all(fds)
        return _report_failure(channel, error)
    finally:
        close_all(fds)
    return 0


def _open_pty(ptmx: bytes, request: OpenPtys, fds: list[Fd]) -> None:
    """Opens one pty; adds master and slave to `fds` as soon as each is open. Raises OSError."""
    master = Fd(os.open(ptmx, _OPEN), "pty master")
    fds.append(master)
    fcntl.ioctl(master.fileno(), TIOCSPTLCK, struct.pack("i", 0))
    slave = Fd(fcntl.ioctl(master.fileno(), TIOCGPTPEER, _OPEN), "pty slave")
    fds.append(slave)
    _set_raw(slave.fileno())
    fcntl.ioctl(slave.fileno(), termios.TIOCSWINSZ, struct.pack("4H", request.rows, request.columns, 0, 0))


def _set_raw(number: int) -> None:
    """Raw mode as cfmakeraw(3) defines it: 8 bits each way, no echo, no signals, no line editing."""
    with _os_errors():
        mode = termios.tcgetattr(number)
        mode[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        termios.tcsetattr(number, termios.TCSANOW, mode)


def set_sane(number: int) -> None:
    """What programs expect of a new terminal: lines, echo, and signals from keys. Raises OSError."""
    with _os_errors():
        mode = termios.tcgetattr(number)
        mode[0] = termios.BRKINT | termios.ICRNL
        mode[1] = termios.OPOST | termios.ONLCR
        mode[3] = (
            termios.ISIG | termios.ICANON | termios.IEXTEN
            | termios.ECHO | termios.ECHOE | termios.ECHOK | termios.ECHOCTL | termios.ECHOKE
        )  # fmt: skip
        for place, key in _KEYS.items():
            mode[6][place] = key
        termios.tcsetattr(number, termios.TCSANOW, mode)


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    try:
        yield
    except termios.error as error:  # not an OSError, but has its arguments
        raise OSError(*error.args) from None


def _report_failure(channel: Channel, error: OSError | OperationFailed) -> int:
    cause = error if isinstance(error, OSError) else error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    # a supervisor that is gone or stuck learns of the failure from the exit code
    with contextlib.suppress(OperationFailed):
        channel.send(Failed(what="Opening a pty failed.", errno=number or 0))
    return 1
