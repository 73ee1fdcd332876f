# SPDX-License-Identifier: GPL-3.0-or-later
"""Executes xl(1), and waits for its end: one process a call, with nothing of ours but what it is given.

A call is never left half way, whatever cancels its caller: a domain would be half made. It is killed after its
deadline. What it writes goes into memory files, so that nothing has to be read meanwhile, also where a process that it
started lives on with a copy.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import HypervisorError, OperationFailed
from domward.protocol.fds import Fd
from domward.protocol.records import frozen
from domward.protocol.text import readable_rows

from .. import paths
from ..children import Child
from ..endings import ended
from ..events import Events

_ERROR = "error: "  # in a line of xl's messages
# xl's block scripts are found by their paths, and themselves find programs by this.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": paths.TOOLSTACK_COMMANDS}


@frozen
class Done:
    """How a call ended: exit code (negative for a signal, None where nobody knows), what it wrote, and its error."""

    code: int | None
    output: bytes
    cause: str

    def told(self) -> str:
        """Why it failed, or else its exit code, as the end of a sentence."""
        return self.cause.rstrip(".") or f"exit code {self.code}"


class Toolstack:
    """xl. Has no state."""

    def __init__(self, events: Events, program: Path | None = None) -> None:
        """`program` is xl itself; without it, the one that this host has. Raises OperationFailed."""
        self._events = events
        found = program or next((path for path in paths.XL if path.exists()), None)
        if found is None:
            raise OperationFailed("There is no xl on this host.", advice="Install Xen's tools, in a dom0.")
        self._program = found

    async def call(self, *words: str, fds: Sequence[Fd] = ()) -> Done:
        """Executes it with `words`; it inherits `fds` under the numbers that they have here.

        Raises OperationFailed where it cannot be started, HypervisorError where it does not end.
        """
        task = asyncio.ensure_future(self._call(words, fds))
        cancelled = await ended(task)
        if cancelled is not None:
            task.exception()  # looked at: nobody waits for it
            raise cancelled
        return task.result()

    async def _call(self, words: Sequence[str], fds: Sequence[Fd]) -> Done:
        with _memory_file("xl's output") as output, _memory_file("xl's messages") as messages:
            child = self._start(words, fds, output, messages)
            if not (await asyncio.wait([child.death], timeout=limits.XL_SECONDS))[0]:
                await child.kill()
                raise HypervisorError(f"xl {words[0]} did not end within {limits.XL_SECONDS:g} seconds.", helper="xl")
            rows = [row.strip() for row in readable_rows([_end_of(messages)]) if row.strip()]
            # The first error is the reason; those behind it tell of what was undone then.
            cause = next((row for row in rows if _ERROR in row), rows[-1] if rows else "")
            return Done(child.death.result(), _end_of(output), cause)

    def _start(self, words: Sequence[str], fds: Sequence[Fd], output: Fd, messages: Fd) -> Child:
        try:
            pid = os.posix_spawn(
                self._program,
                ["xl", *words],
                _ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, paths.NULL_DEVICE, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, messages.fileno(), 2),
                    # To itself: kept by the new program alone (posix_spawn(3), glibc 2.29).
                    *((os.POSIX_SPAWN_DUP2, fd.fileno(), fd.fileno()) for fd in fds),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
            try:
                pidfd = Fd(os.pidfd_open(pid), "xl's pidfd")
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        except OSError as error:
            raise OperationFailed(f"xl could not be started: {error.strerror}.") from error
        return Child(pid, pidfd, f"xl {words[0]}", self._events)


def _memory_file(name: str) -> Fd:
    try:
        return Fd(os.memfd_create("domward-xl", os.MFD_CLOEXEC), name)
    except OSError as error:
        raise OperationFailed(f"A memory file could not be made: {error.strerror}.") from error


def _end_of(file: Fd) -> bytes:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), limits.XL_OUTPUT_BYTES, max(0, size - limits.XL_OUTPUT_BYTES))
