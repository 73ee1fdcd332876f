# SPDX-License-Identifier: GPL-3.0-or-later
"""The raw calls of this side: timerfd_create(2), which Python has from 3.13 on, mounts without a place, privileges.

The calls on mounts have the same numbers on every machine: open_tree(2), move_mount(2), fsopen(2), mount_setattr(2)
(Linux 5.12), and setns(2) with a pidfd (Linux 5.8). They and those that give up privileges raise OSError; the latter
act on the calling thread and what it starts later.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Collection

from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd
from domward.protocol.privileges import Capability, capability_bits

MACHINE = os.uname().machine
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_CLOCK_MONOTONIC = 1  # <linux/time.h>
_TFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # TFD_CLOEXEC, TFD_NONBLOCK
_NANOSECONDS = 1_000_000_000

_CLOSE_RANGE = 436
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000  # <linux/sched.h>
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000  # <linux/fcntl.h>
# <linux/mount.h>
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_MOUNT_F_EMPTY_PATH = 1, os.O_CLOEXEC, 4
_FSOPEN_CLOEXEC, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE, _FSMOUNT_CLOEXEC = 1, 1, 6, 1
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
_MOUNT_ATTR_IDMAP = 0x100000
_LONGEST_SECONDS = 86_400.0  # a deadline further off is looked at again after a day
CLONE_NEWUSER = 0x10000000  # <linux/sched.h>
_CAPABILITY_VERSION_3 = 0x20080522  # <linux/capability.h>
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38  # <linux/prctl.h>
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


class _Itimerspec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "value_s", "value_ns")]


class Alarm:
    """A timerfd: an fd that is readable once the time that was set is over. Owns the fd."""

    def __init__(self) -> None:
        """Raises OperationFailed."""
        ctypes.set_errno(0)
        number = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if number < 0:
            raise OperationFailed(f"A timer could not be made: {os.strerror(ctypes.get_errno())}.")
        self._fd = Fd(number, "timer")

    def fileno(self) -> int:
        """The fd's number."""
        return self._fd.fileno()

    def set(self, seconds: float | None) -> None:
        """Makes it readable after `seconds` from now, 0 for at once, and never for None. Ends what was set before."""
        value = 0 if seconds is None else max(1, int(min(seconds, _LONGEST_SECONDS) * _NANOSECONDS))
        when = _Itimerspec(0, 0, *divmod(value, _NANOSECONDS))
        ctypes.set_errno(0)
        if _LIBC.timerfd_settime(self.fileno(), 0, ctypes.byref(when), None) < 0:
            raise OperationFailed(f"A timer could not be set: {os.strerror(ctypes.get_errno())}.")

    def close(self) -> None:
        """Closes the fd. Idempotent."""
        self._fd.close()


def _call(name: str, *arguments: object) -> int:
    ctypes.set_errno(0)
    result: int = getattr(_LIBC, name)(*arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _prctl(option: int, *arguments: int) -> int:
    four = (*arguments, 0, 0, 0, 0)[:4]
    return _call("prctl", ctypes.c_int(option), *(ctypes.c_ulong(argument) for argument in four))


def unshare(namespaces: int) -> None:
    """unshare(2), with CLONE_NEW* bits."""
    _call("unshare", ctypes.c_int(namespaces))


def drop_bounding_set(but: Collection[Capability]) -> None:
    """Empties the bounding set except for `but`."""
    for capability in range(64):
        try:
            in_it = _prctl(_PR_CAPBSET_READ, capability)
        except OSError:  # above the last one that this kernel knows
            return
        if in_it and capability not in but:
            _prctl(_PR_CAPBSET_DROP, capability)


def permitted_capabilities() -> int:
    """The permitted set, as bits."""
    header, data = _capability_header(), ctypes.create_string_buffer(24)
    _call("capget", header, data)
    _effective, low, _inheritable, _effective_high, high, _inheritable_high = struct.unpack("=6I", data.raw)
    return int(low | high << 32)


def set_capabilities(capabilities: Collection[Capability]) -> None:
    """Makes `capabilities` the effective and permitted sets and empties the inheritable (and so the ambient) one."""
    bits = capability_bits(capabilities)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    _call("capset", _capability_header(), struct.pack("=6I", low, low, 0, high, high, 0))


def _capability_header() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)


def set_no_new_privs() -> None:
    """execve never raises privileges from now on; needed for a filter without CAP_SYS_ADMIN."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def load_seccomp_filter(program: bytes) -> None:
    """Loads a compiled filter (see `protocol/seccomp`)."""
    buffer = ctypes.create_string_buffer(program, len(program))
    descriptor = ctypes.create_string_buffer(struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)), 16)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(descriptor))


def has_mount_setattr() -> bool:
    """Whether there is mount_setattr(2), Linux 5.12: asks for attributes of no size, which is refused where it is."""
    try:
        _system_call(_MOUNT_SETATTR, ctypes.c_int(-1), b"", ctypes.c_uint(0), None, ctypes.c_size_t(0))
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


def has_close_range() -> bool:
    """Whether there is close_range(2), Linux 5.9: closes the fds from the highest possible number on, so none."""
    try:
        _system_call(_CLOSE_RANGE, ctypes.c_uint(2**32 - 1), ctypes.c_uint(2**32 - 1), ctypes.c_uint(0))
    except OSError:
        return False
    return True


def refused_call_passes() -> bool:
    """Tries a system call that succeeds for everybody, asking for the personality, and that our filter refuses."""
    try:
        _call("personality", ctypes.c_ulong(0xFFFFFFFF))
    except OSError:
        return False
    return True


def open_tree(file: Fd) -> Fd:
    """A mount of `file` alone, with no place yet; it is gone with its last fd unless it gets one."""
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH)
    return Fd(_system_call(_OPEN_TREE, ctypes.c_int(file.fileno()), b"", flags), f"mount of {file.name}")


def new_tmpfs(options: dict[str, str]) -> Fd:
    """A new tmpfs with `options`, mounted without a place."""
    with Fd(_system_call(_FSOPEN, b"tmpfs", ctypes.c_uint(_FSOPEN_CLOEXEC)), "file system") as context:
        number = ctypes.c_int(context.fileno())
        for key, value in options.items():
            _system_call(_FSCONFIG, number, ctypes.c_uint(_FSCONFIG_SET_STRING), key.encode(), value.encode(), 0)
        _system_call(_FSCONFIG, number, ctypes.c_uint(_FSCONFIG_CMD_CREATE), None, None, 0)
        return Fd(_system_call(_FSMOUNT, number, ctypes.c_uint(_FSMOUNT_CLOEXEC), ctypes.c_uint(0)), "mount of a tmpfs")


def set_mount(mount: Fd, attributes: int, ids: Fd | None = None) -> None:
    """Sets MOUNT_ATTR_* on `mount`; `ids` is a user namespace through whose maps its files' owners are then seen."""
    if ids is not None:
        attributes |= _MOUNT_ATTR_IDMAP
    wanted = struct.pack("=QQQQ", attributes, 0, 0, ids.fileno() if ids else 0)
    _system_call(
        _MOUNT_SETATTR,
        ctypes.c_int(mount.fileno()),
        b"",
        ctypes.c_uint(_AT_EMPTY_PATH),
        wanted,
        ctypes.c_size_t(len(wanted)),
    )


def place_mount(mount: Fd, path: bytes) -> None:
    """Gives `mount` the place `path` in the calling thread's mount namespace."""
    here = ctypes.c_int(_AT_FDCWD)
    _system_call(_MOVE_MOUNT, ctypes.c_int(mount.fileno()), b"", here, path, ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH))


def enter_mounts_of(process: Fd) -> None:
    """Moves the calling thread, alone and for good, to the mount namespace and the root of `process`, a pidfd."""
    _call("unshare", ctypes.c_int(_CLONE_FS))
    _call("setns", ctypes.c_int(process.fileno()), ctypes.c_int(_CLONE_NEWNS))


def _system_call(number: int, *arguments: object) -> int:
    return _call("syscall", ctypes.c_long(number), *arguments)
