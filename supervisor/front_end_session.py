# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of `domward-bootloader`: from the toolstack's argument vector to its answer, or to one sentence of error.

In the order of time: arguments; output directory and answer opened; the bootloader operation, on the terminal that the
toolstack gave where a menu is wanted; its supervisor closed, so that every helper is dead; kernel, ramdisk, answer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import domward
from domward.protocol.errors import DomwardError, OperationCancelled

from . import interrupts, privileges
from .audit.place import default_log
from .bootloader import BootRequest, BootResult
from .config import Budgets, Config
from .front_end_arguments import FrontEndOptions, parse
from .front_end_output import answer_file, deliver_answer, output_directory
from .launcher_process import LauncherProcess
from .outcomes import error_line, outcome
from .streams import print_error, print_result
from .supervisor import Supervisor
from .terminal import raw_console

# libxl throws away what it has not read from the pty when it sees our end (bootloader_finished).
_LAST_WORDS_SECONDS = 0.1

_HELP = """\
usage: domward-bootloader [--output=FILE] [--output-format=simple0|simple|sxp]
                          [--output-directory=DIR] [--quiet | --interactive]
                          [--entry=N|TITLE] [--kernel=PATH [--ramdisk=PATH]]
                          [--args=STRING] [--offset=N] [--runas=UID] [--debug]
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
    if own:
        privileges.give_up(privileges.CONFINING)
    with ExitStack() as stack:
        # Opened first: what cannot be used is found before any work, and the reader of a FIFO sees its end.
        folder = stack.enter_context(output_directory(options.directory))
        file = stack.enter_context(answer_file(options.output, options.seconds))
        result = interrupts.run(_boot(options, process))
        stack.callback(result.close)
        deliver_answer(result, options.output_format, folder, options.directory, file)
    return 0


async def _boot(options: FrontEndOptions, process: LauncherProcess | None) -> BootResult:
    config = Config(budgets=Budgets(wall_seconds=options.seconds), audit_log=default_log())
    request = _request(options)
    async with Supervisor(config, process) as supervisor:
        with ExitStack() as stack:
            if options.interactive and _has_terminal():
                request = replace(request, console=stack.enter_context(raw_console()), may_skip_menu=True)
            operation = supervisor.bootloader_operation(request)
            try:
                return await operation.complete()
            except asyncio.CancelledError:
                raise OperationCancelled("The operation was cancelled.", operation=operation.id) from None


def _request(options: FrontEndOptions) -> BootRequest:
    with_kernel = options.kernel is not None
    if options.ramdisk is not None and not with_kernel:
        print_error("domward: --ramdisk is not used without --kernel: the boot entry names its own.")
    return BootRequest(
        disk=options.disk,
        entry=options.entry,
        extra=options.args,
        kernel=options.kernel,
        ramdisk=options.ramdisk if with_kernel else None,
        offset=options.offset,
        image_format=options.image_format,
    )


def _has_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
