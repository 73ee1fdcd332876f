# SPDX-License-Identifier: GPL-3.0-or-later
"""The size of the menu's terminal, which the supervisor tells: the helper may not ask the terminal for it."""

from __future__ import annotations

import select

from domward.protocol.channel import Channel
from domward.protocol.errors import OperationCancelled
from domward.protocol.messages import Resize

from .terminal import RESIZED


class MenuSize:
    """What the supervisor said last on `channel`; `columns` and `rows` before it said anything."""

    def __init__(self, channel: Channel, columns: int, rows: int) -> None:
        self._channel = channel
        self._size = columns, rows

    def now(self) -> tuple[int, int]:
        """Columns and rows."""
        return self._size

    def wait(self, fd: int, events: int, seconds: float | None) -> int:
        """A `terminal.Wait` that also hears the supervisor. Raises OperationCancelled where that is gone."""
        poller = select.poll()
        poller.register(fd, events)
        poller.register(self._channel, select.POLLIN)
        ready = dict(poller.poll(None if seconds is None else max(0, round(seconds * 1000))))
        found = ready.get(fd, 0)
        if self._channel.fileno() in ready:
            received = self._channel.receive((Resize,))
            if received is None:
                raise OperationCancelled("the supervisor is gone")
            assert isinstance(received.message, Resize)
            self._size = received.message.columns, received.message.rows
            found |= RESIZED
        return found
