# SPDX-License-Identifier: GPL-3.0-or-later
"""The command's own terminal: one line of progress, and raw mode while a menu is on it."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator

from domward.protocol.errors import UsageError

from .relay import Console

#: What a step is called for people.
STEPS = {
    "disk": "opening the disk",
    "console": "opening a console",
    "helper": "confining the reader",
    "image": "reading the partition table and file systems",
    "configuration": "reading the boot configuration",
    "menu": "waiting for a choice",
    "kernel": "copying the kernel",
    "ramdisk": "copying the ramdisk",
    "hash": "sealing and hashing",
}

_ERASE_LINE = "\r\x1b[K"
_RESET = b"\x1b[0m\x1b[?25h\r\n"
_LARGEST = 1000


class ProgressLine:
    """One line on stderr that says what is going on; nothing at all where stderr is not a terminal, or `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self._shown = False
        self._on = not quiet and sys.stderr.isatty()

    def show(self, step: str) -> None:
        """Replaces the line."""
        if self._on:
            self._shown = True
            sys.stderr.write(f"{_ERASE_LINE}domward: {STEPS.get(step, step)} ...")
            sys.stderr.flush()

    def clear(self) -> None:
        """Takes the line away."""
        if self._shown:
            self._shown = False
            sys.stderr.write(_ERASE_LINE)
            sys.stderr.flush()


@contextlib.contextmanager
def raw_console() -> Iterator[Console]:
    """Standard input and output as a console in raw mode; restored at the end, whatever the menu left behind."""
    keys, screen = sys.stdin.fileno(), sys.stdout.fileno()
    if not (os.isatty(keys) and os.isatty(screen)):
        raise UsageError("--interactive needs a terminal as standard input and output.")
    size = os.get_terminal_size(screen)
    before = termios.tcgetattr(keys)
    try:
        tty.setraw(keys)
        yield Console(keys, screen, min(max(size.columns, 1), _LARGEST), min(max(size.lines, 1), _LARGEST))
    finally:
        with contextlib.suppress(OSError):
            os.write(screen, _RESET)
        with contextlib.suppress(termios.error):  # the terminal may be gone: that may be why this ends
            termios.tcsetattr(keys, termios.TCSAFLUSH, before)
