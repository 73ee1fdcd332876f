# SPDX-License-Identifier: GPL-3.0-or-later
"""How each of our programs begins and ends: as quickly as it can, because a toolstack waits for every create.

The launcher is first, which loads its own while the program loads the rest; at the end nothing is taken apart that the
kernel takes back anyway.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable

from domward.protocol.errors import DomwardError

from . import paths
from .asyncio_diet import begin_diet
from .streams import fill_closed

TYPE_CHECKING = False  # what type checkers take for true, without the cost of loading `typing`

if TYPE_CHECKING:
    from .launcher_process import LauncherProcess


# Objects made between two looks for garbage: what loading modules makes is none, and looking took a twentieth of it.
_COLLECTED_AFTER = 100_000


def begin(work: Callable[[LauncherProcess | None], int], *, confines: bool, ordinary: bool = False) -> int:
    """Runs `work` with a launcher that it may take over, where it `confines` helpers, and ends with its exit code.

    Returns that only where standard output cannot take what is left for it, which the interpreter then tells of.

    `work` loads what it needs when it is called. A launcher that it does not take is ended. The process of `ordinary`
    users becomes root of a user namespace before that; where it cannot, `user_namespace.settings` says so later.
    """
    # A wish to stop waits until there is somebody to see to it; the launcher starts with no signal blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    fill_closed()
    gc.set_threshold(_COLLECTED_AFTER)
    if confines and ordinary and os.geteuid() != 0:
        from . import user_namespace  # not for root, nor for who has the daemon do it

        with contextlib.suppress(DomwardError):
            user_namespace.enter()
    process = None
    if confines:
        process = _early_launcher()
        begin_diet()
    try:
        code = work(process)
    finally:
        if process is not None:
            process.end()
    _leave(code)
    return code


def _leave(code: int) -> None:
    """Ends the process as the interpreter would, without taking every module apart: that takes longer than starting."""
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        return
    os._exit(code)


def _early_launcher() -> LauncherProcess | None:
    if os.geteuid() != 0:
        return None
    from .launcher_process import LauncherProcess

    try:
        return LauncherProcess(os.fspath(paths.PYTHON))
    except OSError:
        return None  # the supervisor will try again, and say what is wrong
