# SPDX-License-Identifier: GPL-3.0-or-later
"""The one module of this side that calls the kernel through python-prctl, ctypes or a raw system call.

The calls go through `ctypes.PyDLL`, which keeps the interpreter's lock: around `clone` that matters, and none of
the others blocks. Each raises OSError. Numbers are those of <asm/unistd.h>; from 424 on they are the same everywhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Collection, Sequence

import prctl

from domward.protocol.privileges import Capability, capability_bits
from domward.protocol.syscall_numbers import NUMBERS

from . import paths

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

MACHINE = os.uname().machine
_NUMBERS = {
    "x86_64": {"pivot_root": 155, "seccomp": 317, "capset": 126, "keyctl": 250},
    "aarch64": {"pivot_root": 41, "seccomp": 277, "capset": 91, "keyctl": 219},
}
_OPEN_TREE, _MOVE_MOUNT, _CLONE3, _CLOSE_RANGE = 428, 429, 435, 436
_LANDLOCK_CREATE, _LANDLOCK_RULE, _LANDLOCK_RESTRICT = 444, 445, 446

# <linux/sched.h>
CLONE_NEWUSER = 0x10000000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_PIDFD = 0x00001000
_CLONE_PARENT = 0x00008000
_CLONE_INTO_CGROUP = 0x200000000  # Linux 5.7

# <linux/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2

_CAPABILITY_VERSION_3 = 0x20080522  # <linux/capability.h>

# <linux/prctl.h>; python-prctl refuses the bits that it does not know, NO_CAP_AMBIENT_RAISE among them.
_PR_SET_SECUREBITS = 28
# <linux/securebits.h>: NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE on, all four locked (KEEP_CAPS off).
SECUREBITS_LOCKED_DOWN = 0b1110_1111

# <linux/keyctl.h>
_KEYCTL_JOIN_SESSION_KEYRING = 1

# <linux/landlock.h>
LANDLOCK_EXECUTE, LANDLOCK_WRITE_FILE, LANDLOCK_READ_FILE, LANDLOCK_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
LANDLOCK_IOCTL_DEV = 1 << 15
# Removing folders and files, making folders, files, FIFOs and links, moving between folders, truncating.
LANDLOCK_CHANGE_FOLDER = sum(1 << bit for bit in (4, 5, 7, 8, 10, 12, 13, 14))
_LANDLOCK_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_LANDLOCK_NET = 0b11
_LANDLOCK_SCOPES = 0b11


def _system_call(number: int, *arguments: object) -> int:
    ctypes.set_errno(0)
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _c_call(name: str, *arguments: object) -> int:
    ctypes.set_errno(0)
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def number_of(name: str) -> int:
    """The number of a system call that has one per machine. Raises OSError(ENOSYS) on a machine not known here."""
    try:
        return _NUMBERS[MACHINE][name]
    except KeyError:
        raise OSError(38, f"{name} has no known number on {MACHINE}") from None


def clone_sibling(namespaces: int, group: int | None = None) -> tuple[int, int]:
    """Forks a child of this process's *parent* into new `namespaces` (CLONE_NEW* bits): clone3(2) with CLONE_PARENT.

    Returns (pid, pidfd) here and (0, -1) in the child. The interpreter's own fork hooks run on both sides.
    """
    # exit_signal must be 0 with CLONE_PARENT: the child gets this process's own
    into = 0 if group is None else _CLONE_INTO_CGROUP
    return _clone(namespaces | _CLONE_PARENT | into, exit_signal=0, group=group or 0)


def clone_child(namespaces: int) -> tuple[int, int]:
    """As `clone_sibling`, for a child of this process itself."""
    return _clone(namespaces, exit_signal=signal.SIGCHLD)


def _clone(flags: int, exit_signal: int, group: int = 0) -> tuple[int, int]:
    pidfd = ctypes.c_int(-1)
    arguments = struct.pack("=11Q", flags | _CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, exit_signal, *(0,) * 5, group)
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    ctypes.pythonapi.PyOS_BeforeFork()
    ctypes.set_errno(0)
    pid: int = _libc.syscall(ctypes.c_long(_CLONE3), buffer, ctypes.c_size_t(len(arguments)))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    error = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, os.strerror(error))
    return pid, pidfd.value


def in_user_namespace() -> bool:
    """Whether this is not the first user namespace, which has every uid."""
    with open(paths.UID_MAP, encoding="ascii") as file:
        return file.read().split() != ["0", "0", str(2**32 - 1)]


def has_namespace(name: str) -> bool:
    """Whether a namespace of the kind that /proc calls `name` can be made: user_namespaces(7), namespaces(7)."""
    if not os.path.exists(f"{paths.NAMESPACES}/{name}"):
        return False
    try:
        with open(f"{paths.NAMESPACE_LIMITS}/max_{name}_namespaces", encoding="ascii") as file:
            return int(file.read(32)) > 0
    except FileNotFoundError:  # before Linux 4.9 there is no limit
        return True


def unshare(namespaces: int) -> None:
    """unshare(2)."""
    _c_call("unshare", ctypes.c_int(namespaces))


def mount(source: bytes, target: bytes, kind: bytes, flags: int, options: bytes = b"") -> None:
    """mount(2)."""
    _c_call("mount", source, target, kind, ctypes.c_ulong(flags), options)


def pivot_here() -> None:
    """Makes the current folder, a mount point, the root, and lets go of the old one: pivot_root(2), with "." twice."""
    _system_call(number_of("pivot_root"), b".", b".")
    _c_call("umount2", b".", ctypes.c_int(_MNT_DETACH))
    os.chdir(paths.ROOT)


def set_host_name(name: bytes) -> None:
    """sethostname(2), for this UTS namespace."""
    _c_call("sethostname", name, ctypes.c_size_t(len(name)))


def close_from(lowest: int) -> None:
    """Closes every fd from `lowest` up: close_range(2), Linux 5.9."""
    _system_call(_CLOSE_RANGE, ctypes.c_uint(lowest), ctypes.c_uint(2**32 - 1), ctypes.c_uint(0))


def leave_session_keyring() -> None:
    """Begins a session keyring of its own: forks inherit that of whoever started the supervisor, who may keep secrets.

    A kernel without keys, or a filter around everything that refuses keyctl(2), leaves nothing that could be reached.
    """
    try:
        _system_call(number_of("keyctl"), ctypes.c_int(_KEYCTL_JOIN_SESSION_KEYRING), None)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise


def keep_capabilities(keep: bool) -> None:
    """Whether permitted capabilities outlive the change to another uid."""
    prctl.set_keepcaps(keep)


def drop_bounding_set(but: Collection[Capability] = ()) -> None:
    """Empties the bounding set, up to the last capability that this kernel knows, except for `but`."""
    for capability in range(last_capability() + 1):
        if capability not in but:
            prctl.capbset_drop(capability)


_last_capability = -1


def last_capability() -> int:
    """The kernel's highest capability number; read once, before the root is emptied."""
    global _last_capability
    if _last_capability < 0:
        with open(paths.LAST_CAPABILITY, "rb") as file:
            _last_capability = int(file.read(16))
    return _last_capability


def set_capabilities(capabilities: Collection[Capability]) -> None:
    """Makes `capabilities` the effective and permitted sets and empties the inheritable (and so the ambient) one."""
    bits = capability_bits(capabilities)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    _system_call(number_of("capset"), header, data)


def lock_securebits() -> None:
    """Sets and locks all securebits: uid 0 means nothing any more, capabilities never come back."""
    _c_call("prctl", ctypes.c_int(_PR_SET_SECUREBITS), ctypes.c_ulong(SECUREBITS_LOCKED_DOWN))


def securebits_locked() -> bool:
    """Whether exactly the bits that `lock_securebits` sets are set."""
    return bool(prctl.get_securebits() == SECUREBITS_LOCKED_DOWN)


def set_no_new_privs() -> None:
    """execve never raises privileges from now on; needed for Landlock and seccomp without CAP_SYS_ADMIN."""
    prctl.set_no_new_privs(1)


def set_not_dumpable() -> None:
    """No core, no ptrace by equals, /proc/PID owned by root."""
    prctl.set_dumpable(False)


def set_parent_death_signal(number: int) -> None:
    """The signal that this process gets when the thread that is its parent ends. Cleared by a change of uid."""
    prctl.set_pdeathsig(number)


def parent_death_signal() -> int:
    """The signal set by `set_parent_death_signal`, 0 for none."""
    return int(prctl.get_pdeathsig())


def landlock_abi() -> int:
    """The kernel's Landlock ABI, 0 where it has none or it is switched off."""
    try:
        return _system_call(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except OSError:
        return 0


def landlock_deny_all(abi: int, but: Sequence[tuple[int, int]] = ()) -> None:
    """Restricts this process to no file, no TCP port, no abstract socket and no signal outside itself, as `abi` can.

    `but` are folder fds with the rights (LANDLOCK_*) that it keeps below each.
    """
    handled = (1 << _LANDLOCK_FS_BITS.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", handled, _LANDLOCK_NET, _LANDLOCK_SCOPES)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _system_call(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    try:
        for folder, rights in but:
            rule = struct.pack("=Qi", rights & handled, folder)
            _system_call(_LANDLOCK_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
        _system_call(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def seccomp_available() -> bool:
    """Whether the kernel takes seccomp filters: a filter at address 0 gives EFAULT then, EINVAL or ENOSYS otherwise."""
    try:
        _system_call(number_of("seccomp"), ctypes.c_uint(1), ctypes.c_uint(0), None)
    except OSError as error:
        return error.errno == 14
    return False


def refused_call_passes() -> bool:
    """Tries a system call that succeeds for everybody, asking for the personality, and that our filters refuse."""
    try:
        _system_call(NUMBERS[MACHINE]["personality"], ctypes.c_ulong(0xFFFFFFFF))
    except OSError:
        return False
    return True


def load_seccomp_filter(program: bytes) -> None:
    """Loads a compiled filter (see `protocol/seccomp`); every later system call of this process goes through it."""
    buffer = ctypes.create_string_buffer(program, len(program))
    descriptor = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _system_call(number_of("seccomp"), ctypes.c_uint(1), ctypes.c_uint(0), descriptor)
