# SPDX-License-Identifier: GPL-3.0-or-later
"""The bootloader operation of `domward-bootloader` where a daemon runs: it has a launcher ready, and the records.

The disk is opened here, as the toolstack's user, and so is the terminal; the daemon gets the open disk, and gives back
sealed files.
"""

from __future__ import annotations

import math
from contextlib import ExitStack

from domward.protocol import limits
from domward.protocol.client import Client, DaemonGone, Screen
from domward.protocol.errors import OperationCancelled, OperationFailed, printable

from . import paths
from .converse import converse
from .disks import open_disk
from .front_end_arguments import BUILTIN, FrontEndOptions
from .front_end_output import Bootable, SealedBytes
from .terminal import raw_console


def boot_by_daemon(options: FrontEndOptions, stack: ExitStack) -> Bootable | None:
    """What boots, once the daemon's helpers are dead; its files are closed with `stack`. None where none listens.

    Raises the daemon's errors, and DaemonGone where it goes away before the end.
    """
    runs_program = options.bootloader != BUILTIN
    try:
        client = Client(paths.CONTROL_SOCKET, "domward-bootloader")
    except DaemonGone:
        return None
    with client, open_disk(options.disk) as disk, ExitStack() as terminal:
        console = terminal.enter_context(raw_console()) if options.wants_menu else None
        submitted = client.run(
            disk.fileno(),
            entry=options.entry,
            args=options.args if runs_program else None,  # a program appends them itself, as pygrub does
            extra=None if runs_program else options.args,
            bootloader=options.bootloader,
            kernel=options.kernel,
            ramdisk=options.guest_ramdisk,
            offset=options.offset,
            image_format=options.image_format,
            seconds=0 if options.seconds is None else math.ceil(options.seconds),
            console=None if console is None else Screen(console.columns, console.rows, may_skip_menu=True),
            label=printable(str(options.disk))[-limits.LABEL_BYTES :],
            domid=options.domid,
        )
        if console is not None:
            attached = client.attach(submitted.operation)
            if not converse(client, attached, console, detach=None):
                raise OperationCancelled("The console went away.")
        booted = client.result(submitted)
    stack.callback(booted.close)
    if booted.kernel is None:
        raise OperationFailed("The daemon kept the result to itself.")
    completed = booted.completed
    return Bootable(
        SealedBytes(booted.kernel, completed.kernel_bytes),
        None if booted.ramdisk is None else SealedBytes(booted.ramdisk, completed.ramdisk_bytes),
        completed.args,
    )
