# SPDX-License-Identifier: GPL-3.0-or-later
"""A console as an operation is given one."""

from __future__ import annotations

import os
from dataclasses import dataclass

from domward.protocol.errors import UsageError

_LARGEST = 1000  # columns or rows, as the messages take them


@dataclass(frozen=True, slots=True)
class Console:
    """Where a person sits: fd numbers that stay the caller's, and the size in characters."""

    input: int
    output: int
    columns: int = 80
    rows: int = 24

    def __post_init__(self) -> None:
        for name in ("input", "output", "columns", "rows"):
            if type(getattr(self, name)) is not int:
                raise UsageError(f"A console's {name} must be an integer, not {type(getattr(self, name)).__name__}.")
        if self.input < 0 or self.output < 0:
            raise UsageError(f"A console's fds must be 0 or more, not {self.input} and {self.output}.")
        if not (0 < self.columns <= _LARGEST and 0 < self.rows <= _LARGEST):
            raise UsageError(f"A console has 1 to {_LARGEST} columns and rows, not {self.columns} and {self.rows}.")

    def require_open(self) -> None:
        """Raises UsageError where one of the fds is not open: its number would soon be that of one of ours."""
        for number in (self.input, self.output):
            try:
                os.fstat(number)
            except OSError as error:
                raise UsageError(f"The console's fd {number} cannot be used: {error.strerror}.") from None
