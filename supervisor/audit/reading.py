# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens an audit log for reading, and reads it line by line."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import OperationFailed, RefusedError, UsageError, printable
from domward.protocol.fds import Fd

from .tail import LONGEST_LINE

_BUFFER = limits.MIB


def open_log_file(path: Path) -> Fd:
    """The regular file at `path`, to be read. Raises RefusedError, UsageError, OperationFailed."""
    shown = printable(str(path))
    try:
        # O_NONBLOCK: opening a FIFO by mistake must not wait for a writer.
        fd = Fd(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "audit log")
        if not stat.S_ISREG(os.fstat(fd.fileno()).st_mode):
            fd.close()
            raise OperationFailed(f"{shown} is no regular file.", advice="Name an audit log.")
    except PermissionError:
        raise RefusedError(f"{shown} may not be read by this user.") from None
    except ValueError:
        raise UsageError("A log's path must not contain a NUL byte.") from None
    except OSError as error:
        raise OperationFailed(f"{shown} cannot be read: {error.strerror}.", advice="Check the path.") from error
    return fd


def lines_of(fd: Fd) -> Iterator[bytes]:
    """The lines of `fd` with their line feeds; one that is longer than any record comes in pieces."""
    with open(fd.fileno(), "rb", buffering=_BUFFER, closefd=False) as file:
        while line := file.readline(2 * LONGEST_LINE):
            yield line
