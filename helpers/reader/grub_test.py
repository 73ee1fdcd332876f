# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB's `test` command, also written `[ ... ]` (GRUB manual, "test")."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason

from .boot_paths import BootPaths

_NUMBER = re.compile(rb"[+-]?[0-9]{1,18}+")

_STRINGS: dict[bytes, Callable[[bytes, bytes], bool]] = {
    b"=": lambda a, b: a == b,
    b"==": lambda a, b: a == b,
    b"!=": lambda a, b: a != b,
    b"<": lambda a, b: a < b,
    b"<=": lambda a, b: a <= b,
    b">": lambda a, b: a > b,
    b">=": lambda a, b: a >= b,
}
_NUMBERS: dict[bytes, Callable[[int, int], bool]] = {
    b"-eq": lambda a, b: a == b,
    b"-ne": lambda a, b: a != b,
    b"-lt": lambda a, b: a < b,
    b"-le": lambda a, b: a <= b,
    b"-gt": lambda a, b: a > b,
    b"-ge": lambda a, b: a >= b,
}
_UNARY = frozenset((b"-d", b"-e", b"-f", b"-s", b"-n", b"-z"))


def number(text: bytes) -> int:
    """The number that `text` begins with, as strtol; 0 where there is none."""
    match = _NUMBER.match(text)
    return int(match.group()) if match else 0


class ConditionTest:
    """One evaluation of `test words`; files without a device are looked for on the device `root`."""

    def __init__(self, words: Sequence[bytes], paths: BootPaths, root: bytes) -> None:
        self._words = words
        self._paths = paths
        self._root = root
        self._at = 0

    def result(self, depth: int = 0) -> bool:
        """What the words up to the end, or to the closing parenthesis, amount to; `-a` binds closer than `-o`."""
        if depth > limits.CONFIG_NESTING:
            raise DiskError(DiskReason.BUDGET, "the boot configuration nests its tests too deeply")
        either, both, inverted = False, self._at < len(self._words), False
        while self._at < len(self._words):
            self._paths.budget.step()
            word = self._words[self._at]
            if (binary := self._binary()) is not None:
                value = binary
            elif word == b")":
                self._at += 1
                break
            elif word == b"(":
                self._at += 1
                value = self.result(depth + 1)
            elif word in (b"!", b"-a", b"-o"):
                self._at += 1
                inverted ^= word == b"!"
                if word == b"-o":
                    either, both = either or both, True
                continue
            elif word in _UNARY and self._at + 1 < len(self._words):
                value = self._unary(word, self._words[self._at + 1])
                self._at += 2
            else:
                value = bool(word)
                self._at += 1
            both = both and value is not inverted
            inverted = False
        return either or both

    def _binary(self) -> bool | None:
        """The comparison at hand, None where the next words are none."""
        if self._at + 2 >= len(self._words):
            return None
        left, operator, right = self._words[self._at : self._at + 3]
        if operator in _STRINGS:
            value = _STRINGS[operator](left, right)
        elif operator in _NUMBERS:
            value = _NUMBERS[operator](number(left), number(right))
        else:
            return None
        self._at += 3
        return value

    def _unary(self, operator: bytes, operand: bytes) -> bool:
        if operator == b"-n":
            return bool(operand)
        if operator == b"-z":
            return not operand
        location = self._paths.locate(operand, self._root)
        if location is None:
            return False
        if operator == b"-d":
            return self._paths.is_folder(location)
        if operator == b"-e":
            return self._paths.exists(location)
        file = self._paths.file(location)
        return file is not None and (operator == b"-f" or file.size > 0)
