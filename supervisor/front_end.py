# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry point of `domward-bootloader`, which toolstacks start in pygrub's place.

The contract is libxl's (tools/libs/light/libxl_bootloader.c): the program is the leader of a session on a pty that
stays open until it exits, since a hang-up before is answered with SIGTERM; it exits 0 only when the files in the output
directory and the answer that names them are complete; and what it says goes to the pty, which libxl logs.
"""

from __future__ import annotations

import os
import sys

from . import paths
from .beginning import begin

TYPE_CHECKING = False  # what type checkers take for true, without the cost of loading `typing`

if TYPE_CHECKING:
    from .launcher_process import LauncherProcess

_ONLY_TELLING = (["-h"], ["--help"], ["--version"])


def main() -> int:
    """Runs the process's command line and returns the exit code."""
    given = sys.argv[1:]

    def work(process: LauncherProcess | None) -> int:
        from . import front_end_session

        return front_end_session.main(given, process, own=True)

    # Where there is a daemon it has a launcher; where it turns out not to be there, ours begins later than it could.
    return begin(work, confines=given not in _ONLY_TELLING and not os.path.exists(paths.CONTROL_SOCKET))
