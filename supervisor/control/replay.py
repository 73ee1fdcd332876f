# SPDX-License-Identifier: GPL-3.0-or-later
"""What a console showed last, for who attaches later; where systemd keeps fds for the daemon, also over its restart.

The last limits.CONSOLE_REPLAY_BYTES are in memory and, where they are to be kept, in a memfd of which systemd has a
copy: _HEADER_BYTES with what the operation is, as JSON and then NULs, and after that the bytes. It is written as the
console shows, so a daemon that is killed loses nothing of it.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from domward.protocol import limits
from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd

_ESC = 0x1B
_HEADER_BYTES = 8 * limits.KIB


class Replay:
    """States: open -> closed. `kept` has it in a memfd as well, which `fd` is. Raises OperationFailed."""

    def __init__(self, *, kept: bool) -> None:
        self.forgotten = 0  # bytes that were let go
        self.shown = bytearray()
        self.fd: Fd | None = None
        if kept:
            try:
                self.fd = Fd(os.memfd_create("domward-console", os.MFD_CLOEXEC), "kept console")
                os.ftruncate(self.fd.fileno(), _HEADER_BYTES)
            except OSError as error:
                raise OperationFailed(f"A console could not be kept: {error.strerror}.") from error

    def add(self, data: bytes) -> None:
        """Takes what the console shows."""
        self.shown += data
        surplus = len(self.shown) - limits.CONSOLE_REPLAY_BYTES
        if surplus > 0:
            # Not from the middle of a sequence: what is left of it would be shown as text.
            cut = self.shown.find(_ESC, surplus, surplus + limits.KIB)
            surplus = cut if cut > 0 else surplus
            del self.shown[:surplus]
            self.forgotten += surplus
        if self.fd is not None:
            with contextlib.suppress(OSError):  # no memory: what is kept is then older than what is shown
                os.pwrite(self.fd.fileno(), self.shown, _HEADER_BYTES)
                os.ftruncate(self.fd.fileno(), _HEADER_BYTES + len(self.shown))

    def describe(self, values: dict[str, Any]) -> None:
        """Notes what operation this is the console of."""
        header = json.dumps(values).encode("ascii")
        if self.fd is not None and len(header) <= _HEADER_BYTES:
            with contextlib.suppress(OSError):
                os.pwrite(self.fd.fileno(), header.ljust(_HEADER_BYTES, b"\0"), 0)

    def close(self) -> None:
        """Closes the memfd; systemd's copy stays until it is told to let go."""
        if self.fd is not None:
            self.fd.close()


def restored(fd: Fd) -> tuple[dict[str, Any], bytes] | None:
    """What a daemon before this one noted and showed; None where that cannot be read."""
    try:
        header = os.pread(fd.fileno(), _HEADER_BYTES, 0).rstrip(b"\0")
        content = os.pread(fd.fileno(), limits.CONSOLE_REPLAY_BYTES, _HEADER_BYTES)
        values = json.loads(header)
    except (OSError, ValueError):
        return None
    return (values, content) if isinstance(values, dict) else None
