# SPDX-License-Identifier: GPL-3.0-or-later
"""Performs attacks in a process of a peer: pygrub, or a program in bubblewrap's sandbox.

The notebook is mapped while the peer still has its privilege, as it is in a helper. Runs in the system's Python.
"""

from __future__ import annotations

import os
from typing import NoReturn

from .attacker import Attacker, Notebook, perform
from .outside_helpers import ATTACKS

EXIT_DONE = 23


class Prisoner:
    """The process, from the time when it still has its privilege."""

    def __init__(self, path: str) -> None:
        self._notebook = Notebook(path)

    def attack(self) -> NoReturn:
        """Performs what is ordered, one attack after another, and ends the process at once."""
        order = self._notebook.wanted()
        attacker = Attacker(self._notebook, order["targets"], {})
        try:
            for name in order["attacks"]:
                self._notebook.note(f"attack {name}")
                perform(ATTACKS[name].work, attacker, self._notebook)
        finally:
            os._exit(EXIT_DONE)
