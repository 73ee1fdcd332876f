# SPDX-License-Identifier: GPL-3.0-or-later
"""Ownership of file descriptors.

Every fd has one owner, an `Fd`. States: open -> closed, or open -> detached (ownership handed on). By cases:

- `close()` on open closes the number once; on closed or detached it does nothing (idempotent).
- `fileno()` on closed or detached raises `UsageError`: a stale number is never handed to the kernel, where
  it might already name something else.
- An `Fd` that is collected while open closes it and warns (ResourceWarning), so that tests fail on it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from types import TracebackType

from .errors import UsageError


class Fd:
    """One owned, close-on-exec file descriptor with a name for error messages."""

    __slots__ = ("_number", "name")

    def __init__(self, number: int, name: str) -> None:
        self._number = number
        self.name = name
        if number < 0:
            raise UsageError(f"The file descriptor for {name} must be 0 or more, not {number}.")

    def __repr__(self) -> str:
        return f"<Fd {self.name} {self._number if self._number >= 0 else 'closed'}>"

    def fileno(self) -> int:
        """The number, still owned by this object. Raises UsageError once closed or detached."""
        if self._number < 0:
            raise UsageError(f"The file descriptor for {self.name} is closed already.")
        return self._number

    @property
    def closed(self) -> bool:
        """Whether this object no longer owns a number."""
        return self._number < 0

    def detach(self) -> int:
        """Gives the number away: the caller owns it from now on."""
        number = self.fileno()
        self._number = -1
        return number

    def close(self) -> None:
        """Closes the number if it is still owned. Never raises: close() reports no error one could act on here."""
        number, self._number = self._number, -1
        if number >= 0:
            try:
                os.close(number)
            except OSError:
                # EIO and EINTR leave the number closed on Linux; EBADF is a bug that the leak check of the tests finds.
                return

    def __enter__(self) -> Fd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_number", -1) >= 0:
            warning = f"unclosed {self!r}"
            self.close()  # first: where warnings are errors, the next line raises
            warnings.warn(warning, ResourceWarning, stacklevel=2, source=self)


def close_all(fds: Iterable[Fd]) -> None:
    """Closes every one of `fds`, in reverse order."""
    for fd in reversed(list(fds)):
        fd.close()
