# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward run --interactive` on a pty, as a person at a terminal has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.commands import COMMAND, SECONDS, Ran
from support.vt100_screen import Vt100Screen

RESET = b"\x1b[?1l\x1b[0m\x1b[?25h\r\n"  # what domward leaves behind on the terminal
CLEAR = b"\x1b[0m\x1b[2J"
_UNFINISHED = re.compile(rb"\x1b(\[[?0-9;]*)?\Z")

UP, DOWN, ENTER, ESCAPE, INTERRUPT, ERASE_LINE = b"\x1b[A", b"\x1b[B", b"\r", b"\x1b", b"\x03", b"\x15"


def screen_of(seen: bytes, columns: int, rows: int, screens: type[Vt100Screen] = Vt100Screen) -> Vt100Screen:
    """The menu's screen after `seen` was written, up to where the terminal was given back."""
    screen = screens(columns, rows)
    screen.feed(_UNFINISHED.sub(b"", seen.split(RESET)[0]))
    return screen


class MenuTerminal:
    """A pty with the command on it, as leader of a session that it controls; standard error is a pipe."""

    def __init__(
        self, words: tuple[str | Path, ...], columns: int, rows: int, screens: type[Vt100Screen] = Vt100Screen
    ) -> None:
        self.columns, self.rows = columns, rows
        self._screens = screens
        self.seen = b""
        self._from = 0  # where in `seen` the screen of the present size begins
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.modes_before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            ("setsid", "--ctty", *words), stdin=self.slave, stdout=self.slave, stderr=subprocess.PIPE
        )

    def modes(self) -> list[Any]:
        """The terminal's modes now."""
        return termios.tcgetattr(self.slave)

    def screen(self) -> Vt100Screen:
        """What the menu shows; AssertionError where anything was written that a menu may not write."""
        return screen_of(self.seen[self._from :], self.columns, self.rows, self._screens)

    def until(self, condition: Callable[[Vt100Screen], bool]) -> Vt100Screen:
        """The screen as soon as `condition` holds."""
        while not condition(self.screen()):
            self._read()
        return self.screen()

    def until_shown(self, text: str) -> Vt100Screen:
        """The screen as soon as one of its rows holds `text`."""
        return self.until(lambda screen: any(text in row for row in screen.rows))

    def resize(self, columns: int, rows: int) -> None:
        """Gives the terminal another size, and waits until the menu has cleared its screen for it."""
        before = len(self.seen)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.cleared(before, columns, rows)

    def cleared(self, since: int, columns: int, rows: int) -> None:
        """Waits until the menu has cleared the screen after `since` bytes of `seen`, for another size."""
        while (found := self.seen.find(CLEAR, since)) < 0:
            self._read()
        self.columns, self.rows, self._from = columns, rows, found

    def press(self, keys: bytes) -> None:
        """Types `keys`."""
        os.write(self.master, keys)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the command alone."""
        self.process.send_signal(number)

    def hang_up(self) -> None:
        """Closes both ends, as a terminal emulator does that is closed."""
        for fd in (self.slave, self.master):
            os.close(fd)
        self.slave = self.master = -1

    def finish(self) -> Ran:
        """Waits for the end; `out` is what was printed after the menu."""
        assert self.process.stderr is not None
        err = self.process.stderr.read()
        code = self.process.wait(SECONDS)
        if self.master >= 0:
            while select.select([self.master], [], [], 0)[0]:
                self._read()
        _menu, _reset, after = self.seen.partition(RESET)
        return Ran(code, after.decode("ascii").replace("\r\n", "\n"), err.decode("ascii"))

    def until_written(self, data: bytes) -> None:
        """Waits until `data` was written, wherever on the screen."""
        while data not in self.seen:
            self._read()

    def _read(self) -> None:
        assert select.select([self.master], [], [], SECONDS)[0], "nothing more is shown"
        try:
            self.seen += os.read(self.master, 1 << 16)
        except OSError as error:  # EIO: nobody has the terminal open any more
            raise AssertionError(f"the command ended: {self.seen!r}") from error

    def close(self) -> None:
        """Ends what is left."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        if self.master >= 0:
            self.hang_up()


@contextlib.contextmanager
def menu_terminal(
    *arguments: str | Path,
    columns: int = 80,
    rows: int = 24,
    screens: type[Vt100Screen] = Vt100Screen,
    command: tuple[str, ...] = COMMAND,
) -> Iterator[MenuTerminal]:
    """`domward run --interactive` with `arguments` on a terminal of this size; `command` is the words for `domward`."""
    terminal = MenuTerminal((*command, "run", "--interactive", *arguments), columns, rows, screens)
    try:
        yield terminal
    finally:
        terminal.close()
