# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a guest's disk, and perhaps a program, into the root of a helper that was verified: mounts made from open fds.

A helper that runs a program cannot take the disk as an fd: the program opens a path. It gets one node that its uid can
read, though the image is root's alone, and nothing of the host's permissions is changed:

==================================  =================================================================================
regular file                        a mount of the file alone, read-only, seen through a user namespace that maps its
                                    owner to the helper's uid (Linux 5.12; ext4, xfs, btrfs, tmpfs and others)
the same where that cannot be had   a read-only loop device that clears itself, in a node as below: overlayfs, network
                                    file systems, a file without a name or without read permission for its owner
block device                        a node with its number in a file system of its own; group the helper's, mode 0440,
                                    so that the helper cannot change the mode either
==================================  =================================================================================

All of these are made without a place, and belong to nobody but the fds that hold them. A thread that lives for this
alone then enters the helper's mount namespace, gives them their places there, and ends. So the host's own mounts never
change, and what was made is gone with the helper, however that ends. It takes CAP_SYS_ADMIN, CAP_SYS_CHROOT,
CAP_MKNOD, CAP_CHOWN, CAP_SETUID and CAP_SETGID.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import struct
from contextlib import AsyncExitStack, ExitStack
from functools import partial

from domward.protocol.errors import ConfinementFailed, OperationFailed
from domward.protocol.fds import Fd
from domward.protocol.layers import Layer
from domward.protocol.messages import HoldUserNamespace

from . import kernel
from .children import Child
from .endings import to_its_end
from .helper import Helper, HelperHost
from .opening import in_thread
from .paths import LOOP_CONTROL, PROC, PROGRAM_DISK, PROGRAM_DISK_FOLDER, PROGRAM_FILE

_HARMLESS = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID
_NODE = os.path.basename(PROGRAM_DISK)
_NODE_MODE = 0o440
_FOR_ALL = stat.S_IROTH | stat.S_IXOTH
_Owner = tuple[int, int]  # uid, gid
_NAMELESS = " (deleted)"  # proc_pid_fd(5)

# <linux/loop.h>
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_LOOP_CONFIG = struct.Struct("=II52xI240x")  # struct loop_config: fd, block size; in its loop_info64, the flags
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_LOOP_MAJOR = 7
_LOOP_TRIES = 16  # another program may take the free one that the kernel has just named


async def attach(host: HelperHost, helper: Helper, disk: Fd, program: Fd | None, scope: AsyncExitStack) -> None:
    """Gives `helper` the disk, and `program` where it cannot see it by itself. Both stay the caller's.

    What has to last as long as the helper goes into `scope`. Raises OperationFailed, AuditUnavailable.
    """
    assert helper.verified is not None
    await host.trail.fds_passed(helper.name, "attach", [disk] if program is None else [disk, program])
    uid = 0 if Layer.USER in host.without else helper.verified.uid
    with ExitStack() as own:
        attachment = _Attachment(_copy(helper.child.pidfd, own), _copy(disk, own), uid)
        if owner := await in_thread(lambda: _owner_of_disk(disk), lambda _owner: None):
            attachment.disk_ids = await _user_namespace(host, owner, uid, own)
        if program is not None:
            attachment.program = _copy(program, own)
            if owner := await in_thread(lambda: _owner_of_program(program), lambda _owner: None):
                attachment.program_ids = await _user_namespace(host, owner, uid, own)
        attachment.owned = own.pop_all()
    try:
        held = await in_thread(attachment.make, _close)
    except OperationFailed:
        attachment.owned.close()  # there was no thread to do it
        raise
    except ProcessLookupError:
        return  # the helper is dead: who gives it its order is told how
    except OSError as error:
        raise OperationFailed(
            f"The disk could not be put into the bootloader's root: {error.strerror}.", helper=helper.name
        ) from error
    if held is not None:
        scope.callback(held.close)


def _copy(fd: Fd, stack: ExitStack) -> Fd:
    return stack.enter_context(Fd(fcntl.fcntl(fd.fileno(), fcntl.F_DUPFD_CLOEXEC, 0), fd.name))


def _close(held: Fd | None) -> None:
    if held is not None:
        held.close()


def _owner_of_disk(disk: Fd) -> _Owner | None:
    """The owner to be mapped; None where that is of no use. May wait for a file server."""
    found = os.fstat(disk.fileno())
    if not stat.S_ISREG(found.st_mode) or not found.st_mode & stat.S_IRUSR:
        return None
    # A file that lost its name cannot be given a new one. A name that only looks so costs the loop device, no more.
    nameless = os.readlink(f"{PROC}/self/fd/{disk.fileno()}").endswith(_NAMELESS)
    return None if nameless else (found.st_uid, found.st_gid)


def _owner_of_program(program: Fd) -> _Owner | None:
    """The owner to be mapped; None where everybody may read and execute it. May wait for a file server."""
    found = os.fstat(program.fileno())
    return None if found.st_mode & _FOR_ALL == _FOR_ALL else (found.st_uid, found.st_gid)


class _Attachment:
    """One thread's work and the fds that are its own."""

    def __init__(self, process: Fd, disk: Fd, uid: int) -> None:
        self.owned = ExitStack()
        self.disk_ids: Fd | None = None
        self.program: Fd | None = None
        self.program_ids: Fd | None = None
        self._process = process
        self._disk = disk
        self._uid = uid

    def make(self) -> Fd | None:
        """Makes the mounts and places them; returns a loop device that has to stay open. Raises OSError."""
        with self.owned, ExitStack() as loops:
            places: list[tuple[Fd, str]] = []
            if self.program is not None:
                places.append((self._of_program(self.program), PROGRAM_FILE))
            loop = None
            try:
                places.append((self._of_disk(), PROGRAM_DISK))
            except OSError:
                mount, loop = self._of_node()
                if loop is not None:
                    loops.enter_context(loop)
                places.append((mount, PROGRAM_DISK_FOLDER))
            kernel.enter_mounts_of(self._process)
            for mount, place in places:
                kernel.place_mount(mount, place.encode())
            loops.pop_all()
            return loop

    def _of_program(self, program: Fd) -> Fd:
        mount = self.owned.enter_context(kernel.open_tree(program))
        attributes = _HARMLESS | kernel.MOUNT_ATTR_NODEV
        if self.program_ids is not None:
            with contextlib.suppress(OSError):  # then it is seen as it is, and executing it says what is wrong
                kernel.set_mount(mount, attributes, self.program_ids)
                return mount
        kernel.set_mount(mount, attributes)
        return mount

    def _of_disk(self) -> Fd:
        if self.disk_ids is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        mount = self.owned.enter_context(kernel.open_tree(self._disk))
        attributes = _HARMLESS | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
        kernel.set_mount(mount, attributes, self.disk_ids)
        return mount

    def _of_node(self) -> tuple[Fd, Fd | None]:
        """A file system that holds the disk's node, and the loop device behind it, if the disk is no device itself."""
        mount = self.owned.enter_context(kernel.new_tmpfs({"mode": "0555", "size": "4k", "nr_inodes": "4"}))
        found = os.fstat(self._disk.fileno())
        loop = None
        if stat.S_ISBLK(found.st_mode):
            _make_node(mount, found.st_rdev)
        else:
            loop = _loop_device(self._disk, mount)
        try:
            os.chown(_NODE, 0, self._uid, dir_fd=mount.fileno(), follow_symlinks=False)
            os.chmod(_NODE, _NODE_MODE, dir_fd=mount.fileno())
            kernel.set_mount(mount, _HARMLESS | kernel.MOUNT_ATTR_NOEXEC)
        except BaseException:
            _close(loop)
            raise
        return mount, loop


def _make_node(folder: Fd, device: int) -> None:
    os.mknod(_NODE, stat.S_IFBLK | stat.S_IRUSR, device, dir_fd=folder.fileno())


def _loop_device(disk: Fd, folder: Fd) -> Fd:
    """A read-only loop device on `disk` that clears itself with its last fd, and its node in `folder`."""
    with Fd(os.open(LOOP_CONTROL, os.O_RDWR | os.O_CLOEXEC), "loop control") as control:
        for _ in range(_LOOP_TRIES):
            number = fcntl.ioctl(control.fileno(), _LOOP_CTL_GET_FREE)
            _make_node(folder, os.makedev(_LOOP_MAJOR, number))
            flags = os.O_RDONLY | os.O_CLOEXEC
            loop = Fd(os.open(_NODE, flags, dir_fd=folder.fileno()), f"loop device {number}")
            try:
                config = _LOOP_CONFIG.pack(disk.fileno(), 0, _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR)
                fcntl.ioctl(loop.fileno(), _LOOP_CONFIGURE, config)
            except OSError as error:
                loop.close()
                os.unlink(_NODE, dir_fd=folder.fileno())
                if error.errno != errno.EBUSY:
                    raise
            else:
                return loop
    raise OSError(errno.EBUSY, "no loop device is free")


# --- user namespaces --------------------------------------------------------------------------------------------


async def _user_namespace(host: HelperHost, owner: _Owner, uid: int, stack: ExitStack) -> Fd | None:
    """A user namespace that maps `owner` to `uid`, which is also the helper's gid.

    None where the host allows no user namespaces.
    """
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, Fd(far.detach(), "end of a user namespace's holder") as end:
        try:
            process = await host.launcher.spawn(partial(HoldUserNamespace), [end])
        except ConfinementFailed:
            return None
        holder = Child(
            process.pid,
            process.pidfd,
            "holder of a user namespace",
            host.events,
            exit_info=host.config.exit_info_from_pidfd,
        )
        try:
            return stack.enter_context(_mapped(holder, owner, uid))
        except OSError:
            return None
        finally:
            near.close()
            await to_its_end(_end(holder))


async def _end(holder: Child) -> None:
    await holder.kill()


def _mapped(holder: Child, owner: _Owner, uid: int) -> Fd:
    folder = f"{PROC}/{holder.pid}"
    for name, inside in zip(("uid_map", "gid_map"), owner, strict=True):
        with Fd(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CLOEXEC), name) as file:
            os.write(file.fileno(), f"{inside} {uid} 1".encode())
    namespace = Fd(os.open(f"{folder}/ns/user", os.O_RDONLY | os.O_CLOEXEC), "user namespace")
    look = select.poll()
    look.register(holder.pidfd.fileno(), select.POLLIN)
    if look.poll(0):  # it ended meanwhile, so the number may be somebody else's
        namespace.close()
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
    return namespace
