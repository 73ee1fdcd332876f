# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts attacks in place of the helpers' work: runs in the launcher of a test, and then in the helpers forked from it.

A helper gets its confinement, its channel and its fds for real; then, if the notebook says that its kind is the one
that a guest has taken over, it performs the ordered attack instead of its work. The bootloader helper otherwise
answers when its terminal is hung up, so that an attack of the datacopier has its time.
"""

from __future__ import annotations

from collections.abc import Callable

from domward.protocol.channel import Channel
from domward.protocol.messages import HelperKind

from .attacker import Notebook, perform
from .everything import ATTACKS
from .helper_attacker import HelperAttacker

Work = Callable[[Channel], int]


def plant(run: dict[HelperKind, Work], path: str) -> None:
    """Puts attacks in place of the work in `run`, the launcher's table, as the notebook at `path` orders."""
    notebook = Notebook(path)
    for kind, real in tuple(run.items()):
        if kind is not HelperKind.PROGRAM:  # there, the attacker is the program itself
            run[kind] = _work(kind, real, notebook)


def _work(kind: HelperKind, real: Work, notebook: Notebook) -> Work:
    def work(channel: Channel) -> int:
        order = notebook.wanted()
        if order["kind"] == kind.value:
            attacker = HelperAttacker(notebook, order["targets"], channel)
            perform(ATTACKS[order["attack"]].work, attacker, notebook)
            return 0
        if kind is HelperKind.BOOTLOADER:
            HelperAttacker(notebook, order["targets"], channel).be_patient()
            return 0
        return real(channel)

    return work
