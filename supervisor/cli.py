# SPDX-License-Identifier: GPL-3.0-or-later
"""The `domward` command: arguments in, one outcome out.

Results go to stdout, errors to stderr as ``domward: CODE: sentence``, and the exit code is the error's (see
`protocol/errors`). No error shows a traceback; an unexpected one is a defect, and says so in the same form.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import domward
from domward.protocol import limits
from domward.protocol.errors import DomwardError, OperationCancelled, RefusedError, UsageError, printable
from domward.protocol.layers import Layer
from domward.protocol.records import replaced

from . import arguments, cli_audit, cli_control, cli_guests, interrupts, privileges, programs, report, user_namespace
from .audit.place import default_log
from .bootloader import BootRequest, BootResult, InspectResult
from .config import Budgets, Config
from .console import Console
from .delivery import deliver, output_folder
from .doctor import diagnose
from .launcher_process import LauncherProcess
from .operations import Operation
from .outcomes import error_line, outcome
from .silence import keep_logs_quiet
from .streams import print_error, print_result
from .supervisor import Supervisor
from .terminal import ProgressLine, raw_console

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

ResultT = TypeVar("ResultT")


def main(given: Sequence[str], process: LauncherProcess | None = None, *, own: bool = False) -> int:
    """Runs the command line `given` and returns the exit code. `process` is a launcher that may be taken over.

    `own` says that this process is the command's alone: it then gives up the privileges that its work does not take.
    """
    as_json = "--json" in given[: given.index("--") if "--" in given else None]
    keep_logs_quiet()
    return outcome(lambda: _run_command(given, process, own=own), lambda error: _fail(error, as_json=as_json))


def _run_command(given: Sequence[str], process: LauncherProcess | None, *, own: bool) -> int:
    try:
        options = _parser().parse_args(given)
    except SystemExit:  # --help or --version was printed; errors are UsageErrors
        return 0
    options.process = process
    if own:
        privileges.give_up(options.keeps)
    code: int = options.action(options)
    return code


def _fail(error: DomwardError, *, as_json: bool) -> int:
    print_error(error_line(error))
    if as_json:
        with contextlib.suppress(DomwardError):  # that output is closed or full is perhaps the very error
            print_result([report.to_json(report.error_json(error))])
    return error.exit_code


class _Parser(argparse.ArgumentParser):
    """argparse with errors in our form."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", advice=f"'{self.prog} --help' shows what there is.")

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Prints the help to standard output, whatever `file`; argparse's own hides that it failed."""
        del file
        print_result([self.format_help().rstrip("\n")])


class _Version(argparse.Action):
    """Prints the version to standard output and ends; argparse's own hides that it failed."""

    def __call__(self, parser: argparse.ArgumentParser, *_given: object) -> None:
        print_result([f"domward {domward.__version__}"])
        parser.exit()


class _Bootloader(argparse.Action):
    """Takes the bootloader, and has the command keep what a program needs beyond the built-in reader."""

    def __call__(
        self, _parser: argparse.ArgumentParser, options: argparse.Namespace, value: object, _word: str | None = None
    ) -> None:
        options.bootloader = value
        options.keeps = privileges.CONFINING if value == programs.BUILTIN else privileges.RUNNING_PROGRAMS


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="domward",
        description="Runs a Xen guest's bootloader in confined, throw-away helper processes.",
        allow_abbrev=False,
    )
    parser.set_defaults(keeps=privileges.FILES)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser("run", help="take kernel, ramdisk and arguments off a disk", allow_abbrev=False)
    run.set_defaults(action=_run, keeps=privileges.CONFINING)
    _add_common(run)
    run.add_argument(
        "--bootloader",
        metavar="NAME|PATH",
        action=_Bootloader,
        default=programs.BUILTIN,
        help="builtin, pygrub or a program's path",
    )
    run.add_argument("--bootloader-arg", metavar="ARG", action="append", default=[], help="a word for that program")
    run.add_argument("--kernel", metavar="PATH", help="the kernel's path on the guest's disk, in place of an entry's")
    run.add_argument("--ramdisk", metavar="PATH", help="the ramdisk's path there, with --kernel")
    run.add_argument("--offset", metavar="N", type=_offset, help="where the file system to look at begins, in bytes")
    run.add_argument("--entry", metavar="N|TITLE", help="the entry's number from 0, title, id, or 'submenu>title'")
    run.add_argument("--args", metavar="STR", help="kernel arguments in place of the entry's")
    run.add_argument("--output-dir", metavar="DIR", type=Path, help="write kernel, ramdisk and args there")
    run.add_argument("--interactive", action="store_true", help="show the boot menu on this terminal")
    run.add_argument("--log-dir", metavar="DIR", type=Path, help="keep a log there of what was shown")

    inspect = commands.add_parser("inspect", help="list what could boot, and why the rest cannot", allow_abbrev=False)
    inspect.set_defaults(action=_inspect, keeps=privileges.CONFINING)
    _add_common(inspect)

    cli_control.add_to(commands)
    cli_guests.add_to(commands)

    doctor = commands.add_parser("doctor", help="report which layers of confinement this host has", allow_abbrev=False)
    doctor.set_defaults(action=_doctor, keeps=privileges.CONFINING)
    _add_layers(doctor)
    doctor.add_argument("--json", action="store_true", help="print one object for programs")
    cli_audit.add_to(commands)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("disk", metavar="DISK", type=Path, help="a disk image or a block device")
    parser.add_argument("--format", choices=arguments.IMAGE_FORMATS, help="the image's format (default: recognise it)")
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=limits.WALL_SECONDS, help="end after S seconds (default: 120)"
    )
    parser.add_argument("--json", action="store_true", help="print one object for programs")
    audit = parser.add_mutually_exclusive_group()
    audit.add_argument("--audit-log", metavar="FILE", type=Path, help="the audit log (default: this host's)")
    audit.add_argument("--no-audit", action="store_true", help="keep no record of this run")
    cli_control.add_daemon_options(parser)
    _add_layers(parser)


def _add_layers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--optional-layer",
        metavar="LAYER",
        dest="optional_layers",
        action="append",
        type=_layer,
        default=[],
        help="do without LAYER, as 'domward doctor' names it, where this host lacks it; may be repeated",
    )


def _layer(text: str) -> Layer:
    try:
        return Layer(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{printable(text)} is no layer; there are {', '.join(layer.value for layer in Layer)}"
        ) from None


def _seconds(text: str) -> float:
    seconds = arguments.seconds(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"{printable(text)} is not a number of seconds above 0, up to 86400")
    return seconds


def _offset(text: str) -> int:
    offset = arguments.offset(text)
    if offset is None:
        raise argparse.ArgumentTypeError(f"{printable(text)} is not a number of bytes")
    return offset


def _word(word: str | None) -> bytes | None:
    return None if word is None else arguments.as_bytes(word)


def _run(options: argparse.Namespace) -> int:
    if options.daemon or options.detach:
        return cli_control.run_by_daemon(options)
    named = options.bootloader in (programs.BUILTIN, programs.PYGRUB) or os.sep not in options.bootloader
    request = BootRequest(
        disk=options.disk,
        bootloader=options.bootloader if named else Path(options.bootloader),
        bootloader_args=tuple(arguments.as_bytes(word) for word in options.bootloader_arg),
        entry=_word(options.entry),
        args=_word(options.args),
        kernel=_word(options.kernel),
        ramdisk=_word(options.ramdisk),
        offset=options.offset,
        image_format=options.format,
    )
    if request.runs_program and user_namespace.entered():
        raise RefusedError(
            "Only root can run a bootloader program: its disk takes a mount or a device node of root's.",
            advice="Use 'builtin', or have the daemon do it (--daemon).",
        )
    if options.log_dir is not None and not (options.interactive or request.runs_program):
        raise UsageError("--log-dir keeps what --interactive shows.", advice="Give both, or neither.")
    config = _config(options)
    with ExitStack() as stack:
        # Opened first: a folder that cannot be used is found before any work, not after.
        folder = stack.enter_context(output_folder(options.output_dir)) if options.output_dir else None
        result = interrupts.run(_boot(options, config, request))
        stack.callback(result.close)
        delivered = deliver(result, folder, options.output_dir) if folder else None
        stack.pop_all().close()  # what was delivered stays, also where it cannot be printed
        if options.json:
            print_result([report.to_json(report.run_json(result, delivered))])
        else:
            print_result(report.run_text(result, delivered))
    return 0


async def _boot(options: argparse.Namespace, config: Config, request: BootRequest) -> BootResult:
    async with Supervisor(config, options.process) as supervisor:
        with ExitStack() as stack:
            if options.interactive:
                console: Console = stack.enter_context(raw_console())
                request = replaced(request, console=console)
            return await _watched(supervisor.bootloader_operation(request), quiet=options.json or options.interactive)


def _inspect(options: argparse.Namespace) -> int:
    if options.daemon or options.detach:
        return cli_control.inspect_by_daemon(options)
    result = interrupts.run(_look(options))
    if options.json:
        print_result([report.to_json(report.inspect_json(result))])
    else:
        print_result(report.inspect_text(result))
    return 0


async def _look(options: argparse.Namespace) -> InspectResult:
    async with Supervisor(_config(options), options.process) as supervisor:
        return await _watched(supervisor.inspect_operation(options.disk, options.format), quiet=options.json)


def _doctor(options: argparse.Namespace) -> int:
    settings, problem = user_namespace.Settings(), None
    try:
        settings = user_namespace.settings()
    except DomwardError as error:
        problem = error
    config = Config(optional_layers=frozenset(options.optional_layers), **settings)
    diagnosis = interrupts.run(diagnose(config, options.process, problem))
    if options.json:
        print_result([report.to_json(report.doctor_json(diagnosis))])
    else:
        print_result(report.doctor_text(diagnosis))
    if diagnosis.error is None:
        return 0
    print_error(error_line(diagnosis.error))
    return diagnosis.error.exit_code


def _config(options: argparse.Namespace) -> Config:
    kept = getattr(options, "log_dir", None)
    return Config(
        budgets=Budgets(wall_seconds=options.timeout),
        log_directory=None if kept is None else Path.cwd() / kept,
        audit_log=_audit_log(options),
        optional_layers=frozenset(options.optional_layers),
        **user_namespace.settings(),
    )


def _audit_log(options: argparse.Namespace) -> Path | None:
    if options.no_audit:
        return None
    return default_log() if options.audit_log is None else Path.cwd() / options.audit_log


async def _watched(operation: Operation[ResultT], *, quiet: bool) -> ResultT:
    """Completes `operation` with progress on the terminal."""
    line = ProgressLine(quiet=quiet)
    operation.on_progress(line.show)
    try:
        return await operation.complete()
    except asyncio.CancelledError:
        raise OperationCancelled("The operation was cancelled.", operation=operation.id) from None
    finally:
        line.clear()
