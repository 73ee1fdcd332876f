# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages between a xenstore client and xenstored: sixteen bytes of header and at most 4096 of payload.

Sources: Xen's docs/misc/xenstore.txt, and xen/include/public/io/xs_wire.h for numbers and limits. xenstored is trusted
with what it holds, not with its messages' form: values in it are guests' own.
"""

from __future__ import annotations

import enum
import errno
import re
import struct

from domward.protocol import limits
from domward.protocol.errors import OperationFailed, UsageError, printable
from domward.protocol.records import frozen

_HEADER = struct.Struct("=IIII")  # type, request, transaction, length; in the host's byte order
_PATH = re.compile(r"/|(?:/[A-Za-z0-9+_@-]+)+|@[A-Za-z]+(?:/[0-9]+)?", re.ASCII)
_ERROR = re.compile(rb"(E[A-Z0-9]{1,15})\0", re.ASCII)


class Kind(enum.IntEnum):
    """The message types that are used here."""

    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16


class XenstoreError(OperationFailed):
    """xenstored refused a request; `number` is the errno, 0 where its name is unknown."""

    code = "xenstore-refused"

    def __init__(self, what: str, name: str) -> None:
        self.number = getattr(errno, name, 0)
        super().__init__(f"xenstored refused to {what}: {name}.")


class XenstoreLost(OperationFailed):
    """There is no connection to xenstored, or it does not keep to the protocol, or does not answer."""

    code = "xenstore-lost"


@frozen
class Packet:
    """A message as it came; nothing in it is checked but its size."""

    kind: int
    request: int
    transaction: int
    untrusted_payload: bytes


def encode(kind: Kind, request: int, transaction: int, payload: bytes) -> bytes:
    """A message. Raises UsageError for a payload that xenstored would close the connection for."""
    if len(payload) > limits.XENSTORE_PAYLOAD_BYTES:
        raise UsageError(f"A xenstore request takes at most {limits.XENSTORE_PAYLOAD_BYTES} bytes, not {len(payload)}.")
    return _HEADER.pack(kind, request, transaction, len(payload)) + payload


def decode(buffer: bytearray) -> Packet | None:
    """Takes the first whole message off `buffer`; None where it is not all there. Raises XenstoreLost."""
    if len(buffer) < _HEADER.size:
        return None
    kind, request, transaction, length = _HEADER.unpack_from(buffer)
    if length > limits.XENSTORE_PAYLOAD_BYTES:
        raise XenstoreLost(f"xenstored announced {length} bytes; {limits.XENSTORE_PAYLOAD_BYTES} are allowed.")
    end = _HEADER.size + length
    if len(buffer) < end:
        return None
    packet = Packet(kind, request, transaction, bytes(buffer[_HEADER.size : end]))
    del buffer[:end]
    return packet


def checked_path(path: str) -> bytes:
    """An absolute path, or a special one as "@releaseDomain". Raises UsageError."""
    if not _PATH.fullmatch(path) or len(path) > limits.XENSTORE_PATH_BYTES:
        raise UsageError(f"{printable(path)[: limits.TITLE_BYTES]} is no path in xenstore.")
    return path.encode("ascii")


def error_name(packet: Packet) -> str:
    """The name of the error in an error reply. Raises XenstoreLost where there is none."""
    found = _ERROR.fullmatch(packet.untrusted_payload)
    if found is None:
        raise XenstoreLost("xenstored sent an error without a name.")
    return found[1].decode("ascii")


def words(packet: Packet) -> list[bytes]:
    """The payload as words, each with a NUL behind it. Raises XenstoreLost."""
    if not packet.untrusted_payload:
        return []
    if not packet.untrusted_payload.endswith(b"\0"):
        raise XenstoreLost("xenstored sent words without an end.")
    return packet.untrusted_payload[:-1].split(b"\0")
