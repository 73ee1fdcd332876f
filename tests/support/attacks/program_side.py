# SPDX-License-Identifier: GPL-3.0-or-later
"""A bootloader program that is an attack: what to attack is its first word, and what came of it is on its terminal.

It is packed with the attacks into one file, which a confined helper runs as any other bootloader program.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from .attacker import Attacker, perform
from .outside_helpers import ATTACKS

MARK = "@ "  # begins each line of the report


class Voice:
    """A notebook that is spoken: each note is a line on the terminal, which is logged outside."""

    def note(self, line: str) -> None:
        """Says a line."""
        os.write(1, f"{MARK}{line}\n".encode())


class ProgramAttacker(Attacker):
    """An attacker who is the bootloader: he has libxl's words, a terminal, and the disk's path."""

    def __init__(self, voice: Voice, targets: dict[str, Any], words: list[str]) -> None:
        self.disk = words[-1]
        self.output = next(word.partition("=")[2] for word in words if word.startswith("--output="))
        self.folder = next(word.partition("=")[2] for word in words if word.startswith("--output-directory="))
        super().__init__(voice, targets, {"terminal": 0, "disk": os.open(self.disk, os.O_RDONLY)})

    def result(self, name: str = "kernel") -> str:
        """Where a result belongs."""
        return f"{self.folder}/{name}"

    def deliver(self, kernel: str | None = None, content: bytes = b"1234") -> None:
        """Writes a kernel and names it in the output, or names `kernel`."""
        if kernel is None:
            kernel = self.result()
            with open(kernel, "wb") as file:
                file.write(content)
        self.write(f"kernel {kernel}\0args a\0\0".encode())

    def write(self, output: bytes) -> None:
        """Writes the output file."""
        with open(self.output, "wb") as file:
            file.write(output)


def main() -> int:
    """Performs what the first word that is not an option names; returns 0."""
    order = json.loads(next(word for word in sys.argv[1:] if word.startswith("{")))
    voice = Voice()
    attacker = ProgramAttacker(voice, order["targets"], sys.argv[1:])
    perform(ATTACKS[order["attack"]].work, attacker, voice)
    return 0
