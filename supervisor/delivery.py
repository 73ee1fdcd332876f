# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a result into a folder: `kernel`, `ramdisk` and `args`, each complete or not there at all.

All new files are written under temporary names first and renamed only when every one of them is complete, so that a
failure leaves what was there before. A `ramdisk` of an earlier result goes away where the new one has none.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import OperationFailed, RefusedError, printable
from domward.protocol.fds import Fd

from .bootloader import BootResult
from .sinks import SealedFile

KERNEL, RAMDISK, ARGS = "kernel", "ramdisk", "args"
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700


@dataclass(frozen=True, slots=True)
class Delivered:
    """Where the files are."""

    kernel: Path
    ramdisk: Path | None
    args: Path


def open_folder(folder: Path) -> Fd:
    """The folder, made with mode 0700 if it is missing; its parent must exist. RefusedError, OperationFailed."""
    name = printable(str(folder))
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, _FOLDER_MODE)
        return Fd(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "output folder")
    except PermissionError:
        raise RefusedError(f"The output folder {name} may not be written by this user.") from None
    except ValueError:
        raise OperationFailed("The output folder's path must not contain a NUL byte.") from None
    except OSError as error:
        raise OperationFailed(
            f"The output folder {name} cannot be used: {error.strerror}.", advice="Name a folder, or a new one."
        ) from error


def deliver(result: BootResult, folder: Fd, path: Path) -> Delivered:
    """Writes `result` into `folder`, whose name for the report is `path`. Raises OperationFailed."""
    suffix = secrets.token_hex(8)
    contents: dict[str, SealedFile | bytes] = {KERNEL: result.kernel, ARGS: result.args}
    if result.ramdisk is not None:
        contents[RAMDISK] = result.ramdisk
    made: list[str] = []
    try:
        for name, content in contents.items():
            temporary = f".domward-{name}-{suffix}"
            made.append(temporary)
            _write(folder, temporary, content)
        for name in contents:
            os.rename(f".domward-{name}-{suffix}", name, src_dir_fd=folder.fileno(), dst_dir_fd=folder.fileno())
        if result.ramdisk is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(RAMDISK, dir_fd=folder.fileno())
    except OSError as error:
        raise OperationFailed(
            f"The result could not be written to {printable(str(path))}: {error.strerror}.",
            advice="What was there before is still there.",
        ) from error
    finally:
        for temporary in made:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder.fileno())
    return Delivered(path / KERNEL, path / RAMDISK if result.ramdisk else None, path / ARGS)


def _write(folder: Fd, name: str, content: SealedFile | bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with Fd(os.open(name, flags, _FILE_MODE, dir_fd=folder.fileno()), name) as file:
        if isinstance(content, bytes):
            view = memoryview(content)
            while view:
                view = view[os.write(file.fileno(), view) :]
        else:
            _copy(content, file)


def _copy(source: SealedFile, target: Fd) -> None:
    done = 0
    while done < source.size:
        sent = os.sendfile(target.fileno(), source.fd.fileno(), done, min(source.size - done, limits.GIB))
        if sent == 0:
            raise OSError(5, "the result ended early")
        done += sent
