# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes files and trees through the fds of their folders, and tells what stays.

A name is only ever looked up in a folder that is held open, one component at a time, and no symbolic link is followed:
a link is removed itself, also one that somebody puts in the place of a folder while the walk is under way. So nothing
outside the folder is touched, whatever happens to names meanwhile. By cases, for each name:

================================  =============================================================================
not there, or gone meanwhile      done
a folder                          emptied, then removed; left where it is too deep, another file system, not
                                  readable, or where something new came into it
anything else, links included     removed; left where the kernel refuses
================================  =============================================================================
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from domward.protocol import limits
from domward.protocol.fds import Fd
from domward.protocol.records import frozen

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@frozen
class Left:
    """Something that stays: its path below the folder of the call, and why."""

    path: str
    reason: str


def remove_file(folder: Fd, name: str) -> bool:
    """Removes `name`, no folder, from `folder`. False where there is none. Raises OSError."""
    try:
        os.unlink(name, dir_fd=folder.fileno())
    except FileNotFoundError:
        return False
    return True


def remove_empty_folder(folder: Fd, name: str) -> bool:
    """Removes the empty folder `name` from `folder`. False where there is none. Raises OSError."""
    try:
        os.rmdir(name, dir_fd=folder.fileno())
    except FileNotFoundError:
        return False
    return True


def remove_tree(folder: Fd, name: str) -> tuple[Left, ...]:
    """Removes `name` from `folder` with all that is below it, up to limits.REMOVED_DEPTH levels. Returns what stays."""
    return tuple(_remove(folder, name, name, limits.REMOVED_DEPTH))


def _remove(folder: Fd, name: str, path: str, levels: int) -> Iterator[Left]:
    try:
        try:
            remove_file(folder, name)
        except IsADirectoryError:
            try:
                remove_empty_folder(folder, name)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                yield from _empty(folder, name, path, levels)
                remove_empty_folder(folder, name)
    except NotADirectoryError:
        yield Left(path, "It was replaced meanwhile.")
    except OSError as error:
        yield Left(path, f"{os.strerror(error.errno or 0)}.")


def _empty(folder: Fd, name: str, path: str, levels: int) -> Iterator[Left]:
    if levels == 0:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    try:
        number = os.open(name, _OPEN_FOLDER, dir_fd=folder.fileno())
    except FileNotFoundError:
        return
    with Fd(number, path) as inner:
        if os.fstat(inner.fileno()).st_dev != os.fstat(folder.fileno()).st_dev:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        for below in os.listdir(inner.fileno()):
            yield from _remove(inner, below, os.path.join(path, below), levels - 1)
