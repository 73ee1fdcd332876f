# SPDX-License-Identifier: GPL-3.0-or-later
"""Files for what consoles showed: one for each run, in a folder that only its owner can write; the newest are kept.

No symbolic link is followed below the folder's parent. A name holds the time and the operation, so none is used twice
and runs at the same time do not meet; `open_log` removes the oldest beyond the number to keep.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import OperationFailed, RefusedError, UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.records import frozen

from .files import remove_file

_NAME = re.compile(r"console-\d{8}T\d{6}\.\d{6}Z-[a-z0-9-]{1,64}\.log", re.ASCII)
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_CHUNK = 64 * limits.KIB


@frozen
class ConsoleLog:
    """A log that was begun: `fd` appends to it and reads it."""

    fd: Fd
    path: Path

    def close(self) -> None:
        """Closes the fd; the file stays."""
        self.fd.close()


def open_log(directory: Path, operation: str, kept: int = limits.LOGS_KEPT) -> ConsoleLog:
    """A new, empty log for `operation`, mode 0600; the oldest logs beyond `kept` go away.

    `directory` is made with mode 0700 if it is missing; its parent must exist. Raises RefusedError where it belongs to
    another user or others can write to it, OperationFailed where it cannot be used.
    """
    name = f"console-{_now()}-{operation}.log"
    shown = printable(str(directory))
    try:
        with _open_directory(directory) as folder:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            number = os.open(name, flags, _FILE_MODE, dir_fd=folder.fileno())
            log = ConsoleLog(Fd(number, "console log"), directory / name)
            try:
                _remove_oldest(folder, kept)
            except BaseException:
                log.close()
                raise
            return log
    except OSError as error:
        raise OperationFailed(
            f"The log directory {shown} cannot be used: {error.strerror}.",
            advice="Name a folder of root's that is no symbolic link, or a new one.",
        ) from error


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{nanoseconds // 1000:06d}Z"


def _open_directory(directory: Path) -> Fd:
    try:
        os.mkdir(directory, _FOLDER_MODE)
    except FileExistsError:
        pass
    except ValueError:
        raise UsageError("The log directory's path must not contain a NUL byte.") from None
    folder = Fd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC), "log directory")
    found = os.fstat(folder.fileno())
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        folder.close()
        raise RefusedError(
            f"The log directory {printable(str(directory))} can be written by others than the user of this process.",
            advice="Give it to that user, with mode 0755 or less.",
        )
    return folder


def _remove_oldest(folder: Fd, kept: int) -> None:
    """Keeps the newest logs, by their names. One that somebody else has just removed is no matter."""
    logs = sorted(name for name in os.listdir(folder.fileno()) if _NAME.fullmatch(name))
    for name in logs[:-kept]:
        remove_file(folder, name)


def find_log(directory: Path, operation: str) -> Fd:
    """The newest log of `operation` in `directory`, opened for reading only; a guest has one for each start.

    Raises OperationFailed where there is none.
    """
    try:
        with _open_directory(directory) as folder:
            names = [name for name in os.listdir(folder.fileno()) if name.endswith(f"Z-{operation}.log")]
            for name in sorted(filter(_NAME.fullmatch, names), reverse=True):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                return Fd(os.open(name, flags, dir_fd=folder.fileno()), "console log")
    except OSError as error:
        raise OperationFailed(
            f"The log directory {printable(str(directory))} cannot be used: {error.strerror}."
        ) from error
    raise OperationFailed(
        f"There is no console log of {printable(operation)}.", advice="Only operations with a console have one."
    )


def read_log(path: Path) -> Iterator[bytes]:
    """The content of the log at `path`, a regular file, piece by piece. Raises RefusedError, OperationFailed."""
    shown = printable(str(path))
    try:
        # O_NONBLOCK: opening a FIFO by mistake must not wait for a writer.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with Fd(number, "log") as log:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise OperationFailed(f"{shown} is no regular file.", advice="Name a log.")
            yield from chunks_of(log)
    except PermissionError:
        raise RefusedError(f"{shown} may not be read by this user.") from None
    except ValueError:
        raise UsageError("A log's path must not contain a NUL byte.") from None
    except OSError as error:
        raise OperationFailed(f"{shown} cannot be read: {error.strerror}.", advice="Check the path.") from error


def chunks_of(file: Fd) -> Iterator[bytes]:
    """The content of `file` from its beginning, piece by piece, wherever its open file stands. Raises OSError."""
    at = 0
    while chunk := os.pread(file.fileno(), _CHUNK, at):
        yield chunk
        at += len(chunk)
