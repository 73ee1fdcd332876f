# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon's processes take of the host, for its counters: psutil tells."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import psutil

from domward.protocol.records import frozen

HELPERS = "helpers"  # the name under which the processor time of all helpers that have ended stands


@frozen
class Usage:
    """Of one process: resident memory in bytes, processor time in seconds, open fds; None where it does not apply."""

    memory: int | None
    seconds: float
    fds: int | None


def usage_of(own_name: str, others: Mapping[str, int]) -> dict[str, Usage]:
    """By name: of this process, of its ended children together (HELPERS), and of `others` by pid, if they are there."""
    own = psutil.Process()
    with own.oneshot():
        times = own.cpu_times()
        found = {
            own_name: Usage(own.memory_info().rss, times.user + times.system, own.num_fds()),
            HELPERS: Usage(None, times.children_user + times.children_system, None),
        }
    for name, pid in others.items():
        with contextlib.suppress(psutil.Error):  # it has just ended
            other = psutil.Process(pid)
            with other.oneshot():
                times = other.cpu_times()
                found[name] = Usage(other.memory_info().rss, times.user + times.system, other.num_fds())
    return found
