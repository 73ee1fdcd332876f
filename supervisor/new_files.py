# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes new files in a folder that is held open: mode 0600, never over or through what has the name already."""

from __future__ import annotations

import errno
import os

from domward.protocol import limits
from domward.protocol.fds import Fd

_FILE_MODE = 0o600
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_new(folder: Fd, name: str, content: bytes) -> None:
    """Writes `content` into the new file `name` of `folder`. Raises OSError; what was written by then stays."""
    with _new(folder, name) as file:
        view = memoryview(content)
        while view:
            view = view[os.write(file.fileno(), view) :]


def copy_new(folder: Fd, name: str, source: Fd, size: int) -> None:
    """As `write_new`, with the first `size` bytes of `source`, whatever its position."""
    with _new(folder, name) as file:
        done = 0
        while done < size:
            sent = os.sendfile(file.fileno(), source.fileno(), done, min(size - done, limits.GIB))
            if sent == 0:
                raise OSError(errno.EIO, "the result ended early")
            done += sent


def _new(folder: Fd, name: str) -> Fd:
    return Fd(os.open(name, _FLAGS, _FILE_MODE, dir_fd=folder.fileno()), name)
