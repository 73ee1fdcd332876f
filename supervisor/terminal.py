# SPDX-License-Identifier: GPL-3.0-or-later
"""The command's own terminal: one line of progress, and raw mode while a menu is on it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType

from domward.protocol import limits
from domward.protocol.errors import OperationFailed, UsageError
from domward.protocol.typed import Any

from . import interrupts
from .console import Console

#: What a step is called for people.
STEPS = {
    "disk": "opening the disk",
    "console": "opening a console",
    "helper": "confining the bootloader",
    "program": "running the bootloader",
    "image": "reading the partition table and file systems",
    "configuration": "reading the boot configuration",
    "menu": "waiting for a choice",
    "kernel": "copying the kernel",
    "ramdisk": "copying the ramdisk",
    "hash": "sealing and hashing",
}

_ERASE_LINE = "\r\x1b[K"
_RESET = b"\x1b[?1l\x1b[0m\x1b[?25h\r\n"


class ProgressLine:
    """One line on stderr that says what is going on; nothing at all where stderr is not a terminal, or `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self._shown = False
        self._on = not quiet and sys.stderr is not None and sys.stderr.isatty()

    def show(self, step: str) -> None:
        """Replaces the line."""
        if self._on:
            self._shown = True
            self._write(f"{_ERASE_LINE}domward: {STEPS.get(step, step)} ...")

    def clear(self) -> None:
        """Takes the line away."""
        if self._shown:
            self._shown = False
            self._write(_ERASE_LINE)

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:  # the terminal hung up: SIGHUP says what comes of that
            self._on = self._shown = False


@contextlib.contextmanager
def raw_console(who: str = "--interactive") -> Iterator[Console]:
    """Standard input and output as a console in raw mode; restored at the end, whatever the menu left behind.

    One that does not know its size, like those that libxl makes, is taken to have 80 columns and 24 rows. When the
    terminal's size changes, so does the console's.

    Raises UsageError, which names `who` wants it, where they are no terminal, OperationFailed where it cannot be set.
    """
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        raise UsageError(f"{who} needs a terminal as standard input and output.")
    keys, screen = sys.stdin.fileno(), sys.stdout.fileno()
    try:
        size = os.get_terminal_size(screen)
        before = termios.tcgetattr(keys)
    except (OSError, termios.error) as error:
        raise OperationFailed(f"The terminal cannot be used: {error.args[1]}.") from error
    try:
        with contextlib.suppress(termios.error):  # it has just hung up, which ends the menu
            tty.setraw(keys)
        console = Console(keys, screen, *_fitting(size))
        with _following(console):
            yield console
    finally:
        with interrupts.held_off():
            _restore(keys, screen, before)


def _fitting(size: os.terminal_size) -> tuple[int, int]:
    return min(size.columns or 80, limits.SCREEN), min(size.lines or 24, limits.SCREEN)


@contextlib.contextmanager
def _following(console: Console) -> Iterator[None]:
    def resized(_number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):  # it has just hung up
            console.resize(*_fitting(os.get_terminal_size(console.output)))

    before = signal.signal(signal.SIGWINCH, resized)
    try:
        resized(signal.SIGWINCH, None)  # what came before there was a handler
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _restore(keys: int, screen: int, before: list[Any]) -> None:
    # A terminal that shows nothing any more must not keep us: it gets no reset then, and no time to drain.
    with contextlib.suppress(OSError):
        if select.select([], [screen], [], 0)[1]:
            os.write(screen, _RESET)
    with contextlib.suppress(termios.error):  # the terminal may be gone: that may be why this ends
        termios.tcflush(keys, termios.TCIFLUSH)
        termios.tcsetattr(keys, termios.TCSANOW, before)
