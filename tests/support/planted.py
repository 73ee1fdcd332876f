# SPDX-License-Identifier: GPL-3.0-or-later
"""Launchers that misbehave: the real one, in which some code of a test's was planted before it began.

    config = Config(python=planted(tmp_path, "launcher._RUN[HelperKind.PTY] = lambda channel: 0"))

The code runs in the launcher's interpreter, which then goes on as always: confined for real, helpers forked for real.
"""

from __future__ import annotations

import sys
from pathlib import Path

_BEFORE = """
import errno, fcntl, mmap, os, resource, signal, socket, struct, sys, threading, time
from domward.helpers import bootloader, confinement, datacopier, kernel, launcher, pty
from domward.protocol import seccomp, wire
from domward.protocol.layers import Layer
from domward.protocol.messages import *


def refuse(*arguments, **named):
    raise OSError(errno.EPERM, "Operation not permitted")


def in_the_helper(change):
    'Has `change` called in each helper, before its confinement.'
    confine = launcher.confine

    def changed(*arguments):
        change()
        return confine(*arguments)

    launcher.confine = changed
"""


def planted(folder: Path, code: str) -> Path:
    """What to give as `Config.python`: something that starts the launcher after `code` was run in its interpreter."""
    module, program = folder / "planted_launcher.py", folder / "planted-python"
    module.write_text(f"{_BEFORE}\n{code}\n\nsys.exit(launcher.main())\n")
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -I {module}\n")
    program.chmod(0o755)
    return program
