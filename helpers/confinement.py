# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the layers of `protocol/layers` on the calling process, in order, and nothing less.

The namespaces are made with the process (see `launcher`); `confine` does all the rest. Each step either succeeds or
raises `StepError` with the step's name: there is no step that may fail quietly. A layer that the request names in
`without` is left out, and is then not among the layers that the helper reports.

Two places where the kernel dictates the order within the list: the securebits and the bounding set need
CAP_SETPCAP, so the capability sets are emptied after them; and the process title is set before seccomp, which
allows the call for it to nobody.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from collections.abc import Callable

from domward.protocol import limits
from domward.protocol.layers import NAMESPACE_FILES, Layer
from domward.protocol.messages import HelperKind, Spawn
from domward.protocol.privileges import Capability
from domward.protocol.records import frozen

from . import kernel, paths, program_root

#: The launcher's root has one folder per kind of root that a helper can get; see `prepare_roots`.
_ROOTS = {
    HelperKind.PTY: paths.PTY_ROOT,
    HelperKind.DATACOPIER: paths.EMPTY_ROOT,
    HelperKind.BOOTLOADER: paths.EMPTY_ROOT,
    HelperKind.PROGRAM: paths.PROGRAM_ROOT,
}

NAMESPACE_FLAGS = {
    Layer.MOUNT: kernel.CLONE_NEWNS,
    Layer.PID: kernel.CLONE_NEWPID,
    Layer.NETWORK: kernel.CLONE_NEWNET,
    Layer.IPC: kernel.CLONE_NEWIPC,
    Layer.UTS: kernel.CLONE_NEWUTS,
    Layer.CGROUP: kernel.CLONE_NEWCGROUP,
}


class StepError(Exception):
    """A step failed; `step` is a layer's name or "prepare-roots", `errno` the kernel's reason."""

    def __init__(self, step: str, errno: int) -> None:
        super().__init__(f"{step}: {os.strerror(errno)}")
        self.step = step
        self.errno = errno


@frozen
class Host:
    """What the launcher found out before it gave up the host's files."""

    landlock_abi: int
    missing: tuple[Layer, ...]
    filters: dict[HelperKind, bytes]


def prepare_roots() -> None:
    """Gives the launcher a mount namespace and a root of its own that holds nothing but the helpers' future roots.

    /empty is an empty, read-only file system. /pty holds a ptmx node and the host's devpts as pts: opening ptmx gives
    a pty of the devpts that is mounted on the pts beside it, one that the host's programs can open too (but not in a
    user namespace, where it is a devpts of its own). /program is described in `program_root`. Raises StepError.
    """
    try:
        no_nodes = kernel.in_user_namespace()  # asked before the host's /proc is covered
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(b"none", paths.ROOT.encode(), b"", kernel.MS_REC | kernel.MS_PRIVATE)
        harmless = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount(b"domward", paths.STAGING.encode(), b"tmpfs", harmless, b"mode=0755,size=64k,nr_inodes=16")
        empty, pty, program = (paths.STAGING + root for root in (paths.EMPTY_ROOT, paths.PTY_ROOT, paths.PROGRAM_ROOT))
        for root in (empty, pty, program):
            os.mkdir(root, 0o755)
        kernel.mount(
            b"domward", empty.encode(), b"tmpfs", harmless | kernel.MS_RDONLY, b"mode=0555,size=4k,nr_inodes=2"
        )
        kernel.mount(
            b"domward", pty.encode(), b"tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, b"mode=0555,size=4k,nr_inodes=8"
        )
        _furnish_pty_root(pty, no_nodes)
        if not no_nodes:  # elsewhere the supervisor starts no helper of this kind, and none would verify
            program_root.prepare(program)
        os.chdir(paths.STAGING)
        kernel.pivot_here()
    except OSError as error:
        raise StepError("prepare-roots", error.errno or 0) from error


def _furnish_pty_root(pty: str, no_nodes: bool) -> None:
    """Nobody makes device nodes in a user namespace: there the root gets a devpts of its own, with its own ptmx."""
    os.mkdir(pty + paths.PTS, 0o755)
    if no_nodes:
        options = b"newinstance,ptmxmode=0666,mode=0600"
        kernel.mount(b"domward", (pty + paths.PTS).encode(), b"devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, options)
        os.symlink(os.path.relpath(paths.PTS + paths.PTMX, paths.ROOT), pty + paths.PTMX)
        return
    os.mknod(pty + paths.PTMX, stat.S_IFCHR | 0o666, os.makedev(5, 2))
    os.chmod(pty + paths.PTMX, 0o666)  # noqa: S103 - whatever the umask is: ptmx is open to all, as on every Linux
    kernel.mount(paths.DEVPTS.encode(), (pty + paths.PTS).encode(), b"", kernel.MS_BIND)


def missing_namespaces() -> tuple[Layer, ...]:
    """The namespace layers that this kernel does not have, or whose number is limited to 0 here."""
    return tuple(layer for layer, name in NAMESPACE_FILES.items() if not kernel.has_namespace(name))


def namespaces(without: frozenset[Layer]) -> int:
    """The CLONE_NEW* bits of every namespace layer but those in `without`."""
    return sum(flag for layer, flag in NAMESPACE_FLAGS.items() if layer not in without)


def confine(request: Spawn, host: Host, set_title: Callable[[], None]) -> tuple[Layer, ...]:
    """Confines this process as `request` asks and returns the layers that are on. Raises StepError."""
    without = frozenset(request.without)
    done = [layer for layer in NAMESPACE_FLAGS if layer not in without]
    steps: list[tuple[Layer, Callable[[], None]]] = [
        (Layer.USER, lambda: _become(request.uid, request.gid)),
        (Layer.GROUPS, lambda: os.setgroups([])),
        (Layer.MOUNT, lambda: _enter_root(request)),
        (Layer.UTS, lambda: kernel.set_host_name(b"domward")),
        (Layer.RLIMITS, lambda: _limit(request)),
        (Layer.SECUREBITS, _lock_securebits),
        (Layer.CAPABILITIES, _drop_capabilities),
        (Layer.NO_NEW_PRIVS, kernel.set_no_new_privs),
        (Layer.DUMPABLE, kernel.set_not_dumpable),
        (Layer.PARENT_DEATH, _die_with_parent),
        (Layer.LANDLOCK, lambda: _landlock(request.kind, host.landlock_abi)),
        (Layer.SECCOMP, lambda: kernel.load_seccomp_filter(host.filters[request.kind])),
    ]
    for layer, step in steps:
        if layer in without:
            continue
        if layer is Layer.SECCOMP:
            set_title()
        try:
            step()
        except OSError as error:
            raise StepError(layer.value, error.errno or 0) from error
        if layer not in done:
            done.append(layer)
    return tuple(layer for layer in Layer if layer in done)


def _become(uid: int, gid: int) -> None:
    """Takes the helper's ids, and a keyring of its own.

    The capabilities for the later steps stay permitted meanwhile, and are effective again at the end.
    """
    kernel.keep_capabilities(True)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    kernel.leave_session_keyring()
    kernel.keep_capabilities(False)
    kernel.set_capabilities(
        {Capability.SETGID, Capability.SETPCAP, Capability.SYS_ADMIN}  # what setgroups to seccomp need
    )


def _enter_root(request: Spawn) -> None:
    os.chdir(_ROOTS[request.kind])
    if request.kind is HelperKind.PROGRAM:
        program_root.enter(request.uid, request.gid, request.file_bytes)
    kernel.pivot_here()


def _limit(request: Spawn) -> None:
    for what, value in (
        (resource.RLIMIT_AS, request.address_space),
        (resource.RLIMIT_CPU, request.cpu_seconds),
        (resource.RLIMIT_FSIZE, request.file_bytes),
        (resource.RLIMIT_NOFILE, limits.HELPER_FDS),
        (resource.RLIMIT_NPROC, request.processes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        try:
            resource.setrlimit(what, (value, value))
        except ValueError as error:  # how Python puts it that the host's own hard limit is lower
            raise OSError(errno.EPERM, os.strerror(errno.EPERM)) from error


def _lock_securebits() -> None:
    kernel.lock_securebits()
    _require(kernel.securebits_locked(), errno.EPROTO)


def _drop_capabilities() -> None:
    kernel.drop_bounding_set()
    kernel.set_capabilities(())


def _die_with_parent() -> None:
    kernel.set_parent_death_signal(signal.SIGKILL)
    _require(kernel.parent_death_signal() == signal.SIGKILL, errno.EPROTO)


def _landlock(kind: HelperKind, abi: int) -> None:
    if kind is HelperKind.PROGRAM:
        program_root.restrict(abi)
        _require(program_root.restricted(), errno.EPROTO)
        return
    root = os.open(paths.ROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    devices = kernel.LANDLOCK_READ_FILE | kernel.LANDLOCK_WRITE_FILE | kernel.LANDLOCK_IOCTL_DEV
    try:
        kernel.landlock_deny_all(abi, [(root, devices)] if kind is HelperKind.PTY else [])
    finally:
        os.close(root)
    try:
        os.close(os.open(paths.ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError:
        return
    _require(False, errno.EPROTO)


def _require(holds: bool, number: int) -> None:
    """For the layers that /proc does not show: tried or read back here, at once, in every helper."""
    if not holds:
        raise OSError(number, os.strerror(number))
