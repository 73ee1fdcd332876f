# SPDX-License-Identifier: GPL-3.0-or-later
"""One end of a SOCK_SEQPACKET pair that carries messages and, where allowed, fds.

Limits are fixed when a channel is made: the longest message and the most fds that this end accepts.
A message and its fds arrive together or not at all. By cases, for a received datagram:

====================================  ===========================================================
whole, number of fds as declared      `Received`; the caller owns the fds
longer than the buffer (MSG_TRUNC)    ProtocolViolation; fds closed
control data cut (MSG_CTRUNC)         ProtocolViolation; fds closed
bad message, or wrong number of fds   ProtocolViolation; fds closed
empty                                 end of file: nobody ever sends an empty message
nothing there                         BlockingIOError, on a non-blocking channel
====================================  ===========================================================

States: open -> closed. `close` is idempotent; every other call on a closed channel raises UsageError.
"""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Callable, Collection, Sequence

from . import limits
from .errors import OperationFailed, ProtocolViolation, UsageError
from .fds import Fd, close_all
from .records import frozen
from .schema import Message, parse

# <linux/socket.h> and <asm-generic/socket.h>; Python 3.11 has no names for the two.
SO_PASSPIDFD = 76
SCM_PIDFD = 4
_UCRED = struct.Struct("iII")
_INT = struct.calcsize("i")


@frozen
class Sender:
    """Who sent a message, as the kernel says it: `pid` in the receiver's pid namespace, ids in its user namespace."""

    pid: int
    uid: int
    gid: int


@frozen
class Received:
    """A message and what came with it. `sender` and `pidfd` are None unless asked for and known to the kernel."""

    message: Message
    fds: tuple[Fd, ...] = ()
    sender: Sender | None = None
    pidfd: Fd | None = None

    def close(self) -> None:
        """Closes every fd that came with the message."""
        close_all(self.fds)
        if self.pidfd is not None:
            self.pidfd.close()


class ChannelClosed(OperationFailed):
    """The other end is gone."""

    code = "channel-closed"


class Channel:
    """One end; owns its socket. `name` is for error messages.

    `max_fds` is the most fds that this end accepts with one message, 0 to limits.MESSAGE_FDS. `identify` asks the
    kernel for the sender of each message (SO_PASSCRED, and SO_PASSPIDFD where the kernel has it, Linux 6.5);
    `pidfds` False leaves SO_PASSPIDFD out, as on older kernels. `discard` closes the fds of a message that is rejected.
    """

    def __init__(
        self,
        end: socket.socket,
        name: str,
        *,
        max_fds: int = 0,
        identify: bool = False,
        pidfds: bool = True,
        discard: Callable[[Fd], None] = Fd.close,
    ) -> None:
        if not 0 <= max_fds <= limits.MESSAGE_FDS:
            raise UsageError(f"A channel accepts 0 to {limits.MESSAGE_FDS} fds with a message, not {max_fds}.")
        if end.family != socket.AF_UNIX or end.type & 0xF != socket.SOCK_SEQPACKET:
            raise UsageError(f"The channel {name} needs a Unix socket of type SEQPACKET.")
        self.name = name
        self._socket = end
        self._max_fds = max_fds
        self._discard = discard
        self.passes_pidfd = False
        ancillary = socket.CMSG_SPACE(limits.MESSAGE_FDS * _INT)
        if identify:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ancillary += socket.CMSG_SPACE(_UCRED.size)
            if pidfds:
                self.passes_pidfd = _pass_pidfd(end)
                ancillary += socket.CMSG_SPACE(_INT)
        self._ancillary = ancillary

    @classmethod
    def pair(
        cls,
        name: str,
        *,
        max_fds: int = 0,
        identify: bool = False,
        pidfds: bool = True,
        discard: Callable[[Fd], None] = Fd.close,
    ) -> tuple[Channel, Fd]:
        """A non-blocking channel for this process and, as a plain fd, the blocking end for another."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        far_fd = Fd(far.detach(), f"{name}'s far end")
        try:
            near.setblocking(False)
            return cls(near, name, max_fds=max_fds, identify=identify, pidfds=pidfds, discard=discard), far_fd
        except BaseException:
            near.close()
            far_fd.close()
            raise

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The socket's number, for poll. Raises UsageError once closed."""
        number = self._socket.fileno()
        if number < 0:
            raise UsageError(f"The channel {self.name} is closed already.")
        return number

    @property
    def closed(self) -> bool:
        """Whether this end was closed here."""
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()

    def send(self, message: Message, fds: Sequence[Fd | int] = ()) -> None:
        """Sends `message` with copies of `fds`, which stay the caller's.

        Raises UsageError for a number of fds that the message does not declare, BlockingIOError where the other
        side does not read (non-blocking end), ChannelClosed where it is gone, OperationFailed for other errors.
        """
        if len(fds) != message.fd_count():
            raise UsageError(f"{message.NAME} goes with {message.fd_count()} fds, not {len(fds)}.")
        self.fileno()
        numbers = array.array("i", [fd if isinstance(fd, int) else fd.fileno() for fd in fds])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if fds else []
        try:
            self._socket.sendmsg([message.encode()], ancillary, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise
        except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
            raise ChannelClosed(f"The other end of {self.name} is gone; {message.NAME} was not sent.") from None
        except OSError as error:
            raise OperationFailed(f"Sending {message.NAME} on {self.name} failed: {error.strerror}.") from error

    def receive(self, allowed: Collection[type[Message]]) -> Received | None:
        """The next message, of one of the `allowed` classes; None at end of file.

        Raises ProtocolViolation (every fd of the message is closed then), BlockingIOError, OperationFailed.
        """
        self.fileno()
        try:
            try:
                untrusted_data, ancillary, flags = self._receive_datagram()
            except ConnectionResetError:
                # The other end closed with messages of ours unread. The kernel says so once, ahead of what that end
                # had sent before it closed (its answer, perhaps), which is still there to be read.
                untrusted_data, ancillary, flags = self._receive_datagram()
        except BlockingIOError:
            raise
        except OSError as error:
            raise OperationFailed(f"Receiving on {self.name} failed: {error.strerror}.") from error
        fds, sender, pidfd = self._unpack(ancillary)
        try:
            if flags & socket.MSG_CTRUNC:
                raise ProtocolViolation(f"A message on {self.name} came with more control data than it may.")
            if flags & socket.MSG_TRUNC:
                raise ProtocolViolation(f"A message on {self.name} is longer than {limits.MESSAGE_BYTES} bytes.")
            if not untrusted_data:
                if fds:
                    raise ProtocolViolation(f"Fds came on {self.name} without a message.")
                close_all([pidfd] if pidfd else [])
                return None
            if len(fds) > self._max_fds:
                raise ProtocolViolation(f"{len(fds)} fds came on {self.name}, which accepts {self._max_fds}.")
            message = parse(untrusted_data, allowed)
            if len(fds) != message.fd_count():
                raise ProtocolViolation(f"{message.NAME} came with {len(fds)} fds instead of {message.fd_count()}.")
        except BaseException:
            for fd in fds:
                self._discard(fd)
            close_all([pidfd] if pidfd else [])
            raise
        return Received(message, tuple(fds), sender, pidfd)

    def _receive_datagram(self) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        data, ancillary, flags, _ = self._socket.recvmsg(
            limits.MESSAGE_BYTES + 1, self._ancillary, socket.MSG_CMSG_CLOEXEC
        )
        return data, ancillary, flags

    def _unpack(self, ancillary: list[tuple[int, int, bytes]]) -> tuple[list[Fd], Sender | None, Fd | None]:
        fds: list[Fd] = []
        sender: Sender | None = None
        pidfd: Fd | None = None
        for level, kind, untrusted_data in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(untrusted_data[: len(untrusted_data) - len(untrusted_data) % _INT])
                fds.extend(Fd(number, f"fd {place} received on {self.name}") for place, number in enumerate(numbers))
            elif kind == socket.SCM_CREDENTIALS and len(untrusted_data) >= _UCRED.size:
                pid, uid, gid = _UCRED.unpack_from(untrusted_data)
                sender = Sender(pid, uid, gid) if pid else None
            elif kind == SCM_PIDFD and len(untrusted_data) >= _INT:
                (number,) = struct.unpack_from("i", untrusted_data)
                pidfd = Fd(number, f"pidfd received on {self.name}") if number >= 0 else None
        return fds, sender, pidfd


def _pass_pidfd(end: socket.socket) -> bool:
    try:
        end.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1)
    except OSError:
        return False  # before Linux 6.5
    return True
