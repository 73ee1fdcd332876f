# SPDX-License-Identifier: GPL-3.0-or-later
"""One line of text that is being edited."""

from __future__ import annotations

from .terminal import Key


class LineEditor:
    """`text` with a cursor, never longer than `limit` bytes by typing; what was longer from the start may shrink."""

    def __init__(self, text: bytes, limit: int) -> None:
        self.text = text
        self.cursor = len(text)
        self._limit = limit

    def type(self, byte: int) -> bool:
        """Insert one byte before the cursor; False where there is no room."""
        if len(self.text) >= self._limit:
            return False
        self.text = self.text[: self.cursor] + bytes((byte,)) + self.text[self.cursor :]
        self.cursor += 1
        return True

    def press(self, key: Key) -> None:
        """Move or erase; keys that do neither are ignored."""
        match key:
            case Key.LEFT:
                self.cursor = max(0, self.cursor - 1)
            case Key.RIGHT:
                self.cursor = min(len(self.text), self.cursor + 1)
            case Key.HOME:
                self.cursor = 0
            case Key.END:
                self.cursor = len(self.text)
            case Key.BACKSPACE if self.cursor:
                self.cursor -= 1
                self._erase(self.cursor, self.cursor + 1)
            case Key.DELETE:
                self._erase(self.cursor, self.cursor + 1)
            case Key.ERASE_TO_END:
                self._erase(self.cursor, len(self.text))
            case Key.ERASE_LINE:
                self._erase(0, self.cursor)
                self.cursor = 0

    def window(self, columns: int) -> tuple[str, int]:
        """The part of the text around the cursor that fits, one column a byte, and the cursor's column in it."""
        first = max(0, self.cursor - columns + 1)
        part = self.text[first : first + columns]
        return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in part), self.cursor - first

    def _erase(self, start: int, end: int) -> None:
        self.text = self.text[:start] + self.text[end:]
