# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of fds: another number for the same open file, with an owner of its own."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence

from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd, close_all


def copies_of(fds: Sequence[Fd]) -> list[Fd]:
    """A copy of each of `fds`, or none at all and OperationFailed."""
    copies: list[Fd] = []
    try:
        for fd in fds:
            number = fcntl.fcntl(fd.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
            copies.append(Fd(number, fd.name))
    except OSError as error:
        close_all(copies)
        raise OperationFailed(f"A result's file could not be handed on: {error.strerror}.") from error
    return copies
