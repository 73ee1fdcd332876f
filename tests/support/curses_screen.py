# SPDX-License-Identifier: GPL-3.0-or-later
"""A terminal's screen, as far as a program that uses curses for a VT100 may use one through the relay's filter."""

from __future__ import annotations

import re

from support.vt100_screen import Vt100Screen

_STEPS = {b"A": (-1, 0), b"B": (1, 0), b"C": (0, 1), b"D": (0, -1)}


class CursesScreen(Vt100Screen):
    """Like its base, with lines that scroll and movements from where the cursor is; `keypad` is the keys' form."""

    keypad = False

    def feed(self, data: bytes) -> None:
        """Show `data`. AssertionError where it holds anything but printable ASCII, CR, LF, BS and what curses uses."""
        for part in re.split(rb"([\r\n\b])", data):
            row, column = self.cursor
            if part == b"\r":
                self.cursor = (row, 1)
            elif part == b"\b":
                self.cursor = (row, max(1, column - 1))
            elif part == b"\n":
                self._line_feed()
            else:
                super().feed(part)

    def _line_feed(self) -> None:
        row, column = self.cursor
        if row < self.row_count:
            self.cursor = (row + 1, column)
            return
        self.cells = [*self.cells[1:], [" "] * self.columns]
        self.reversed = [*self.reversed[1:], [False] * self.columns]

    def _put(self, character: str) -> None:
        if self.cursor[1] == self.columns:  # the last column, after which curses moves the cursor itself
            self.cells[self.cursor[0] - 1][-1] = character
            return
        super()._put(character)

    def _sequence(self, parameters: bytes, final: bytes) -> None:
        row, column = self.cursor
        match final, parameters:
            case b"A" | b"B" | b"C" | b"D", _:
                down, right = (step * int(parameters or b"1") for step in _STEPS[final])
                self.cursor = (
                    min(max(row + down, 1), self.row_count),
                    min(max(column + right, 1), self.columns),
                )
            case b"J", b"":
                super()._sequence(b"", b"K")
                for below in range(row, self.row_count):
                    self.cells[below] = [" "] * self.columns
                    self.reversed[below] = [False] * self.columns
            case b"K", b"1":
                for index in range(column):
                    self.cells[row - 1][index] = " "
            case b"m", _:
                for value in parameters.split(b";"):
                    super()._sequence(value or b"0", b"m")
            case b"h" | b"l", b"?1":
                self.keypad = final == b"h"
            case _:
                super()._sequence(parameters, final)
