# SPDX-License-Identifier: GPL-3.0-or-later
"""Has a bootloader's terminal follow the size of the console that it is shown on.

The size is set on the pty's master, which the kernel tells a program of; the built-in reader's menu, which may not ask
its terminal for anything, is told by a message. The relay cannot do it: a relay that was taken over could then resize
the person's own terminal.
"""

from __future__ import annotations

import asyncio
import contextlib

from domward.protocol.channel import ChannelClosed
from domward.protocol.errors import HelperError
from domward.protocol.messages import Resize

from .console import Console
from .helper import Helper
from .ptys import Pty


class Resizing:
    """Follows `console`, from the size that `pty` was opened with. States: following -> ended. Owns the pty's master.

    It must end with the relay: as long as a master is open, the bootloader does not see that nobody relays any more.
    """

    def __init__(self, console: Console, pty: Pty, opened_with: tuple[int, int]) -> None:
        self._console = console
        self._pty = pty
        self._size = opened_with
        self._changed = False
        self._menu: Helper | None = None
        self._ended = False
        loop = asyncio.get_running_loop()
        self._stop_watching = console.watch(lambda: _soon(loop, self))
        self.follow()

    def menu_begins(self, reader: Helper) -> None:
        """The menu of `reader` is shown, for the size of some moment before; it hears of the one that it is now."""
        self._menu = reader
        if self._changed:
            self._tell(reader)

    def menu_ends(self) -> None:
        """It was left: nothing is read any more."""
        self._menu = None

    def follow(self) -> None:
        """Sets the size that the console has now."""
        size = (self._console.columns, self._console.rows)
        if self._ended or size == self._size:
            return
        self._size, self._changed = size, True
        with contextlib.suppress(OSError):  # a terminal that has just hung up
            self._pty.resize(*size)
        if self._menu is not None:
            self._tell(self._menu)

    def end(self) -> None:
        """Follows no more, and closes the master. Idempotent."""
        if not self._ended:
            self._ended = True
            self._stop_watching()
            self._pty.master.close()

    def _tell(self, reader: Helper) -> None:
        columns, rows = self._size
        # One that is gone or does not read is seen to by who waits for its answer.
        with contextlib.suppress(ChannelClosed, HelperError):
            reader.send(Resize(columns=columns, rows=rows))


def _soon(loop: asyncio.AbstractEventLoop, resizing: Resizing) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has just been closed, in another thread
        loop.call_soon_threadsafe(resizing.follow)
