# SPDX-License-Identifier: GPL-3.0-or-later
"""What waits to be sent to one client, and what becomes of it where the client does not read.

In the order in which it is sent:

- messages: answers, errors, steps. Each is sent, in order. Their number is bounded, because nothing more is read from a
  client for whom limits.CONTROL_QUEUE of them wait.
- changes of operations, for a `watch`: the latest of each operation, so there are never more than operations
- console output: what a viewer's backlog holds (`console`), one piece of each viewer's at a time

A client that takes nothing at all for the settings' `stuck_seconds` while something waits is disconnected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from domward.protocol.channel import Channel
from domward.protocol.control import End, Output
from domward.protocol.errors import OperationFailed, UsageError
from domward.protocol.fds import Fd, close_all
from domward.protocol.schema import Message

from ..fd_copies import copies_of
from .console import Viewer
from .tracked import Tracked


class Outbox:
    """The queue of one channel. Owns the copies of fds in it. `on_sent` is called with each message that went out."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._messages: deque[tuple[Message, list[Fd]]] = deque()
        self._changed: dict[str, tuple[Tracked, int]] = {}
        self._viewers: dict[int, Viewer] = {}
        self.taken = 0  # messages that the client's end of the socket took

    @property
    def waiting(self) -> int:
        """How many messages wait, changes and console output not counted."""
        return len(self._messages)

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._messages and not self._changed and not any(self._has_output(v) for v in self._viewers.values())

    def add(self, message: Message, fds: Sequence[Fd] = ()) -> None:
        """Puts `message` at the end, with copies of `fds`."""
        self._messages.append((message, copies_of(fds)))

    def change(self, tracked: Tracked, request: int) -> None:
        """Notes that the watch `request` is to be told of `tracked`."""
        self._changed[tracked.id] = (tracked, request)

    def forget_changes(self) -> None:
        """The watch has ended."""
        self._changed.clear()

    def view(self, request: int, viewer: Viewer) -> None:
        """From now on sends what `viewer` gets, as answers to `request`."""
        self._viewers[request] = viewer

    def forget_viewer(self, request: int) -> None:
        """Sends nothing more of a viewer's."""
        self._viewers.pop(request, None)

    def flush(self, on_viewer_end: Callable[[int], None]) -> None:
        """Sends what the client takes. `on_viewer_end` is called for a console that ended, which then gets its `end`.

        Raises OperationFailed where the client is gone.
        """
        try:
            while self._send_message() or self._send_change() or self._send_output(on_viewer_end):
                self.taken += 1
        except BlockingIOError:
            return
        except UsageError as error:
            raise OperationFailed(error.sentence) from None

    def clear(self) -> None:
        """Lets everything go."""
        while self._messages:
            close_all(self._messages.popleft()[1])
        self._changed.clear()
        self._viewers.clear()

    def _send_message(self) -> bool:
        if not self._messages:
            return False
        message, fds = self._messages[0]
        self._channel.send(message, fds)
        self._messages.popleft()
        close_all(fds)
        return True

    def _send_change(self) -> bool:
        for name, (tracked, request) in self._changed.items():
            self._channel.send(tracked.info(request))
            del self._changed[name]
            return True
        return False

    def _send_output(self, on_viewer_end: Callable[[int], None]) -> bool:
        sent = False
        for request, viewer in [*self._viewers.items()]:
            if found := viewer.first():
                content, skipped = found
                self._channel.send(Output(request=request, content=content, skipped=skipped))
                viewer.taken()
                sent = True
            elif viewer.ended:
                self._channel.send(End(request=request))
                self.forget_viewer(request)
                on_viewer_end(request)
                sent = True
        return sent

    @staticmethod
    def _has_output(viewer: Viewer) -> bool:
        return viewer.ended or viewer.first() is not None
