# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may write an audit log: any number of processes, one after another; and of daemons, one.

Both locks are on `FILE.lock` beside the log, which stays when the log is rotated and only the log's owner can open.
Each writer takes flock(2) for as long as it appends. A daemon besides holds an open-file-description lock on the first
byte for as long as it lives; a second one finds it taken. The kernel releases both with the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator

from domward.protocol import limits
from domward.protocol.errors import AuditUnavailable, printable
from domward.protocol.fds import Fd

_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux
_LONGEST_PAUSE = 0.02  # seconds


class LogLock:
    """The lock of one log. `folder` holds it, `name` is the log's. `alone` is what a daemon asks for."""

    def __init__(self, folder: Fd, name: str, *, alone: bool) -> None:
        """Raises AuditUnavailable where another daemon has it, OSError."""
        self._folder = folder
        self._name = f"{name}.lock"
        self._alone = alone
        self._file = self._open()

    def _open(self) -> Fd:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        file = Fd(os.open(self._name, flags, 0o600, dir_fd=self._folder.fileno()), "audit lock")
        try:
            if self._alone:
                fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
        except OSError as error:
            file.close()
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise AuditUnavailable(
                f"Another daemon writes the audit log {printable(self._name.removesuffix('.lock'))}.",
                advice="Stop that one, or give this one a log of its own.",
            ) from None
        return file

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other writers out meanwhile. Raises AuditUnavailable where one of them does not let go, OSError."""
        self._take()
        try:
            yield
        finally:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_UN)

    def _take(self) -> None:
        end = time.monotonic() + limits.AUDIT_LOCK_SECONDS
        pause = 0.0005
        while True:
            try:
                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise AuditUnavailable(
                        "Another process keeps the audit log locked.", advice=f"See who holds {self._name} open."
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if os.fstat(self._file.fileno()).st_nlink:
                return
            self._file.close()  # somebody removed it: others lock a new one by now
            self._file = self._open()

    def close(self) -> None:
        """Lets go of it. Idempotent."""
        self._file.close()
