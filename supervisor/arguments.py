# SPDX-License-Identifier: GPL-3.0-or-later
"""Argument vectors: every value that a command line or a caller gives goes through here, once.

Words come in as Python decoded them and leave as the very bytes that were given, in any locale; numbers are ASCII
digits and nothing else: no sign, no underscore, no exponent, no digits of other scripts.
"""

from __future__ import annotations

import os
import re

from domward.protocol import limits
from domward.protocol.errors import UsageError
from domward.protocol.text import has_control

IMAGE_FORMATS = ("raw", "qcow2")
LONGEST_TIMEOUT = 86_400.0  # seconds

_OFFSET = re.compile(r"[0-9]{1,19}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)


def as_bytes(word: str) -> bytes:
    """The bytes of a word of the command line, exactly as they were given. Raises UsageError."""
    try:
        return os.fsencode(word)  # the inverse of how Python decoded it
    except UnicodeEncodeError:
        raise UsageError("A word of the command line is not text that could have been given there.") from None


def entry(value: object) -> bytes:
    """A boot entry's number, title, id or "submenu>title", at most limits.TITLE_BYTES. Raises UsageError."""
    return _bytes("entry", value, limits.TITLE_BYTES)


def kernel_arguments(value: object) -> bytes:
    """A guest's command line: at most limits.CMDLINE_BYTES, no control characters. Raises UsageError."""
    found = _bytes("args", value, limits.CMDLINE_BYTES)
    if has_control(found):
        raise UsageError("args must not contain control characters.")
    return found


def guest_path(name: str, value: object) -> bytes:
    """A path on a guest's disk: 1 to limits.PATH_BYTES bytes, none of them NUL. Raises UsageError."""
    found = _bytes(name, value, limits.PATH_BYTES)
    if not found or 0 in found:
        raise UsageError(f"{name} must be a path on the guest's disk.")
    return found


def program_word(name: str, value: object) -> bytes:
    """A word for a bootloader program's argument vector, at most limits.PROGRAM_ARGUMENT_BYTES. Raises UsageError."""
    found = _bytes(name, value, limits.PROGRAM_ARGUMENT_BYTES)
    if b"\0" in found:
        raise UsageError(f"{name} must not contain NUL bytes.")
    return found


def offset(word: str) -> int | None:
    """A number of bytes from 0 to 2**63 - 1; None for anything else."""
    found = int(word) if _OFFSET.fullmatch(word) else -1
    return found if 0 <= found < 2**63 else None


def seconds(word: str) -> float | None:
    """A time-out above 0 and up to LONGEST_TIMEOUT; None for anything else."""
    found = float(word) if _SECONDS.fullmatch(word) else 0.0
    return found if 0 < found <= LONGEST_TIMEOUT else None


def _bytes(name: str, value: object, longest: int) -> bytes:
    if not isinstance(value, bytes) or len(value) > longest:
        raise UsageError(f"{name} must be at most {longest} bytes.")
    return value
