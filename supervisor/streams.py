# SPDX-License-Identifier: GPL-3.0-or-later
"""Standard output and error of a command, which may be closed, full, or a terminal that has hung up."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable

from domward.protocol.errors import OperationFailed

from . import paths


def fill_closed() -> None:
    """Opens /dev/null in place of each of fds 0, 1 and 2 that is closed, so that nothing else gets their numbers."""
    while (number := os.open(paths.NULL_DEVICE, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def print_result(lines: Iterable[str]) -> None:
    """Writes `lines`, and all that was printed before, to standard output. Raises OperationFailed."""
    try:
        if sys.stdout is None:  # Python found it closed when it started
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError as error:
        if sys.stdout is not None:
            _give_up(sys.stdout.fileno())
        raise OperationFailed(f"The result could not be written to standard output: {error.strerror}.") from error


def print_raw(chunks: Iterable[bytes]) -> None:
    """Writes `chunks` to standard output as they are. Raises OperationFailed."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    except OSError as error:
        if sys.stdout is not None:
            _give_up(sys.stdout.fileno())
        raise OperationFailed(f"The result could not be written to standard output: {error.strerror}.") from error


def print_error(line: str) -> None:
    """Writes `line` to standard error, if that can be had."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except OSError:
            _give_up(sys.stderr.fileno())


def _give_up(number: int) -> None:
    """Lets what is still buffered for the fd `number` vanish: Python would try to write it again at its exit."""
    with contextlib.suppress(OSError):
        null = os.open(paths.NULL_DEVICE, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, number)
        os.close(null)
