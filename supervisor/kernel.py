# SPDX-License-Identifier: GPL-3.0-or-later
"""The raw calls of this side: timerfd_create(2), which Python has from 3.13 on."""

from __future__ import annotations

import ctypes
import os

from domward.protocol.errors import OperationFailed
from domward.protocol.fds import Fd

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLOCK_MONOTONIC = 1  # <linux/time.h>
_TFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # TFD_CLOEXEC, TFD_NONBLOCK
_NANOSECONDS = 1_000_000_000
_LONGEST_SECONDS = 86_400.0  # a deadline further off is looked at again after a day


class _Itimerspec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "value_s", "value_ns")]


class Alarm:
    """A timerfd: an fd that is readable once the time that was set is over. Owns the fd."""

    def __init__(self) -> None:
        """Raises OperationFailed."""
        ctypes.set_errno(0)
        number = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if number < 0:
            raise OperationFailed(f"A timer could not be made: {os.strerror(ctypes.get_errno())}.")
        self._fd = Fd(number, "timer")

    def fileno(self) -> int:
        """The fd's number."""
        return self._fd.fileno()

    def set(self, seconds: float | None) -> None:
        """Makes it readable after `seconds` from now, 0 for at once, and never for None. Ends what was set before."""
        value = 0 if seconds is None else max(1, int(min(seconds, _LONGEST_SECONDS) * _NANOSECONDS))
        when = _Itimerspec(0, 0, *divmod(value, _NANOSECONDS))
        ctypes.set_errno(0)
        if _LIBC.timerfd_settime(self.fileno(), 0, ctypes.byref(when), None) < 0:
            raise OperationFailed(f"A timer could not be set: {os.strerror(ctypes.get_errno())}.")

    def close(self) -> None:
        """Closes the fd. Idempotent."""
        self._fd.close()
