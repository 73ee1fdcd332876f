# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is at the other end of a connection, as the kernel says it, and what that makes them."""

from __future__ import annotations

import errno
import socket
import struct

from domward.protocol.control import Role
from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd
from domward.protocol.records import frozen

# <asm-generic/socket.h>; Python 3.11 has no names for the two. Linux 4.13 and 6.5.
_SO_PEERGROUPS = 59
_SO_PEERPIDFD = 77
_UCRED = struct.Struct("iII")
_GID = struct.calcsize("I")
_MOST_GROUPS = 65_536  # NGROUPS_MAX


@frozen
class Peer:
    """A client as it was when it connected; a connection that it hands on stays in its name.

    `groups` has the effective group and the supplementary ones. `pidfd` is None before Linux 6.5, and for a process
    that was gone already.
    """

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]
    pidfd: Fd | None

    def close(self) -> None:
        """Closes the pidfd."""
        if self.pidfd is not None:
            self.pidfd.close()


def peer_of(end: socket.socket) -> Peer:
    """The peer of a connected Unix socket. Raises OperationFailed where the kernel does not say."""
    try:
        pid, uid, gid = _UCRED.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        groups = _groups(end)
    except OSError as error:
        raise OperationFailed(f"A client's identity is not to be had: {error.strerror}.") from error
    return Peer(pid, uid, gid, groups | {gid}, _pidfd(end))


def role_of(peer: Peer, operators: int | None, auditors: int | None) -> Role | None:
    """What `peer` is, where `operators` and `auditors` are the groups' numbers; None for nobody of interest."""
    if peer.uid == 0:
        return Role.ROOT
    if operators is not None and operators in peer.groups:
        return Role.OPERATOR
    if auditors is not None and auditors in peer.groups:
        return Role.AUDITOR
    return None


def _groups(end: socket.socket) -> frozenset[int]:
    size = 64 * _GID
    while True:
        try:
            data = end.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, size)
        except OSError as error:
            if error.errno != errno.ERANGE or size >= _MOST_GROUPS * _GID:
                raise
            size = min(size * 8, _MOST_GROUPS * _GID)
            continue
        return frozenset(struct.unpack(f"{len(data) // _GID}I", data))


def _pidfd(end: socket.socket) -> Fd | None:
    try:
        return Fd(end.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD), "a client's pidfd")
    except OSError:
        return None
