# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount namespace for the test run, so that the programs under test keep their records where nobody else looks.

Commands that the tests start write to /var/log/domward by default. In this namespace that is an empty tmpfs, mounted
before the first test and gone with the last process of the run; the host's own folder, and what is in it, stay.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

LOGS = Path("/var/log/domward")
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_LIBC = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Makes the namespace for this process and those that it starts; only root can. Raises OSError."""
    LOGS.mkdir(mode=0o755, exist_ok=True)
    _checked(_LIBC.unshare(_CLONE_NEWNS))
    _checked(_LIBC.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
    _checked(_LIBC.mount(b"tmpfs", os.fsencode(LOGS), b"tmpfs", ctypes.c_ulong(0), b"mode=0750,size=256m"))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
