# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher: a fresh interpreter that imports what helpers need once, and forks a confined helper per request.

Run by `start_launcher` with its channel as fd 3; it is started before the supervisor opens any hypervisor handle and
closes every other fd first. States: starting -> ready -> gone. It answers each `Spawn` with
`Spawned` or `SpawnFailed`, in order, and ends on end of file. A helper is forked with CLONE_PARENT: it is the
supervisor's child. Only who holds a user namespace is the launcher's own, and the kernel reaps it.
"""

from __future__ import annotations

import errno
import gc
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial

from domward.protocol import limits, seccomp
from domward.protocol.channel import Channel, Received
from domward.protocol.errors import DomwardError
from domward.protocol.fds import Fd, close_all
from domward.protocol.layers import Layer
from domward.protocol.messages import (
    Confined,
    Failed,
    HelperKind,
    HoldUserNamespace,
    LauncherReady,
    Spawn,
    Spawned,
    SpawnFailed,
    StepFailed,
)
from domward.protocol.privileges import LAUNCHER_KEEPS, privileged_filter
from domward.protocol.typed import NoReturn

from . import bootloader, datacopier, kernel, program, pty
from .confinement import Host, StepError, confine, missing_namespaces, namespaces, prepare_roots
from .extensions import extension
from .policies import policy_text

CHANNEL_FD = 3

setproctitle = extension("setproctitle", "_setproctitle")

# Exit codes of a helper; what it could say it has said on its channel before.
EXIT_DONE, EXIT_FAILED, EXIT_BROKEN = 0, 1, 70

_RUN: dict[HelperKind, Callable[[Channel], int]] = {
    HelperKind.PTY: pty.run,
    HelperKind.DATACOPIER: datacopier.run,
    HelperKind.BOOTLOADER: bootloader.run,
    HelperKind.PROGRAM: program.run,
}

# Address space, never touched, that a helper gives up to say that it has run out: some of the interpreter's arenas.
_RESERVE_BYTES = 4 * limits.MIB


def main() -> int:
    """The launcher's life; returns its exit code."""
    setproctitle.setproctitle("domward: launcher")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # For the helpers, which inherit it: no default action ends the first process of a pid namespace.
    signal.signal(signal.SIGTERM, _end_at_once)
    os.umask(0o022)  # not that of whoever started it: a helper enters the folders of its root as another user
    channel = _channel_of(CHANNEL_FD, "launcher's channel", max_fds=2)
    try:
        kernel.close_from(CHANNEL_FD + 1)
        host = _prepare()
    except StepError as error:
        channel.send(StepFailed(step=error.step, errno=error.errno))
        return EXIT_FAILED
    except OSError as error:
        channel.send(StepFailed(step="launcher-start", errno=error.errno or 0))
        return EXIT_FAILED
    channel.send(LauncherReady(landlock_abi=host.landlock_abi, missing=host.missing))
    while True:
        received = channel.receive((Spawn, HoldUserNamespace))
        if received is None:
            return EXIT_DONE
        if isinstance(received.message, Spawn):
            _spawn(channel, received, host)
        else:
            _hold_user_namespace(channel, received)


def _channel_of(number: int, name: str, max_fds: int) -> Channel:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=number)
    end.set_inheritable(False)
    return Channel(end, name, max_fds=max_fds)


def _prepare() -> Host:
    """Imports are done; finds out what the kernel has, gives up the host's files and most privilege, freezes."""
    kernel.set_parent_death_signal(signal.SIGKILL)
    kernel.last_capability()
    landlock_abi = kernel.landlock_abi()
    missing = [*missing_namespaces()]
    if Layer.MOUNT in missing:
        raise StepError(Layer.MOUNT.value, errno.ENOSYS)  # without it there are no roots, for any layer
    if landlock_abi == 0:
        missing.append(Layer.LANDLOCK)
    if not kernel.seccomp_available():
        missing.append(Layer.SECCOMP)
    filters = {
        kind: seccomp.compile_filter(seccomp.parse(policy_text(kind), kind.value), kernel.MACHINE)
        for kind in HelperKind
    }
    refusals = privileged_filter(kernel.MACHINE) if Layer.SECCOMP not in missing else None
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prepare_roots()
    _give_up_privileges(refusals)
    # All that is there now goes out of the collector's sight, so that helpers do not copy it by looking at it.
    gc.freeze()
    gc.enable()
    return Host(landlock_abi, tuple(missing), filters)


def _give_up_privileges(refusals: bytes | None) -> None:
    """All but what confining a child takes; the filter `refusals` is None on a kernel that has no seccomp."""
    try:
        kernel.drop_bounding_set(but=LAUNCHER_KEEPS)
        kernel.set_capabilities(LAUNCHER_KEEPS)
        kernel.set_no_new_privs()
    except OSError as error:
        raise StepError("launcher-capabilities", error.errno or 0) from error
    if refusals is None:
        return
    try:
        kernel.load_seccomp_filter(refusals)
    except OSError as error:
        raise StepError("launcher-seccomp", error.errno or 0) from error
    if kernel.refused_call_passes():
        raise StepError("launcher-seccomp", errno.EPROTO)


def _spawn(channel: Channel, received: Received, host: Host) -> None:
    request = received.message
    assert isinstance(request, Spawn)
    flags = namespaces(frozenset(request.without))
    # Made here and not in the helper, for which each page that is written to is one to be copied first.
    end = _channel_of(received.fds[0].detach(), f"{request.kind.value}'s channel", max_fds=limits.MESSAGE_FDS)
    clone: Callable[[int], tuple[int, int]] = kernel.clone_sibling
    if request.grouped:
        clone = partial(kernel.clone_sibling, group=received.fds[1].fileno())
    _make(channel, request.request, end, clone, flags, lambda: _helper(request, end, host), received.fds[1:])


def _hold_user_namespace(channel: Channel, received: Received) -> None:
    """Its ids are the supervisor's to map, who needs it to mount a guest's disk under a helper's uid."""
    request = received.message
    assert isinstance(request, HoldUserNamespace)
    end = received.fds[0]
    _make(channel, request.request, end, kernel.clone_child, kernel.CLONE_NEWUSER, lambda: _wait_for_end(end))


def _make(
    channel: Channel,
    request: int,
    end: Channel | Fd,
    clone: Callable[[int], tuple[int, int]],
    flags: int,
    live: Callable[[], NoReturn],
    rest: Sequence[Fd] = (),
) -> None:
    """Makes a process that does `live` and owns `end`, and answers the request of that number; `rest` is closed."""
    try:
        pid, pidfd = clone(flags)
    except OSError as error:
        close_all(rest)
        end.close()
        channel.send(SpawnFailed(request=request, step="clone", errno=error.errno or 0))
        return
    close_all(rest)
    if pid == 0:
        channel.close()
        live()
    end.close()
    try:
        channel.send(Spawned(request=request, pid=pid), [pidfd])
    finally:
        os.close(pidfd)


def _wait_for_end(end: Fd) -> NoReturn:
    try:
        kernel.set_parent_death_signal(signal.SIGKILL)
        os.read(end.fileno(), 1)  # nobody ever writes: the end of file is the end
    finally:
        os._exit(EXIT_DONE)


def _helper(request: Spawn, channel: Channel, host: Host) -> NoReturn:
    """The helper's whole life: confinement, first message, work, end. Never returns into the launcher's loop."""
    code = EXIT_BROKEN
    try:
        os.setsid()
        try:
            layers = confine(request, host, lambda: _set_title(request))
        except StepError as error:
            channel.send(StepFailed(step=error.step, errno=error.errno))
            code = EXIT_FAILED
        except Exception as error:  # noqa: BLE001 - a defect of ours: named to the supervisor, which refuses the helper
            channel.send(StepFailed(step=f"defect-{type(error).__name__}"[:64], errno=errno.EPROTO))
        else:
            channel.send(Confined(layers=layers))
            code = _work(request.kind, channel)
    finally:
        # Whatever was raised: a helper has no stderr, and must not fall back into the launcher's loop.
        os._exit(code)


def _work(kind: HelperKind, channel: Channel) -> int:
    reserve = mmap.mmap(-1, _RESERVE_BYTES, mmap.MAP_PRIVATE)  # address space only: nothing touches it
    try:
        return _RUN[kind](channel)
    except MemoryError:
        reserve.close()
        channel.send(Failed(what="The helper ran out of memory.", errno=errno.ENOMEM))
    except OSError as error:
        channel.send(Failed(what=f"A system call failed: {error.strerror}.", errno=error.errno or 0))
    except DomwardError as error:
        channel.send(Failed(what=error.sentence[: limits.TEXT_BYTES], errno=0))
    return EXIT_FAILED


def _set_title(request: Spawn) -> None:
    setproctitle.setproctitle(f"domward: {request.kind.value} {request.operation}")


def _end_at_once(_number: int, _frame: object) -> NoReturn:
    os._exit(128 + signal.SIGTERM)
