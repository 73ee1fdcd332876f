# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on what the host has only so much of."""

from __future__ import annotations

from .attacker import Attacker
from .syscalls import F_DUPFD_CLOEXEC, MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from .table import attack, stop

GIB = 1 << 30
RLIMITS = "rlimits"


@attack(by=stop(RLIMITS, "ENOMEM"), without=stop(RLIMITS, "ENOMEM"))
def take_all_memory(attacker: Attacker) -> None:
    """Have more memory than a helper may, in one piece."""
    attacker.call("mmap", 0, 2 * GIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)


@attack(by=stop(RLIMITS, "ENOMEM"), without=stop(RLIMITS, "ENOMEM"))
def take_all_memory_in_pieces(attacker: Attacker) -> None:
    """Have more memory than a helper may, 64 MiB at a time."""
    attacker.repeat(32, "mmap", 0, GIB // 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)


@attack(without=stop("rlimits", "EMFILE"))
def use_up_its_fds(attacker: Attacker) -> None:
    """Open files until the host has no room for more."""
    attacker.repeat(4096, "dup", 0)


@attack(by=stop(RLIMITS, "EMFILE"), without=stop(RLIMITS, "EMFILE"), kinds=("datacopier",), peers=False)
def use_up_its_fds_as_it_may(attacker: Attacker) -> None:
    """The same with the one call that the datacopier may copy an fd with."""
    attacker.repeat(4096, "fcntl", 0, F_DUPFD_CLOEXEC, 0)
