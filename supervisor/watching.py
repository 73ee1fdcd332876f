# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of `domward watch`: redrawn in place on a terminal, one line a change on anything else."""

from __future__ import annotations

import os
import sys
import time

from domward.protocol.control import OperationInfo, State

from . import report_control
from .streams import print_result

_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_KEPT_SECONDS = 10.0  # how long an operation that is over stays in the table
_REDRAW_SECONDS = 0.1  # between two pictures: a person sees no more


class LiveTable:
    """States: entered -> left, as a context; the terminal is then as before."""

    def __init__(self) -> None:
        self._terminal = sys.stdout is not None and sys.stdout.isatty()
        self._found: dict[str, OperationInfo] = {}
        self._drawn = 0.0

    def __enter__(self) -> LiveTable:
        if self._terminal:
            self._write(_ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            self._write(_LEAVE)

    def change(self, info: OperationInfo) -> None:
        """Notes that an operation is now so."""
        if not self._terminal:
            print_result([report_control.line(info)])
        self._found[info.operation] = info

    def show(self, *, more: bool) -> None:
        """Draws the table, unless `more` changes are there already and the last picture is recent."""
        now = time.monotonic()
        if not self._terminal or (more and now - self._drawn < _REDRAW_SECONDS):
            return
        self._drawn = now
        oldest = (time.time() - _KEPT_SECONDS) * 1000
        self._found = {
            name: info for name, info in self._found.items() if info.state is not State.DONE or info.ended > oldest
        }
        size = os.get_terminal_size(sys.stdout.fileno())
        live = sum(info.state is not State.DONE for info in self._found.values())
        lines = [f"domward: {live} operations; Ctrl-C ends this", "", *report_control.table(self._found.values())]
        picture = [line[: max(1, size.columns - 1)] + _CLEAR_LINE for line in lines[: max(1, size.lines - 1)]]
        self._write(_HOME + "\r\n".join(picture) + "\r\n" + _CLEAR_BELOW)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
