# SPDX-License-Identifier: GPL-3.0-or-later
"""A console as an operation is given one."""

from __future__ import annotations

import os
from collections.abc import Callable

from domward.protocol import limits
from domward.protocol.errors import UsageError
from domward.protocol.records import field, mutable


@mutable(eq=False)
class Console:
    """Where a person sits: fd numbers that stay the caller's, and the size in characters.

    The size may change while an operation uses it: call `resize`, from any thread or signal handler.
    """

    input: int
    output: int
    columns: int = 80
    rows: int = 24
    _watchers: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            _require_integer(name, getattr(self, name))
        if self.input < 0 or self.output < 0:
            raise UsageError(f"A console's fds must be 0 or more, not {self.input} and {self.output}.")
        _require_size(self.columns, self.rows)

    def resize(self, columns: int, rows: int) -> None:
        """Tells whoever uses it that it has another size. Raises UsageError."""
        _require_size(columns, rows)
        if (columns, rows) != (self.columns, self.rows):
            self.columns, self.rows = columns, rows
            for watcher in [*self._watchers]:
                watcher()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls `changed` after each change of the size, where `resize` is called; returns what ends that."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def require_open(self) -> None:
        """Raises UsageError where one of the fds is not open: its number would soon be that of one of ours."""
        for number in (self.input, self.output):
            try:
                os.fstat(number)
            except OSError as error:
                raise UsageError(f"The console's fd {number} cannot be used: {error.strerror}.") from None


def _require_integer(name: str, value: object) -> None:
    if type(value) is not int:
        raise UsageError(f"A console's {name} must be an integer, not {type(value).__name__}.")


def _require_size(columns: int, rows: int) -> None:
    _require_integer("columns", columns)
    _require_integer("rows", rows)
    if not (0 < columns <= limits.SCREEN and 0 < rows <= limits.SCREEN):
        raise UsageError(f"A console has 1 to {limits.SCREEN} columns and rows, not {columns} and {rows}.")
