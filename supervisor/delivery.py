# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a result into a folder: `kernel`, `ramdisk` and `args`, each complete or not there at all.

All new files are written in a temporary folder within it first and renamed only when every one of them is complete,
so that a failure leaves what was there before. A `ramdisk` of an earlier result goes away where the new one has none.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from domward.protocol.errors import OperationFailed, RefusedError, UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.records import frozen

from . import interrupts
from .bootloader import BootResult
from .files import remove_empty_folder, remove_file, remove_tree
from .new_files import copy_new, write_new
from .sinks import SealedFile

KERNEL, RAMDISK, ARGS = "kernel", "ramdisk", "args"
_FOLDER_MODE = 0o700

_LOG = logging.getLogger("domward.delivery")


@frozen
class Delivered:
    """Where the files are."""

    kernel: Path
    ramdisk: Path | None
    args: Path


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[Fd]:
    """The folder, made with mode 0700 if it is missing, and then taken away again where the block fails.

    Its parent must exist. Raises RefusedError, OperationFailed.
    """
    with ExitStack() as stack:
        parent = _make(folder)
        try:
            if parent is not None:
                stack.enter_context(parent)
            with _open(folder) as fd:
                yield fd
        except BaseException:
            if parent is not None:
                with interrupts.held_off(), contextlib.suppress(OSError):  # somebody may have put something there
                    remove_empty_folder(parent, folder.name)
            raise


def _make(folder: Path) -> Fd | None:
    """Makes `folder` and returns its parent; None where it is there already."""
    with _explained(folder):
        try:
            os.mkdir(folder, _FOLDER_MODE)
        except FileExistsError:
            return None
        try:
            return Fd(os.open(folder.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), "parent of the output folder")
        except BaseException:
            os.rmdir(folder)
            raise


def _open(folder: Path) -> Fd:
    with _explained(folder):
        fd = Fd(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "output folder")
        # Tried now, because work that cannot be kept need not be done; delivery finds out for itself all the same.
        if os.fstatvfs(fd.fileno()).f_flag & os.ST_RDONLY:
            fd.close()
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return fd


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    name = printable(str(folder))
    try:
        yield
    except PermissionError:
        raise RefusedError(f"The output folder {name} may not be written by this user.") from None
    except ValueError:
        raise UsageError("The output folder's path must not contain a NUL byte.") from None
    except OSError as error:
        raise OperationFailed(
            f"The output folder {name} cannot be used: {error.strerror}.", advice="Name a folder, or a new one."
        ) from error


def deliver(result: BootResult, folder: Fd, path: Path) -> Delivered:
    """Writes `result` into `folder`, whose name for the report is `path`. Raises OperationFailed."""
    contents: dict[str, SealedFile | bytes] = {KERNEL: result.kernel, ARGS: result.args}
    if result.ramdisk is not None:
        contents[RAMDISK] = result.ramdisk
    temporary = f".domward-{os.urandom(8).hex()}"
    try:
        _require_replaceable(folder)
        os.mkdir(temporary, _FOLDER_MODE, dir_fd=folder.fileno())
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with Fd(os.open(temporary, flags, dir_fd=folder.fileno()), "new files") as new:
            for name, content in contents.items():
                if isinstance(content, bytes):
                    write_new(new, name, content)
                else:
                    copy_new(new, name, content.fd, content.size)
            with interrupts.held_off():  # new and old files never stay side by side because of a signal
                for name in contents:
                    os.rename(name, name, src_dir_fd=new.fileno(), dst_dir_fd=folder.fileno())
                if result.ramdisk is None:
                    remove_file(folder, RAMDISK)
    except OSError as error:
        raise OperationFailed(
            f"The result could not be written to {printable(str(path))}: {error.strerror}.",
            advice="What was there before is still there.",
        ) from error
    finally:
        with interrupts.held_off():
            for left in remove_tree(folder, temporary):
                _LOG.warning("%s/%s stays: %s", printable(str(path)), printable(left.path), left.reason)
    return Delivered(path / KERNEL, path / RAMDISK if result.ramdisk else None, path / ARGS)


def _require_replaceable(folder: Fd) -> None:
    """Renaming onto a folder fails; found before the first file is replaced rather than between two of them."""
    for name in (KERNEL, RAMDISK, ARGS):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder.fileno(), follow_symlinks=False).st_mode):
                raise OSError(errno.EISDIR, f"{name} is a folder")
