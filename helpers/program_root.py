# SPDX-License-Identifier: GPL-3.0-or-later
"""The root of a bootloader program: a read-only view of the host's programs and libraries, and nothing else of it.

::

    /usr, /bin ...     the host's, as it has them: folders, or links into /usr; without what is mounted below them
    /etc               ld.so.cache and alternatives
    /dev               null, zero, full, random, urandom, tty
    /tmp               a file system of the helper's own, bounded, gone with it; the only place that can be written
    /disk, /bootloader empty until the supervisor has mounted the guest's disk and, if need be, the program there

`prepare` makes it once, in the launcher; `enter` completes it in each helper. Nothing in it can be executed with more
rights (nosuid), nothing but /dev holds devices, and nothing in /tmp can be executed.
"""

from __future__ import annotations

import contextlib
import os
import stat

from domward.protocol import limits

from . import kernel, paths

#: Device nodes by name: (major, minor), Documentation/admin-guide/devices.txt.
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}

_SEEN = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV


def prepare(root: str) -> None:
    """Fills the folder `root`. Raises OSError."""
    _mount(root, kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, "mode=0555,size=64k,nr_inodes=64")
    for folder in (paths.USR, paths.ETC, paths.DEVICES, paths.TEMPORARY, paths.DISK_FOLDER):
        os.mkdir(root + folder, 0o755)
    for file in (paths.PROGRAM_DISK, paths.PROGRAM_FILE):
        _touch(root + file)
    _show(root, paths.USR)
    for name in (*paths.USR_NAMES, *paths.ETC_NAMES):
        with contextlib.suppress(FileNotFoundError):  # not every host has each
            _imitate(root, name)
    _make_devices(root + paths.DEVICES)
    _remount(root, _SEEN | kernel.MS_NOEXEC)


def _imitate(root: str, name: str) -> None:
    found = os.lstat(name).st_mode
    if stat.S_ISLNK(found):
        os.symlink(os.readlink(name), root + name)
        return
    if stat.S_ISDIR(found):
        os.mkdir(root + name, 0o755)
    else:
        _touch(root + name)
    _show(root, name)


def _show(root: str, name: str) -> None:
    """Makes the host's `name` seen at the same place below `root`, read-only."""
    kernel.mount(name.encode(), (root + name).encode(), b"", kernel.MS_BIND)
    _remount(root + name, _SEEN)


def _make_devices(folder: str) -> None:
    _mount(folder, kernel.MS_NOSUID | kernel.MS_NOEXEC, "mode=0755,size=4k,nr_inodes=16")
    for name, (major, minor) in _DEVICES.items():
        node = f"{folder}/{name}"
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(node, 0o666)  # noqa: S103 - whatever the umask is: these are open to all, as on every Linux
    _remount(folder, kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NOEXEC)


def enter(uid: int, gid: int, file_bytes: int) -> None:
    """Gives the root that is the current folder a /tmp of this helper's own, of `file_bytes` and a page for each file.

    Raises OSError.
    """
    size = file_bytes + limits.PROGRAM_FILES * 4 * limits.KIB
    kernel.mount(
        b"domward",
        os.fsencode("." + paths.TEMPORARY),
        b"tmpfs",
        kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC,
        f"mode=0700,uid={uid},gid={gid},size={size},nr_inodes={limits.PROGRAM_FILES}".encode(),
    )


def restrict(abi: int) -> None:
    """Puts Landlock on this process: reads and executes what the root shows, writes below /tmp and to devices.

    No sockets and no devices can be made anywhere. Raises OSError.
    """
    read = kernel.LANDLOCK_EXECUTE | kernel.LANDLOCK_READ_FILE | kernel.LANDLOCK_READ_DIR | kernel.LANDLOCK_IOCTL_DEV
    allowed = {
        paths.ROOT: read,
        paths.DEVICES: read | kernel.LANDLOCK_WRITE_FILE,
        paths.TEMPORARY: read | kernel.LANDLOCK_WRITE_FILE | kernel.LANDLOCK_CHANGE_FOLDER,
    }
    with contextlib.ExitStack() as opened:
        rules = []
        for folder, rights in allowed.items():
            number = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, number)
            rules.append((number, rights))
        kernel.landlock_deny_all(abi, rules)


def restricted() -> bool:
    """Tries what only Landlock forbids: making a socket in /tmp."""
    probe = f"{paths.TEMPORARY}/probe"
    try:
        os.mknod(probe, stat.S_IFSOCK | 0o600)
    except PermissionError:
        return True
    os.unlink(probe)
    return False


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444))


def _mount(folder: str, flags: int, options: str) -> None:
    kernel.mount(b"domward", folder.encode(), b"tmpfs", flags, options.encode())


def _remount(path: str, flags: int) -> None:
    kernel.mount(b"none", path.encode(), b"", kernel.MS_BIND | kernel.MS_REMOUNT | flags)
