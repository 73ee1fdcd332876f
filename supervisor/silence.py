# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps log records off a program's standard error, which is for its one line of error."""

from __future__ import annotations

import logging


def keep_logs_quiet() -> None:
    """For programs: what helpers and the event loop log says nothing that the line of an error does not say."""
    for name in ("domward", "asyncio"):
        logging.getLogger(name).addHandler(logging.NullHandler())
