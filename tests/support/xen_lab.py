# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab that boots and works while other tests run."""

from __future__ import annotations

import fcntl
import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Booting:
    """A lab that is under way: who has `running` locked ends with it."""

    share: Path
    running: Path
    pid: int  # of the process with which all of it ends

    def wait(self) -> None:
        """Returns once it has ended."""
        with self.running.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)

    def end(self) -> None:
        """Ends it if it still runs."""
        with self.running.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.kill(self.pid, signal.SIGKILL)
                fcntl.flock(file, fcntl.LOCK_EX)
