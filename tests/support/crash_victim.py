# SPDX-License-Identifier: GPL-3.0-or-later
"""A program with a supervisor, to be killed at a moment of its one operation.

    python -m support.crash_victim VARIANT MOMENT FOLDER STATE_DIRECTORY

At the moment it writes a line and stops there, within the supervisor's own step, until it is killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from domward.supervisor import Config, Supervisor
from support.crash_points import VARIANTS, Life, watched


def stop_here(_life: Life) -> None:
    os.write(1, b"here\n")
    while True:
        signal.pause()


async def main(variant: str, moment: str, folder: str, state: str) -> None:
    life = Life(moment, stop_here)
    async with Supervisor(Config(state_directory=Path(state))) as supervisor:
        with VARIANTS[variant].operation(supervisor, Path(folder)) as operation:
            await life.live(operation)


with watched():
    asyncio.run(main(*sys.argv[1:]))
