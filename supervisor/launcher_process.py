# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the launcher's process; imports so little that a command can do it before it has loaded anything else.

The process starts with nothing but /dev/null and its end of the channel, and its environment holds no setting of ours.
"""

from __future__ import annotations

import os
import signal
import socket

from . import paths
from .forks import Birthplace

CHANNEL_FD = 3


class LauncherProcess:
    """A launcher that was started: its pid and the near end of its channel.

    States: held -> taken or ended. Whoever holds it ends it; `end` does nothing once `Launcher` has taken it over.
    """

    def __init__(self, python: str) -> None:
        """Starts it in the interpreter `python`. Raises OSError."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._pid = os.posix_spawn(
                python,
                [python, "-I", os.fspath(paths.LAUNCHER)],
                {"LC_ALL": "C.UTF-8"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, far.fileno(), CHANNEL_FD),
                    *((os.POSIX_SPAWN_OPEN, number, paths.NULL_DEVICE, os.O_RDWR, 0) for number in (0, 1, 2)),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except BaseException:
            near.close()
            raise
        finally:
            far.close()
        near.setblocking(False)
        self._birthplace = Birthplace()
        self._channel: socket.socket | None = near

    def take(self) -> tuple[int, socket.socket]:
        """The pid and the non-blocking channel, the caller's from now on. Only once."""
        channel, self._channel = self._channel, None
        assert channel is not None
        return self._pid, channel

    def end(self) -> None:
        """Ends a launcher that nobody took over, and waits for it. Idempotent."""
        if self._channel is not None and self._birthplace.here:
            self._channel.close()
            self._channel = None
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
