# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk image whose reads fail, end early or never end: one file on a FUSE mount, served by a thread.

    with flaky_disk(tmp_path, image, failing_from(1_000_000)) as disk: ...     # EIO from that byte on

The protocol is spoken directly (linux/fuse.h, version 7.31): no library is needed, but root and /dev/fuse. The mount
and the thread are gone at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# What a read of `size` bytes at `offset` gives: the bytes; fewer than asked for means the end. An OSError is passed on.
# Blocked is raised where it is never to be answered.
Read = Callable[[int, int, bytes], bytes]

NAME = b"disk.img"
NEVER = -1
_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_NOSUID, _MS_NODEV, _MNT_DETACH = 2, 4, 2
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE, _FLUSH, _INIT = 1, 2, 3, 14, 15, 17, 18, 25, 26
_INTERRUPT, _BATCH_FORGET = 36, 42
_ROOT, _FILE = 1, 2
_DIRECT_IO = 1
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_READ_IN = struct.Struct("<QQI")
_BUFFER = 1 << 20


class Blocked(Exception):
    """The read is not answered, until somebody interrupts it."""


def failing_from(start: int) -> Read:
    """EIO for every read that reaches beyond byte `start`."""

    def read(offset: int, size: int, content: bytes) -> bytes:
        if offset + size > start:
            raise OSError(errno.EIO, "bad medium")
        return content

    return read


def ending_at(end: int) -> Read:
    """The file turns out to end at byte `end`, although it is longer when it is opened."""
    return lambda offset, _size, content: content[: max(0, end - offset)]


def blocking_from(start: int, reached: threading.Event) -> Read:
    """No answer to a read that reaches beyond byte `start`; `reached` is set when one came."""

    def read(offset: int, size: int, content: bytes) -> bytes:
        if offset + size > start:
            reached.set()
            raise Blocked
        return content

    return read


@contextlib.contextmanager
def flaky_disk(
    folder: Path,
    image: Path,
    read: Read,
    opening: int = 0,
    deaf: bool = False,
    silence: threading.Event | None = None,
) -> Iterator[Path]:
    """The path of a file with the content and size of `image`, below `folder`, whose reads `read` decides on.

    `opening` is the errno with which opening it fails; 0: it does not; NEVER: it is not answered. A `deaf` server
    does not answer interrupts either, so that even SIGKILL does not end who waits for it, until the end of the block.
    While `silence` is set nothing is answered but interrupts: no look at the file, no read, no close.
    """
    held: set[int] = set()
    over = threading.Event()
    where = folder / "flaky"
    where.mkdir()
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        pytest.skip("this machine has no /dev/fuse")
    with image.open("rb") as content:
        thread = threading.Thread(
            target=_serve, args=(device, content.fileno(), read, opening, held, deaf, silence, over), name="fuse"
        )
        try:
            options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
            if _LIBC.mount(b"flaky", os.fsencode(where), b"fuse", _MS_NOSUID | _MS_NODEV, options):
                raise OSError(ctypes.get_errno(), "mount")
            thread.start()
            try:
                yield where / os.fsdecode(NAME)
            finally:
                over.set()  # whoever was held may ask for more: to close the file, as it ends
                _let_go(device, held)
                # The connection ends with the mount, and with it the server's read.
                _LIBC.umount2(os.fsencode(where), _MNT_DETACH)
                thread.join()
        finally:
            os.close(device)
            where.rmdir()


def _serve(
    device: int,
    content: int,
    read: Read,
    opening: int,
    held: set[int],
    deaf: bool,
    silence: threading.Event | None,
    over: threading.Event,
) -> None:
    while True:
        try:
            request = os.read(device, _BUFFER)
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno == errno.ENOENT:  # the request was interrupted before it could be read
                continue
            return  # ENODEV: unmounted
        _length, opcode, unique, node, *_who = _IN.unpack_from(request)
        body = request[_IN.size :]
        if opcode in (_FORGET, _BATCH_FORGET):
            continue
        if opcode == _INTERRUPT:
            (unique,) = struct.unpack_from("<Q", body)
            if unique in held and not deaf:
                held.discard(unique)
                _reply(device, unique, errno.EINTR)
            continue
        silent = silence is not None and silence.is_set()
        _let_go(device, held, silence is not None and not silent)
        if silent or (opcode == _OPEN and opening == NEVER):
            held.add(unique)
            _let_go(device, held, over.is_set())
            continue
        if opcode == _OPEN and opening:
            _reply(device, unique, opening)
            continue
        try:
            _reply(device, unique, 0, _answer(opcode, node, body, content, read))
        except Blocked:
            held.add(unique)
        except OSError as error:
            _reply(device, unique, error.errno or errno.EIO)


def _let_go(device: int, held: set[int], now: bool = True) -> None:
    with contextlib.suppress(KeyError):  # the server's thread and the one that ends it may do this at once
        while now:
            _reply(device, held.pop(), errno.EIO)


def _answer(opcode: int, node: int, body: bytes, content: int, read: Read) -> bytes:
    match opcode:
        case _ if opcode == _INIT:
            return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 1 << 17, 1, 0, 0, 0)
        case _ if opcode == _LOOKUP:
            if body.rstrip(b"\0") != NAME:
                raise OSError(errno.ENOENT, "no such file")
            return struct.pack("<QQQQII", _FILE, 0, 0, 0, 0, 0) + _attributes(_FILE, content)
        case _ if opcode == _GETATTR:
            return struct.pack("<QII", 0, 0, 0) + _attributes(node, content)
        case _ if opcode == _OPEN:
            return struct.pack("<QII", 0, _DIRECT_IO, 0)
        case _ if opcode == _READ:
            _handle, offset, size = _READ_IN.unpack_from(body)
            return read(offset, size, os.pread(content, size, offset))
        case _ if opcode == _STATFS:
            return bytes(80)
        case _ if opcode in (_RELEASE, _FLUSH):
            return b""
        case _:
            raise OSError(errno.ENOSYS, "not needed")


def _attributes(node: int, content: int) -> bytes:
    size = os.fstat(content).st_size if node == _FILE else 0
    mode = stat.S_IFREG | 0o600 if node == _FILE else stat.S_IFDIR | 0o755
    return _ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def _reply(device: int, unique: int, error: int, body: bytes = b"") -> None:
    with contextlib.suppress(FileNotFoundError):  # nobody waits for it any more
        os.write(device, _OUT.pack(_OUT.size + len(body), -error, unique) + body)
