# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry point of the `domward` command: starts the launcher, then loads the rest while the launcher loads its own.

What is known not to need a launcher does not get one; what turns out not to need it ends it.
"""

from __future__ import annotations

import os
import signal
import sys

from . import paths
from .launcher_process import LauncherProcess
from .streams import fill_closed

_CONFINING = frozenset({"run", "inspect", "doctor"})
_ONLY_TELLING = frozenset({"-h", "--help", "--version"})


def main() -> int:
    """Runs the process's command line and returns the exit code."""
    # A wish to stop waits until there is somebody to see to it; the launcher starts with no signal blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    fill_closed()
    given = sys.argv[1:]
    process = _early_launcher(given)
    try:
        from . import cli

        return cli.main(given, process)
    finally:
        if process is not None:
            process.end()


def _early_launcher(given: list[str]) -> LauncherProcess | None:
    if os.geteuid() != 0 or not _CONFINING.intersection(given[:1]) or _ONLY_TELLING.intersection(given):
        return None
    try:
        return LauncherProcess(os.fspath(paths.PYTHON))
    except OSError:
        return None  # the supervisor will try again, and say what is wrong
