# SPDX-License-Identifier: GPL-3.0-or-later
"""A terminal's screen, as far as the boot menu may use one: whatever else is written to it is an error."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(rb"\x1b\[(\??[0-9;]*)([A-Za-z])")


class Vt100Screen:
    """`rows` of text; `cursor` is (row, column), the top left corner being (1, 1); `reversed_rows` in reverse video."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.row_count = columns, rows
        self.cells = [[" "] * columns for _ in range(rows)]
        self.reversed = [[False] * columns for _ in range(rows)]
        self.cursor = (1, 1)
        self.cursor_shown = True
        self._reverse = False

    @property
    def rows(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.cells]

    @property
    def reversed_rows(self) -> list[str]:
        return [self.rows[index] for index, row in enumerate(self.reversed) if any(row)]

    def feed(self, data: bytes) -> None:
        """Show `data`. AssertionError where it holds anything but printable ASCII and the sequences of the menu."""
        at = 0
        while at < len(data):
            if sequence := _SEQUENCE.match(data, at):
                self._sequence(sequence[1], sequence[2])
                at = sequence.end()
            else:
                assert 0x20 <= data[at] < 0x7F, f"{data[at : at + 20]!r} drives the terminal"
                self._put(chr(data[at]))
                at += 1

    def _put(self, character: str) -> None:
        row, column = self.cursor
        assert row <= self.row_count, "text below the screen"
        assert column < self.columns, "text in the last column makes some terminals wrap"
        self.cells[row - 1][column - 1] = character
        self.reversed[row - 1][column - 1] = self._reverse
        self.cursor = (row, column + 1)

    def _sequence(self, parameters: bytes, final: bytes) -> None:
        match final, parameters:
            case b"H", b"":
                self.cursor = (1, 1)
            case b"H", _:
                row, column = parameters.split(b";")
                self.cursor = (int(row), int(column))
            case b"J", b"2":
                self.cells = [[" "] * self.columns for _ in range(self.row_count)]
                self.reversed = [[False] * self.columns for _ in range(self.row_count)]
            case b"K", b"":
                row, column = self.cursor
                for index in range(column - 1, self.columns):
                    self.cells[row - 1][index] = " "
                    self.reversed[row - 1][index] = False
            case b"m", b"0" | b"7":
                self._reverse = parameters == b"7"
            case b"h" | b"l", b"?25":
                self.cursor_shown = final == b"h"
            case _:
                raise AssertionError(f"the menu wrote ESC [ {parameters!r} {final!r}")
