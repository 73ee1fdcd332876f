# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints: a chain's last place at some moment, kept outside of the log, so that a tail that was cut off is missed.

The nearest one is `FILE.head` beside the log, written over in place after every write to the log. Others go to
journald and to the kernel's audit (`journal`, `kernel_audit`), and `domward audit sign` makes one to be taken away.
"""

from __future__ import annotations

import json
import os
import re

from domward.protocol.fds import Fd
from domward.protocol.records import frozen

_BYTES = 256  # one block of any disk, so that it is written whole or not at all
_FORM = re.compile(
    r'\{"chain":"([0-9a-f]{32})","seq":([1-9][0-9]{0,18}),"hash":"([0-9a-f]{64})","time":"([0-9TZ:.-]{1,32})"\} *'
)


@frozen
class Checkpoint:
    """At `time`, the record `seq` of the chain `chain` had the hash `hash`."""

    chain: str
    seq: int
    hash: str
    time: str

    def text(self) -> str:
        """One line without its line feed; what is signed."""
        members = {"chain": self.chain, "seq": self.seq, "hash": self.hash, "time": self.time}
        return json.dumps(members, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Checkpoint | None:
        """The inverse of `text`; None where it is none."""
        found = _FORM.fullmatch(text.rstrip("\n"))
        return cls(found[1], int(found[2]), found[3], found[4]) if found else None


class HeadFile:
    """`FILE.head`. Owns its fd."""

    def __init__(self, fd: Fd) -> None:
        self._fd = fd

    def read(self) -> Checkpoint | None:
        """What was last written; None where nothing was, or something else."""
        return Checkpoint.parse(os.pread(self._fd.fileno(), _BYTES + 1, 0).decode("ascii", "replace"))

    def write(self, checkpoint: Checkpoint) -> None:
        """Writes over what was there. Raises OSError."""
        os.pwrite(self._fd.fileno(), checkpoint.text().ljust(_BYTES - 1).encode() + b"\n", 0)

    def close(self) -> None:
        """Closes the fd."""
        self._fd.close()
