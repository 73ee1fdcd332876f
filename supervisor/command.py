# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry point of the `domward` command.

What is known not to need a launcher does not get one; what turns out not to need it ends it.
"""

from __future__ import annotations

import sys

from .beginning import begin
from .launcher_process import LauncherProcess

_CONFINING = frozenset({"run", "inspect", "doctor"})
_NOT_CONFINING = frozenset({"-h", "--help", "--version", "--daemon", "--detach"})


def main() -> int:
    """Runs the process's command line and returns the exit code."""
    given = sys.argv[1:]

    def work(process: LauncherProcess | None) -> int:
        from . import cli

        return cli.main(given, process, own=True)

    confines = bool(_CONFINING.intersection(given[:1])) and not _NOT_CONFINING.intersection(given)
    return begin(work, confines=confines, ordinary=True)
