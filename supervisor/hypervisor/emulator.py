# SPDX-License-Identifier: GPL-3.0-or-later
"""The process of a guest's emulator: started confined, looked at from outside, listened to, ended, its uid given back.

`helpers/emulator` confines it. Before the guest may run, the supervisor looks whether that is so, as
far as /proc shows.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence

from domward.protocol import limits
from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd
from domward.protocol.text import readable_rows

from .. import paths
from ..children import Child, ChildStuck
from ..endings import to_its_end
from ..events import Condition, Watch
from ..helper import HelperHost
from ..verification import verify_emulator

_CHUNK = 4 * limits.KIB
_PIPE_BYTES = 64 * limits.KIB  # pipe(7): what a pipe holds


class Emulator:
    """One process. Owns it, its uid and what it says. States: active -> ended."""

    def __init__(self, host: HelperHost, name: str) -> None:
        """Takes a uid; nothing is started yet. Raises OperationFailed."""
        self._host = host
        self._name = name
        self._child: Child | None = None
        self._said = bytearray()
        self._output: Fd | None = None
        self._watch: Watch | None = None
        self.uid: int = host.leases.acquire()
        self._has_uid = True

    @property
    def child(self) -> Child:
        """The process; only after `start`."""
        assert self._child is not None
        return self._child

    @property
    def name(self) -> str:
        """What it is and, once there is one, its pid."""
        return f"{self._name} {self._child.pid}" if self._child else self._name

    def start(self, command: Sequence[str], fds: Sequence[Fd], devices: Sequence[str] = ()) -> None:
        """Starts `command`, which inherits copies of `fds` as `first_fd` and the following numbers.

        `devices` are what it may open besides /usr. Raises OperationFailed.
        """
        host = self._host
        try:
            order = {
                "command": list(command),
                "uid": self.uid,
                "groups": sorted({os.stat(device).st_gid for device in devices}),
                "parent": os.getpid(),
                "devices": list(devices),
                "files": limits.EMULATOR_FDS,
                "without": sorted(layer.value for layer in host.without),
            }
            near, far = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._output = Fd(near, f"{self._name}'s messages")
            words = [os.fspath(host.config.python), "-I", os.fspath(paths.EMULATOR), json.dumps(order)]
            with Fd(far, f"{self._name}'s messages"):
                pid = self._spawn(words, fds, far)
            pidfd = _pidfd_of(pid)
        except OSError as error:
            raise OperationFailed(f"The guest's emulator could not be started: {error.strerror}.") from error
        self._child = Child(pid, pidfd, self.name, host.events, exit_info=host.config.exit_info_from_pidfd)
        self._watch = host.events.watch(self._output.fileno(), Condition.IN, self._on_output)

    def _spawn(self, words: list[str], fds: Sequence[Fd], output: int) -> int:
        first = first_fd(fds)
        return os.posix_spawn(
            words[0],
            words,
            {"LC_ALL": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, output, 2),  # first: the others may overwrite its number
                (os.POSIX_SPAWN_OPEN, 0, paths.NULL_DEVICE, os.O_RDWR, 0),
                (os.POSIX_SPAWN_OPEN, 1, paths.NULL_DEVICE, os.O_RDWR, 0),
                *((os.POSIX_SPAWN_DUP2, fd.fileno(), first + place) for place, fd in enumerate(fds)),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )

    def verify(self) -> None:
        """Looks whether it is confined, once it speaks. Raises ConfinementFailed."""
        verify_emulator(self.child.pid, self.uid, self._host.without)

    def last_words(self) -> str:
        """The last lines that it wrote on standard error, printable; empty where it wrote none."""
        for _ in range(_PIPE_BYTES // _CHUNK):  # what is there, and no more
            if not self._take_output():
                break
        rows = [row for row in readable_rows([bytes(self._said)]) if row.strip()]
        return "; ".join(rows[-limits.PROGRAM_LAST_ROWS :])

    def _on_output(self, _found: Condition) -> None:
        if self._take_output() and self._watch is not None:
            self._watch.resume()

    def _take_output(self) -> bool:
        """Keeps what it wrote; False at the end, or where there is nothing at the moment."""
        if self._output is None or self._output.closed:
            return False
        try:
            data = os.read(self._output.fileno(), _CHUNK)
        except OSError:
            return False
        self._said = (self._said + data)[-limits.EMULATOR_OUTPUT_BYTES :]
        return bool(data)

    async def end(self) -> None:
        """Ends it (TERM, grace, KILL) and gives its uid back. Idempotent. Raises ChildStuck."""
        await to_its_end(self._end())

    async def _end(self) -> None:
        uid, had = self.uid, self._has_uid
        self._has_uid = False
        try:
            if self._child is not None:
                await self._child.end(self._host.config.budgets.term_grace_seconds)
        except ChildStuck:
            self._host.stuck.append(self.child)
            if had:
                self.child.death.add_done_callback(lambda _death: self._host.leases.release(uid))
            raise
        finally:
            if self._watch is not None:
                self._watch.cancel()
            if self._output is not None:
                self._output.close()
        if had:
            self._host.leases.release(uid)


def first_fd(fds: Sequence[Fd]) -> int:
    """The first of the numbers that inherited copies of `fds` get: above all of theirs, so that none is overwritten."""
    return max((fd.fileno() for fd in fds), default=2) + 1


def _pidfd_of(pid: int) -> Fd:
    """The pidfd of a child that was just started. Raises OSError, and then the child is gone."""
    try:
        return Fd(os.pidfd_open(pid), "emulator's pidfd")
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
