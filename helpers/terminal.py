# SPDX-License-Identifier: GPL-3.0-or-later
"""A VT100 terminal behind an fd: keys in, positioned text out, with read(), write() and poll() only."""

from __future__ import annotations

import enum
import os
import re
import select
from collections.abc import Callable
from types import TracebackType

from domward.protocol.errors import OperationCancelled, printable

RESIZED = 1 << 16  # of a Wait's result, beside poll's events: the terminal has another size
ESCAPE_SECONDS = 0.1  # seconds after ESC in which the rest of an arrow key's sequence comes; longer, it was the Esc key
_READ_BYTES = 256

# Waits up to so many seconds (None: for ever) for the events on the fd; the events that came, 0 for none; with RESIZED
# among them at once where the terminal got another size.
Wait = Callable[[int, int, float | None], int]


class Key(enum.Enum):
    """A key that is no text."""

    UP = enum.auto()
    DOWN = enum.auto()
    LEFT = enum.auto()
    RIGHT = enum.auto()
    HOME = enum.auto()
    END = enum.auto()
    PAGE_UP = enum.auto()
    PAGE_DOWN = enum.auto()
    ENTER = enum.auto()
    ESCAPE = enum.auto()
    BACKSPACE = enum.auto()
    DELETE = enum.auto()
    ERASE_TO_END = enum.auto()
    ERASE_LINE = enum.auto()
    REDRAW = enum.auto()
    RESIZED = enum.auto()  # nobody pressed it: the terminal has another size
    INTERRUPT = enum.auto()


_CONTROLS = {
    0x01: Key.HOME,  # Ctrl-A
    0x02: Key.LEFT,  # Ctrl-B
    0x03: Key.INTERRUPT,  # Ctrl-C: the terminal is raw, so it comes as a byte
    0x04: Key.DELETE,  # Ctrl-D
    0x05: Key.END,  # Ctrl-E
    0x06: Key.RIGHT,  # Ctrl-F
    0x08: Key.BACKSPACE,
    0x0A: Key.ENTER,
    0x0B: Key.ERASE_TO_END,  # Ctrl-K
    0x0C: Key.REDRAW,  # Ctrl-L
    0x0D: Key.ENTER,
    0x0E: Key.DOWN,  # Ctrl-N
    0x10: Key.UP,  # Ctrl-P
    0x15: Key.ERASE_LINE,  # Ctrl-U
    0x7F: Key.BACKSPACE,
}
_FINALS = {b"A": Key.UP, b"B": Key.DOWN, b"C": Key.RIGHT, b"D": Key.LEFT, b"H": Key.HOME, b"F": Key.END}
_NUMBERED = {
    b"1": Key.HOME,
    b"3": Key.DELETE,
    b"4": Key.END,
    b"5": Key.PAGE_UP,
    b"6": Key.PAGE_DOWN,
    b"7": Key.HOME,
    b"8": Key.END,
}
_SEQUENCE = re.compile(rb"\x1b(?:\[([0-9]{0,3})(?:;[0-9;]{0,8})?([A-Za-z~])|O([A-Za-z]))")
_BEGINNING = re.compile(rb"\x1b(?:\[[0-9;]{0,12}|O)?")


def wait_with_poll(fd: int, events: int, seconds: float | None) -> int:
    """A `Wait` that asks the kernel."""
    poller = select.poll()
    poller.register(fd, events)
    ready = poller.poll(None if seconds is None else max(0, round(seconds * 1000)))
    return ready[0][1] if ready else 0


class Terminal:
    """Open between `__enter__`, which clears the screen, and `__exit__`, which clears it again and shows the cursor.

    Both fds stay the caller's. Every method raises OperationCancelled once the terminal has hung up.
    """

    def __init__(self, fd_in: int, fd_out: int, wait: Wait = wait_with_poll) -> None:
        self._in = fd_in
        self._out = fd_out
        self._wait = wait
        self._typed = b""
        self._resized = False

    def __enter__(self) -> Terminal:
        self.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.write(b"\x1b[0m\x1b[2J\x1b[H\x1b[?25h")
        except OperationCancelled:
            if error is None:
                raise

    def clear(self) -> None:
        """Clear the screen and hide the cursor."""
        self.write(b"\x1b[0m\x1b[2J\x1b[H\x1b[?25l")

    @property
    def typed_ahead(self) -> bool:
        """Whether more was typed than `key` has returned."""
        return bool(self._typed)

    def key(self, seconds: float | None) -> Key | int | None:
        """The next key, or the byte (0x20 to 0x7e) that was typed; None after `seconds` without one."""
        while True:
            if self._resized:
                self._resized = False
                return Key.RESIZED
            while self._typed:
                sequence = _SEQUENCE.match(self._typed)
                if sequence is None and _BEGINNING.fullmatch(self._typed):
                    break  # the rest may be under way
                key = self._take(sequence)
                if key is not None:
                    return key
            pending = bool(self._typed)
            if not self._read(ESCAPE_SECONDS if pending else seconds) and not self._resized:
                if not pending:
                    return None
                self._typed = self._typed[1:]
                return Key.ESCAPE

    def line(self, row: int, text: str, columns: int, *, reversed_video: bool = False) -> bytes:
        """What shows `text`, which is made printable and cut to `columns`, as row `row` (1 is the top)."""
        shown = printable(text)[:columns].encode("ascii")
        if reversed_video:
            shown = b"\x1b[7m" + shown.ljust(columns) + b"\x1b[0m"
        return b"\x1b[%d;1H%s\x1b[K" % (row, shown)

    def write(self, data: bytes) -> None:
        """Write all of `data`."""
        while data:
            try:
                data = data[os.write(self._out, data) :]
            except BlockingIOError:
                self._await(self._out, select.POLLOUT, None)
            except OSError as error:
                raise _hung_up() from error

    def _take(self, sequence: re.Match[bytes] | None) -> Key | int | None:
        """Take one key from what was typed; None for one without a meaning."""
        if sequence is not None:
            self._typed = self._typed[sequence.end() :]
            number, final, application = sequence.groups()
            return _NUMBERED.get(number) if final == b"~" else _FINALS.get(final or application)
        byte, self._typed = self._typed[0], self._typed[1:]
        if byte == 0x1B:
            return Key.ESCAPE
        return byte if 0x20 <= byte < 0x7F else _CONTROLS.get(byte)

    def _await(self, fd: int, events: int, seconds: float | None) -> int:
        found = self._wait(fd, events, seconds)
        self._resized = self._resized or bool(found & RESIZED)
        return found & ~RESIZED

    def _read(self, seconds: float | None) -> bool:
        """Read what is typed within `seconds`; False where nothing was."""
        events = self._await(self._in, select.POLLIN, seconds)
        if not events:
            return False
        if not events & select.POLLIN:  # POLLHUP, POLLERR, POLLNVAL
            raise _hung_up()
        try:
            typed = os.read(self._in, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError as error:  # EIO: the last master is closed
            raise _hung_up() from error
        if not typed:
            raise _hung_up()
        self._typed += typed
        return True


def _hung_up() -> OperationCancelled:
    return OperationCancelled("the terminal hung up while the boot menu was shown")
