# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that go through the daemon: list, show, attach, cancel, log, watch, metrics, wait, and `run --daemon`.

None of them needs root; what each may do is the daemon's to say.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from domward.protocol.client import Booted, Client, Screen, Submitted
from domward.protocol.control import OperationInfo
from domward.protocol.errors import OperationFailed, UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.text import readable_rows

from . import arguments, paths, report, report_control
from .bootloader import BootResult
from .converse import converse
from .delivery import deliver, output_folder
from .disks import open_disk
from .logs import chunks_of, read_log
from .sinks import SealedFile
from .streams import print_raw, print_result
from .terminal import ProgressLine, raw_console
from .watching import LiveTable

_OPERATION = re.compile(r"[a-z]{1,32}-[0-9a-f]{12}", re.ASCII)
_WHOLE_SECONDS = 0.5  # what is added before a time-out is cut to whole seconds, as the daemon takes them


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the commands to the parser of `domward`."""
    listing = add_command(commands, "list", "list the daemon's operations", _list)
    listing.add_argument("--all", action="store_true", help="also those that are over")
    listing.add_argument("--json", action="store_true", help="print one object for programs")

    show = add_command(commands, "show", "show one operation and the steps that it took", _show)
    _add_operation(show)
    show.add_argument("--json", action="store_true", help="print one object for programs")

    wait = add_command(commands, "wait", "wait for an operation's end, and take its result", _wait)
    _add_operation(wait)
    wait.add_argument("--output-dir", metavar="DIR", type=Path, help="write kernel, ramdisk and args there")
    wait.add_argument("--json", action="store_true", help="print one object for programs")

    attach = add_command(commands, "attach", "see an operation's console and type on it", _attach)
    _add_operation(attach)

    cancel = add_command(commands, "cancel", "end an operation", _cancel)
    _add_operation(cancel)

    log = add_command(commands, "log", "show what a console showed", _log)
    log.add_argument("log", metavar="OP|FILE", help="an operation of the daemon's, or a log of --log-dir")
    log.add_argument("--raw", action="store_true", help="give every byte as it came; a terminal may obey them")

    add_command(commands, "watch", "show the daemon's operations as they change", _watch)
    add_command(commands, "metrics", "print the daemon's counters in OpenMetrics form", _metrics)


def add_daemon_options(parser: argparse.ArgumentParser) -> None:
    """The options with which `run` and `inspect` have the daemon do it."""
    parser.add_argument("--daemon", action="store_true", help="have domwardd do it; needs no root")
    parser.add_argument("--detach", action="store_true", help="have domwardd do it, print its id and end at once")
    parser.add_argument("--label", metavar="TEXT", default="", help="with --daemon: what to call it in lists")
    _add_socket(parser)


def add_command(
    commands: argparse._SubParsersAction[Any],
    name: str,
    what: str,
    action: object,
) -> argparse.ArgumentParser:
    """A command that goes through the daemon: `what` it does is for the help, `action` does it."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, allow_abbrev=False)
    parser.set_defaults(action=action)
    _add_socket(parser)
    return parser


def _add_socket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket", metavar="PATH", type=Path, default=paths.CONTROL_SOCKET, help="where the daemon listens"
    )


def _add_operation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "operation", metavar="OP", help="the operation's id, or as much of its end as is unique; or a guest's name"
    )


def run_by_daemon(options: argparse.Namespace) -> int:
    """`domward run --daemon`: the disk is opened here, with the rights of who calls."""
    _require_daemons_own(options)
    if options.log_dir is not None:
        raise UsageError("The daemon keeps logs where its settings say.", advice="Leave --log-dir out.")
    if options.detach and options.output_dir is not None:
        raise UsageError("Who detaches gets no files.", advice="Give --output-dir to 'domward wait'.")
    with ExitStack() as stack:
        folder = stack.enter_context(output_folder(options.output_dir)) if options.output_dir else None
        client = stack.enter_context(client_of(options))
        disk = stack.enter_context(open_disk(options.disk))
        if options.detach:
            screen = Screen() if options.interactive else None  # who attaches says how large it is
            _print_submitted(_submitted(client, disk, options, screen), options)
            return 0
        _finish(client, _seen_through(client, disk, options), folder, options, stack)
    return 0


def _print_submitted(submitted: Submitted, options: argparse.Namespace) -> None:
    found = {"operation": submitted.operation}
    print_result([report.to_json(found) if options.json else submitted.operation])


def _finish(
    client: Client, submitted: Submitted, folder: Fd | None, options: argparse.Namespace, stack: ExitStack
) -> None:
    """Waits for the end, writes what boots into `folder` and tells of it."""
    line = ProgressLine(quiet=options.json or getattr(options, "interactive", False))
    try:
        booted = stack.enter_context(client.result(submitted, line.show))
    finally:
        line.clear()
    result = _result_of(booted)
    delivered = deliver(result, folder, options.output_dir) if folder else None
    if options.json:
        lines: Iterator[str] = iter([report.to_json(report.run_json(result, delivered))])
    else:
        lines = report.run_text(result, delivered)
    if folder is not None:
        stack.pop_all().close()  # what was delivered stays, also where it cannot be printed
    print_result([*lines])


def _require_daemons_own(options: argparse.Namespace) -> None:
    if options.no_audit or options.audit_log is not None:
        raise UsageError("The daemon keeps the audit log that its settings name.", advice="Leave these options out.")


def _seen_through(client: Client, disk: Fd, options: argparse.Namespace) -> Submitted:
    """Submits the run; its menu, if it has one, is on this terminal until it was left."""
    if not options.interactive:
        return _submitted(client, disk, options, None)
    with raw_console() as console:
        submitted = _submitted(client, disk, options, Screen(console.columns, console.rows))
        converse(client, client.attach(submitted.operation), console)
        return submitted


def _submitted(client: Client, disk: Fd, options: argparse.Namespace, screen: Screen | None) -> Submitted:
    return client.run(
        disk.fileno(),
        entry=None if options.entry is None else arguments.as_bytes(options.entry),
        args=None if options.args is None else arguments.as_bytes(options.args),
        kernel=None if options.kernel is None else arguments.as_bytes(options.kernel),
        ramdisk=None if options.ramdisk is None else arguments.as_bytes(options.ramdisk),
        offset=options.offset,
        image_format=options.format,
        bootloader=_bootloader(options.bootloader),
        bootloader_args=tuple(arguments.as_bytes(word) for word in options.bootloader_arg),
        seconds=_whole(options.timeout),
        console=screen,
        label=_label(options),
        detached=options.detach,
    )


def inspect_by_daemon(options: argparse.Namespace) -> int:
    """`domward inspect --daemon`."""
    _require_daemons_own(options)
    with client_of(options) as client, open_disk(options.disk) as disk:
        submitted = client.inspect(
            disk.fileno(),
            image_format=options.format,
            seconds=_whole(options.timeout),
            label=_label(options),
            detached=options.detach,
        )
        if options.detach:
            _print_submitted(submitted, options)
        else:
            _finish_inspection(client, submitted, options)
    return 0


def _finish_inspection(client: Client, submitted: Submitted, options: argparse.Namespace) -> None:
    line = ProgressLine(quiet=options.json)
    try:
        document = client.inspected(submitted, line.show)
    finally:
        line.clear()
    if document is None:
        raise _kept(submitted.operation)
    with document:
        content = b"".join(chunks_of(document))
    if options.json:
        print_result([content.decode("ascii")])
    else:
        print_result(report.inspect_text(report_control.inspection_of(json.loads(content))))


def _kept(operation: str) -> OperationFailed:
    return OperationFailed(
        f"{operation} is done, and its result is not to be had: it is another user's, or was not fetched in time.",
        advice=f"'domward show {operation}' tells what it did; 'result_seconds' of the settings is how long they wait.",
    )


def _whole(seconds: float) -> int:
    return max(1, int(seconds + _WHOLE_SECONDS))


def _bootloader(given: str) -> str:
    """The name of a bootloader, or the whole path of a program."""
    return os.path.abspath(given) if os.sep in given else given


def _label(options: argparse.Namespace) -> str:
    return report_control.fitting_label(options.label or str(options.disk))


def _result_of(booted: Booted) -> BootResult:
    completed = booted.completed
    if booted.kernel is None:
        raise _kept(completed.operation)
    ramdisk = booted.ramdisk
    return BootResult(
        operation=completed.operation,
        title=completed.title,
        args=completed.args,
        source=completed.source,
        kernel=SealedFile(booted.kernel, completed.kernel_bytes, completed.kernel_sha256),
        ramdisk=None if ramdisk is None else SealedFile(ramdisk, completed.ramdisk_bytes, completed.ramdisk_sha256),
        helpers=(),
    )


def client_of(options: argparse.Namespace) -> Client:
    """A connection to the daemon that the command line names."""
    return Client(options.socket, "domward")


def _list(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        found = client.list(finished=options.all)
    if options.json:
        print_result([report.to_json({"operations": [report_control.operation_json(info) for info in found]})])
    else:
        print_result(report_control.table(found))
    return 0


def _show(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        info, steps = client.show(operation_named(client, options.operation))
    if options.json:
        print_result([report.to_json(report_control.show_json(info, steps))])
    else:
        print_result(report_control.show_text(info, steps))
    return 0


def _cancel(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        name = operation_named(client, options.operation)
        end_operation(client, name)
    print_result([f"{name} is over."])
    return 0


def end_operation(client: Client, name: str) -> None:
    """Has the operation `name` end, and waits until it has."""
    waiting = client.wait(name)
    client.cancel(name)
    received = client.next_of(waiting.request, None)
    if received is not None:
        received.close()


def _wait(options: argparse.Namespace) -> int:
    with ExitStack() as stack:
        folder = stack.enter_context(output_folder(options.output_dir)) if options.output_dir else None
        client = stack.enter_context(client_of(options))
        name = operation_named(client, options.operation)
        info, _steps = client.show(name)
        if info.kind != "boot" and folder is not None:
            what = "An inspection" if info.kind == "inspect" else "A guest"
            raise UsageError(f"{what} has no files to write.", advice="Leave --output-dir out.")
        submitted = client.wait(name)
        match info.kind:
            case "inspect":
                _finish_inspection(client, submitted, options)
            case "guest":
                _finish_guest(client, submitted, options)
            case _:
                _finish(client, submitted, folder, options, stack)
    return 0


def _finish_guest(client: Client, submitted: Submitted, options: argparse.Namespace) -> None:
    """Tells how a guest ended by itself."""
    ended = client.ended(submitted)
    if options.json:
        print_result([report.to_json(report_control.ended_json(ended))])
    else:
        print_result([f"{printable(ended.label)} ended: {ended.death.value}, after {ended.starts} start(s)."])


def _attach(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        name = operation_named(client, options.operation)
        with raw_console("attach") as console:
            ended = converse(client, client.attach(name), console)
    print_result([f"{name}: the console has ended." if ended else f"{name}: detached; it goes on."])
    return 0


def _log(options: argparse.Namespace) -> int:
    if _OPERATION.fullmatch(options.log) and not os.path.lexists(options.log):
        with client_of(options) as client:
            log = client.log(options.log)
        with log:
            _print_log(chunks_of(log), raw=options.raw)
    else:
        _print_log(read_log(Path(options.log)), raw=options.raw)
    return 0


def _print_log(chunks: Iterator[bytes], *, raw: bool) -> None:
    if raw:
        print_raw(chunks)
    else:
        print_result(readable_rows(chunks))


def _watch(options: argparse.Namespace) -> int:
    with client_of(options) as client, LiveTable() as table:
        number = client.watch()
        with contextlib.suppress(KeyboardInterrupt):  # the one way to end it, and no failure
            for message in client.messages(number):
                if isinstance(message, OperationInfo):
                    table.change(message)
                table.show(more=client.waiting())
    return 0


def _metrics(options: argparse.Namespace) -> int:
    with client_of(options) as client:
        print_result(client.metrics().splitlines())
    return 0


def operation_named(client: Client, given: str) -> str:
    """The id that ends with `given`, or the operation of the live guest that is called so.

    Raises UsageError where there is none or more than one.
    """
    if _OPERATION.fullmatch(given):
        return given
    if not given:
        raise UsageError("An operation has an id.", advice="'domward list --all' shows the ids.")
    known = client.list(finished=True)
    guests = [info.operation for info in known if info.kind == "guest" and info.label == given and not info.ended]
    found = guests or [info.operation for info in known if info.operation.endswith(given)]
    if len(found) != 1:
        raise UsageError(
            f"{len(found) or 'No'} operations have an id that ends so, and no guest that runs has that name.",
            advice="'domward list --all' shows the ids.",
        )
    return found[0]
