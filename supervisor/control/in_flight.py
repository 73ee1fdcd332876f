# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of operations under way, so that a daemon that is killed does not forget them: its successor calls them lost.

One small file an operation, below the state directory, written before the operation begins and removed after its end.
They are on a file system that does not outlive the host, as the operations do not either. A file that was cut short by
the death still names its operation.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from domward.protocol.errors import OperationFailed, printable
from domward.protocol.fds import Fd
from domward.protocol.records import frozen

from ..files import remove_file
from .tracked import Tracked

_NAME = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_LONGEST = 4096  # bytes: one record


@frozen
class Record:
    """An operation that was under way; `uid` and `pid` are -1 where the file was cut short."""

    operation: str
    kind: str
    uid: int
    pid: int
    label: str
    submitted: int


class InFlight:
    """The folder of records. States: open -> closed. Raises OperationFailed where it cannot be made."""

    def __init__(self, state_directory: Path) -> None:
        path = state_directory / "operations"
        try:
            path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._folder = Fd(os.open(path, flags), "records of operations")
        except OSError as error:
            raise OperationFailed(f"{printable(str(path))} cannot be used: {error.strerror}.") from error

    def add(self, tracked: Tracked) -> None:
        """Notes that `tracked` begins. Raises OperationFailed."""
        record = {
            "kind": tracked.kind,
            "uid": tracked.uid,
            "pid": tracked.pid,
            "label": tracked.label,
            "submitted": tracked.submitted,
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with Fd(os.open(tracked.id, flags, _FILE_MODE, dir_fd=self._folder.fileno()), "record") as file:
                os.write(file.fileno(), json.dumps(record).encode())
        except OSError as error:
            raise OperationFailed(f"The operation could not be recorded: {error.strerror}.") from error

    def remove(self, operation: str) -> None:
        """Forgets an operation that has ended. Idempotent."""
        with contextlib.suppress(OSError):  # a record too many says that an operation was lost, and hides nothing
            remove_file(self._folder, operation)

    def left(self) -> list[Record]:
        """The records of operations that a daemon before this one did not bring to their end."""
        names = sorted(name for name in os.listdir(self._folder.fileno()) if _NAME.fullmatch(name))
        return [self._read(name) for name in names]

    def close(self) -> None:
        """Closes the folder. Idempotent."""
        self._folder.close()

    def _read(self, name: str) -> Record:
        content = b""
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with Fd(os.open(name, flags, dir_fd=self._folder.fileno()), "record") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    content = os.read(file.fileno(), _LONGEST)
        found: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            decoded = json.loads(content)
            found = decoded if isinstance(decoded, dict) else {}

        def number(key: str) -> int:
            value = found.get(key)
            return value if type(value) is int and 0 <= value < 2**48 else -1

        def text(key: str) -> str:
            value = found.get(key)
            return printable(value)[:64] if isinstance(value, str) else ""

        return Record(name, text("kind"), number("uid"), number("pid"), text("label"), max(0, number("submitted")))
