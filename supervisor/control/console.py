# SPDX-License-Identifier: GPL-3.0-or-later
"""An operation's console without a terminal of its own: any number of viewers, and what was shown before.

The relay helper, which has made the bytes safe for a terminal, writes into one end of a socket pair; this end is always
read, so that nobody who looks on, or nobody at all, can hold the bootloader up. By cases:

- output goes to every viewer, and the last limits.CONSOLE_REPLAY_BYTES of it to who attaches later
- a viewer that reads too slowly has its backlog skipped, and is told how much
- more output than limits.CONSOLE_BYTES_PER_SECOND waits in the relay: the console is slow then, and nothing else is
- keys that the bootloader does not read are dropped
- it has as many columns and rows as every viewer has that said so; if none did, it stays as it is

States: open -> ended. `end` gives the viewers what was still to come and says good-bye to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable

from domward.protocol import limits
from domward.protocol.errors import RefusedError, UsageError

from ..console import Console
from ..events import Condition, Events, Watch
from .replay import Replay

_CHUNK = 64 * limits.KIB


class Viewer:
    """One who looks on. `notify` is called when there is something to take; `ended` once nothing more will come."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._backlog: deque[bytes] = deque()
        self._size = 0
        self._skipped = 0
        self.ended = False
        self.size: tuple[int, int] | None = None  # columns and rows, where it said so

    def add(self, data: bytes) -> None:
        """Takes what the console shows; what does not fit is skipped."""
        if self._size + len(data) > limits.CONSOLE_BACKLOG_BYTES:
            self._skipped += self._size
            self._backlog.clear()
            self._size = 0
        for at in range(0, len(data), limits.CONSOLE_MESSAGE_BYTES):
            self._backlog.append(data[at : at + limits.CONSOLE_MESSAGE_BYTES])
        self._size += len(data)
        self._notify()

    def skip(self, count: int) -> None:
        """Notes that `count` bytes were let go before this one came."""
        self._skipped += count

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        self._notify()

    def first(self) -> tuple[bytes, int] | None:
        """What to show next, and how many bytes before it are left out; None where nothing waits."""
        return (self._backlog[0], self._skipped) if self._backlog else None

    def taken(self) -> None:
        """What `first` gave was shown."""
        self._size -= len(self._backlog.popleft())
        self._skipped = 0


class ConsoleHub:
    """One operation's console. Owns the socket pair and the replay; `columns` and `rows`, in characters, to begin with.

    `console` is the far end, for the operation.
    """

    def __init__(self, events: Events, columns: int, rows: int, replay: Replay) -> None:
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._near.setblocking(False)
        self.console = Console(self._far.fileno(), self._far.fileno(), columns, rows)
        self.viewers: set[Viewer] = set()
        self.ended = False
        self.replay = replay
        self._pause: asyncio.TimerHandle | None = None
        self._watch: Watch = events.watch(self._near.fileno(), Condition.IN, lambda _found: self._read())

    @classmethod
    def of_before(cls, events: Events, columns: int, rows: int, content: bytes) -> ConsoleHub:
        """The console of an operation that a daemon before this one had: it has ended, and showed `content` last."""
        hub = cls(events, columns, rows, Replay(kept=False))
        hub.replay.add(content)
        hub.end()
        return hub

    def attach(self, viewer: Viewer) -> None:
        """Shows `viewer` what was shown before, and from then on everything. Raises RefusedError for one too many."""
        if len(self.viewers) >= limits.CONSOLE_VIEWERS:
            raise RefusedError(f"{limits.CONSOLE_VIEWERS} viewers look at this console already.", code="too-many")
        viewer.skip(self.replay.forgotten)
        if self.replay.shown:
            viewer.add(bytes(self.replay.shown))
        if self.ended:
            viewer.end()
        else:
            self.viewers.add(viewer)

    def detach(self, viewer: Viewer) -> None:
        """The viewer goes, and with it the bounds that it set to the size. Idempotent."""
        self.viewers.discard(viewer)
        self._fit()

    def resize(self, viewer: Viewer, columns: int, rows: int) -> None:
        """Takes note of what `viewer` has room for."""
        viewer.size = columns, rows
        self._fit()

    def keys(self, data: bytes) -> None:
        """Types `data`. Raises UsageError where the console has ended."""
        if self.ended:
            raise UsageError("The console has ended.")
        with contextlib.suppress(OSError):  # full, since the bootloader does not read: the keys are dropped
            self._near.send(data, socket.MSG_NOSIGNAL)

    def end(self) -> None:
        """Shows what the relay had still written, once the operation is over. Idempotent."""
        if self.ended:
            return
        self._far.close()
        self._watch.cancel()
        if self._pause is not None:
            self._pause.cancel()
        with contextlib.suppress(OSError):
            while data := self._near.recv(_CHUNK):
                self._show(data)
        self._near.close()
        self.ended = True
        for viewer in self.viewers:
            viewer.end()
        self.viewers.clear()

    def let_go(self) -> None:
        """What was shown is not needed any more. Idempotent."""
        self.replay.close()

    def _fit(self) -> None:
        sizes = [viewer.size for viewer in self.viewers if viewer.size is not None]
        if sizes and not self.ended:
            self.console.resize(min(columns for columns, _rows in sizes), min(rows for _columns, rows in sizes))

    def _read(self) -> None:
        try:
            data = self._near.recv(_CHUNK)
        except OSError:
            return
        if not data:
            return  # the relay has ended; the operation says when this has
        self._show(data)
        self._watch.change(Condition.NONE)
        delay = len(data) / limits.CONSOLE_BYTES_PER_SECOND
        self._pause = asyncio.get_running_loop().call_later(delay, self._watch.change, Condition.IN)

    def _show(self, data: bytes) -> None:
        self.replay.add(data)
        for viewer in [*self.viewers]:
            viewer.add(data)
