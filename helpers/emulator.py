# SPDX-License-Identifier: GPL-3.0-or-later
"""Confines a process that the supervisor started, and then executes a guest's emulator in its place.

Its one argument is the order, a JSON object of the supervisor's: `command`, the words to execute; `uid`, which is the
gid as well; `groups`, supplementary groups; `parent`, the supervisor's pid; `devices`, those that may be opened;
`files`, the most fds; `without`, layers that this host lacks and may lack. The fds of the guest are inherited.

An emulator parses what its guest does, for as long as that runs. It gets the layers of a helper, in the same order, but
for four: it lives in the host's pid and mount namespaces, where Landlock lets it read and execute /usr, open `devices`,
and nothing else (memfds that it inherited can be opened anew through /proc/self/fd, sealed as they are); executing it
makes it dumpable again, for nobody but root, since its uid is its own; and its seccomp filters are the supervisor's
list of refusals and its own (-sandbox of qemu(1)). Whatever fails is one line on standard error, and exit code 1.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from domward.protocol.layers import Layer
from domward.protocol.privileges import Capability

from . import kernel, paths

_NAMESPACES = {
    Layer.NETWORK: kernel.CLONE_NEWNET,
    Layer.IPC: kernel.CLONE_NEWIPC,
    Layer.UTS: kernel.CLONE_NEWUTS,
    Layer.CGROUP: kernel.CLONE_NEWCGROUP,
}
_PROGRAMS = kernel.LANDLOCK_EXECUTE | kernel.LANDLOCK_READ_FILE | kernel.LANDLOCK_READ_DIR
_DEVICES = kernel.LANDLOCK_READ_FILE | kernel.LANDLOCK_WRITE_FILE | kernel.LANDLOCK_IOCTL_DEV


def main(given: Sequence[str]) -> int:
    """Does what the order says; returns only where it cannot be done."""
    order: dict[str, Any] = json.loads(given[0])
    without = {Layer(name) for name in order["without"]}
    steps: tuple[tuple[Layer, Callable[[], None]], ...] = (
        (Layer.NETWORK, lambda: _leave_namespaces(without)),
        (Layer.RLIMITS, lambda: _limit(order["files"])),
        (Layer.GROUPS, lambda: os.setgroups(order["groups"])),
        (Layer.USER, lambda: _become(order["uid"])),
        (Layer.SECUREBITS, kernel.lock_securebits),
        (Layer.CAPABILITIES, _drop_capabilities),
        (Layer.NO_NEW_PRIVS, kernel.set_no_new_privs),
        (Layer.PARENT_DEATH, lambda: _die_with(order["parent"])),
        (Layer.LANDLOCK, lambda: _landlock(order["devices"])),
    )
    command = order["command"]
    try:
        for layer, step in steps:
            if layer not in without or layer is Layer.NETWORK:
                where = layer.value
                step()
        where = command[0]
        os.execve(command[0], command, {"LC_ALL": "C.UTF-8", "PATH": paths.COMMANDS})  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{where}: {os.strerror(error.errno or 0)}\n")
    return 1


def _leave_namespaces(without: set[Layer]) -> None:
    kernel.unshare(sum(flag for layer, flag in _NAMESPACES.items() if layer not in without))
    if Layer.UTS not in without:
        kernel.set_host_name(b"domward")


def _limit(files: int) -> None:
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_NOFILE, files),
    ):
        try:
            resource.setrlimit(what, (value, value))
        except ValueError as error:  # how Python puts it that the host's own hard limit is lower
            raise OSError(errno.EPERM, os.strerror(errno.EPERM)) from error


def _become(uid: int) -> None:
    """Takes the guest's ids, and a keyring of its own; what the next two steps take stays until they are done."""
    os.chdir(paths.ROOT)
    kernel.keep_capabilities(True)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kernel.leave_session_keyring()
    kernel.keep_capabilities(False)
    kernel.set_capabilities({Capability.SETPCAP})


def _drop_capabilities() -> None:
    kernel.drop_bounding_set()
    kernel.set_capabilities(())


def _die_with(parent: int) -> None:
    """The signal is not sent for a supervisor that died before this."""
    kernel.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def _landlock(devices: Sequence[str]) -> None:
    with ExitStack() as stack:
        allowed = []
        for names, rights in (
            ((paths.USR, *paths.USR_NAMES), _PROGRAMS),
            (paths.ETC_NAMES[:1], kernel.LANDLOCK_READ_FILE),
            ((*devices, paths.NULL, paths.RANDOM), _DEVICES),
        ):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    number = os.open(name, os.O_PATH | os.O_CLOEXEC)
                    stack.callback(os.close, number)
                    allowed.append((number, rights))
        kernel.landlock_deny_all(kernel.landlock_abi(), allowed)
    try:
        os.close(os.open(paths.ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError:
        return
    raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
