# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of `domward-bootloader`: from the toolstack's argument vector to its answer, or to one sentence of error.

In the order of time: arguments; output directory and answer opened; the bootloader operation, by the daemon where one
listens and otherwise here; every helper dead; kernel, ramdisk, answer. What it loads before it knows that there is no
daemon is kept small: a toolstack waits for every create.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import domward
from domward.protocol import limits
from domward.protocol.errors import DomwardError

from .front_end_arguments import FrontEndOptions, parse
from .front_end_client import boot_by_daemon
from .front_end_output import Bootable, answer_file, deliver_answer, output_directory
from .outcomes import error_line, outcome
from .streams import print_error, print_result

TYPE_CHECKING = False  # what type checkers take for true, without the cost of loading `typing`

if TYPE_CHECKING:
    from .launcher_process import LauncherProcess

# libxl throws away what it has not read from the pty when it sees our end (bootloader_finished).
_LAST_WORDS_SECONDS = 0.1

_HELP = """\
usage: domward-bootloader [--output=FILE] [--output-format=simple0|simple|sxp]
                          [--output-directory=DIR] [--quiet | --interactive]
                          [--entry=N|TITLE] [--kernel=PATH [--ramdisk=PATH]]
                          [--args=STRING] [--offset=N] [--runas=UID] [--debug]
                          [--bootloader=builtin|pygrub|PATH]
                          [--format=raw|qcow2] [--timeout=S] DISK

Takes what boots off a guest's disk in confined helper processes, for a
toolstack that calls it in pygrub's place. See domward-bootloader(1)."""


def main(given: Sequence[str], process: LauncherProcess | None = None, *, own: bool = False) -> int:
    """Serves the argument vector `given` and returns the exit code. `process` is a launcher that may be taken over.

    `own` says that this process is the program's alone: it then gives up the privileges that its work does not take.
    """
    return outcome(lambda: _serve(given, process, own=own), _fail)


def _fail(error: DomwardError) -> int:
    print_error(error_line(error))
    if sys.stderr is not None and sys.stderr.isatty():
        time.sleep(_LAST_WORDS_SECONDS)
    return error.exit_code


def _serve(given: Sequence[str], process: LauncherProcess | None, *, own: bool) -> int:
    match given:
        case ["-h" | "--help"]:
            print_result([_HELP])
            return 0
        case ["--version"]:
            print_result([f"domward-bootloader {domward.__version__}"])
            return 0
    options = parse(given)
    if options.ramdisk is not None and options.kernel is None:
        print_error("domward: --ramdisk is not used without --kernel: the boot entry names its own.")
    with ExitStack() as stack:
        # Opened first: what cannot be used is found before any work, and the reader of a FIFO sees its end.
        folder = stack.enter_context(output_directory(options.directory))
        file = stack.enter_context(answer_file(options.output, options.seconds or limits.WALL_SECONDS))
        result = boot_by_daemon(options, stack) or _boot_here(options, process, stack, own=own)
        deliver_answer(result, options.output_format, folder, options.directory, file)
    return 0


def _boot_here(options: FrontEndOptions, process: LauncherProcess | None, stack: ExitStack, *, own: bool) -> Bootable:
    from . import front_end_run

    return front_end_run.boot_here(options, process, stack, own=own)
