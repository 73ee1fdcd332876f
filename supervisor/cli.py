# SPDX-License-Identifier: GPL-3.0-or-later
"""The `domward` command: arguments in, one outcome out.

Results go to stdout, errors to stderr as ``domward: CODE: sentence``, and the exit code is the error's (see
`protocol/errors`). No error shows a traceback; an unexpected one is a defect, and says so in the same form.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TypeVar

import domward
from domward.protocol import limits
from domward.protocol.errors import (
    ConfinementUnavailable,
    DomwardError,
    OperationCancelled,
    OperationFailed,
    UsageError,
    printable,
)

from . import report
from .bootloader import IMAGE_FORMATS, BootRequest, BootResult, InspectResult
from .config import Budgets, Config
from .delivery import deliver, open_folder
from .doctor import diagnose
from .operations import Operation
from .relay import Console
from .supervisor import Supervisor
from .terminal import ProgressLine, raw_console

_LONGEST_TIMEOUT = 86_400.0

ResultT = TypeVar("ResultT")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line `arguments`, by default the process's own, and returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in given
    try:
        try:
            options = _parser().parse_args(given)
            code: int = options.action(options)
        except KeyboardInterrupt:
            raise OperationCancelled("Interrupted.") from None
        except MemoryError:
            raise OperationFailed("domward ran out of memory.", code="out-of-memory") from None
        sys.stdout.flush()
    except DomwardError as error:
        return _fail(error, as_json=as_json)
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not try to flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort: a person gets a sentence, never a traceback
        return _fail(OperationFailed(f"domward has a defect: {type(error).__name__}: {error}."), as_json=as_json)
    return code


def _fail(error: DomwardError, *, as_json: bool) -> int:
    sys.stderr.write(f"domward: {error.code}: {error}\n")
    if as_json:
        sys.stdout.write(report.to_json(report.error_json(error)) + "\n")
        sys.stdout.flush()
    return error.exit_code


class _Parser(argparse.ArgumentParser):
    """argparse with errors in our form."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", advice=f"'{self.prog} --help' shows what there is.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="domward",
        description="Runs a Xen guest's bootloader in confined, throw-away helper processes.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"domward {domward.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser("run", help="take kernel, ramdisk and arguments off a disk", allow_abbrev=False)
    run.set_defaults(action=_run)
    _add_common(run)
    run.add_argument("--bootloader", metavar="NAME", default="builtin", help="builtin (the only one in this version)")
    run.add_argument("--entry", metavar="N|TITLE", help="the entry's number from 0, title, id, or 'submenu>title'")
    run.add_argument("--args", metavar="STR", help="kernel arguments in place of the entry's")
    run.add_argument("--output-dir", metavar="DIR", type=Path, help="write kernel, ramdisk and args there")
    run.add_argument("--interactive", action="store_true", help="show the boot menu on this terminal")

    inspect = commands.add_parser("inspect", help="list what could boot, and why the rest cannot", allow_abbrev=False)
    inspect.set_defaults(action=_inspect)
    _add_common(inspect)

    doctor = commands.add_parser("doctor", help="report which layers of confinement this host has", allow_abbrev=False)
    doctor.set_defaults(action=_doctor)
    doctor.add_argument("--json", action="store_true", help="print one object for programs")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("disk", metavar="DISK", type=Path, help="a disk image or a block device")
    parser.add_argument("--format", choices=IMAGE_FORMATS, help="the image's format (default: recognise it)")
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=limits.WALL_SECONDS, help="end after S seconds (default: 120)"
    )
    parser.add_argument("--json", action="store_true", help="print one object for programs")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise argparse.ArgumentTypeError(f"{printable(text)} is not a number of seconds above 0, up to 86400")
    return seconds


def _run(options: argparse.Namespace) -> int:
    if options.bootloader != "builtin":
        raise UsageError(
            f"There is no bootloader {printable(options.bootloader)} in this version.", advice="Use 'builtin'."
        )
    request = BootRequest(
        disk=options.disk,
        entry=None if options.entry is None else os.fsencode(options.entry),
        args=None if options.args is None else os.fsencode(options.args),
        image_format=options.format,
    )
    with ExitStack() as stack:
        # Opened first: a folder that cannot be used is found before any work, not after.
        folder = stack.enter_context(open_folder(options.output_dir)) if options.output_dir else None
        result = asyncio.run(_boot(options, request))
        stack.callback(result.close)
        delivered = deliver(result, folder, options.output_dir) if folder else None
        if options.json:
            _print([report.to_json(report.run_json(result, delivered))])
        else:
            _print(report.run_text(result, delivered))
    return 0


async def _boot(options: argparse.Namespace, request: BootRequest) -> BootResult:
    async with Supervisor(_config(options)) as supervisor:
        with ExitStack() as stack:
            if options.interactive:
                console: Console = stack.enter_context(raw_console())
                request = replace(request, console=console)
            return await _watched(supervisor.bootloader_operation(request), quiet=options.json or options.interactive)


def _inspect(options: argparse.Namespace) -> int:
    result = asyncio.run(_look(options))
    if options.json:
        _print([report.to_json(report.inspect_json(result))])
    else:
        _print(report.inspect_text(result))
    return 0


async def _look(options: argparse.Namespace) -> InspectResult:
    async with Supervisor(_config(options)) as supervisor:
        return await _watched(supervisor.inspect_operation(options.disk, options.format), quiet=options.json)


def _doctor(options: argparse.Namespace) -> int:
    diagnosis = asyncio.run(diagnose(Config()))
    if options.json:
        _print([report.to_json(report.doctor_json(diagnosis))])
    else:
        _print(report.doctor_text(diagnosis))
    return 0 if diagnosis.usable else ConfinementUnavailable.exit_code


def _config(options: argparse.Namespace) -> Config:
    return Config(budgets=Budgets(wall_seconds=options.timeout))


async def _watched(operation: Operation[ResultT], *, quiet: bool) -> ResultT:
    """Completes `operation` with progress on the terminal; SIGINT, SIGTERM and SIGHUP cancel it."""
    loop = asyncio.get_running_loop()
    line = ProgressLine(quiet=quiet)
    operation.on_progress(line.show)
    cancel: Callable[[], None] = operation.cancel
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, cancel)
    try:
        return await operation.complete()
    finally:
        line.clear()
        for number in signals:
            loop.remove_signal_handler(number)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
