# SPDX-License-Identifier: GPL-3.0-or-later
"""How each of our programs begins: the launcher first, which loads its own while the program loads the rest."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from domward.protocol.errors import DomwardError

from . import paths
from .streams import fill_closed

TYPE_CHECKING = False  # what type checkers take for true, without the cost of loading `typing`

if TYPE_CHECKING:
    from .launcher_process import LauncherProcess


def begin(work: Callable[[LauncherProcess | None], int], *, confines: bool, ordinary: bool = False) -> int:
    """Runs `work` with a launcher that it may take over, where it `confines` helpers, and returns its exit code.

    `work` loads what it needs when it is called. A launcher that it does not take is ended. The process of `ordinary`
    users becomes root of a user namespace before that; where it cannot, `user_namespace.settings` says so later.
    """
    # A wish to stop waits until there is somebody to see to it; the launcher starts with no signal blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    fill_closed()
    if confines and ordinary and os.geteuid() != 0:
        from . import user_namespace  # not for root, nor for who has the daemon do it

        with contextlib.suppress(DomwardError):
            user_namespace.enter()
    process = _early_launcher() if confines else None
    try:
        return work(process)
    finally:
        if process is not None:
            process.end()


def _early_launcher() -> LauncherProcess | None:
    if os.geteuid() != 0:
        return None
    from .launcher_process import LauncherProcess

    try:
        return LauncherProcess(os.fspath(paths.PYTHON))
    except OSError:
        return None  # the supervisor will try again, and say what is wrong
