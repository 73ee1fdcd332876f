# SPDX-License-Identifier: GPL-3.0-or-later
"""Performs one attack in a process of a peer: pygrub, or a program in bubblewrap's sandbox.

The notebook is mapped before the peer gives up its privilege, as it is in a helper. Runs in the system's Python.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from . import files, network, privileges, processes, resources, terminals  # noqa: F401 - they fill the table
from .attacker import Attacker, Notebook, perform
from .table import ATTACKS

EXIT_DONE = 23  # what no peer ends with by itself


class Prisoner:
    """The process, from the time when it still has its privilege."""

    def __init__(self, path: str) -> None:
        self._notebook = Notebook(path)

    def attack(self) -> NoReturn:
        """Performs what is ordered, and ends the process at once."""
        order = self._notebook.wanted()
        try:
            perform(ATTACKS[order["attack"]].work, Attacker(self._notebook, order["targets"], {}), self._notebook)
        finally:
            sys.stdout.flush()
            _exit(EXIT_DONE)


def _exit(code: int) -> NoReturn:
    import os

    os._exit(code)


if __name__ == "__main__":
    Prisoner(sys.argv[1]).attack()
