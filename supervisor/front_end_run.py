# SPDX-License-Identifier: GPL-3.0-or-later
"""The bootloader operation of `domward-bootloader` where there is no daemon: one supervisor in this process."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import OperationCancelled
from domward.protocol.records import replaced

from . import interrupts, privileges
from .audit.place import default_log
from .audit.record import Domain
from .bootloader import BootRequest, BootResult
from .config import Budgets, Config
from .front_end_arguments import BUILTIN, FrontEndOptions
from .front_end_output import Bootable, SealedBytes
from .launcher_process import LauncherProcess
from .silence import keep_logs_quiet
from .supervisor import Supervisor
from .terminal import raw_console


def boot_here(options: FrontEndOptions, process: LauncherProcess | None, stack: ExitStack, *, own: bool) -> Bootable:
    """What boots, once every helper is dead; its files are closed with `stack`. Raises as `Supervisor` does."""
    keep_logs_quiet()
    if own:
        runs_program = options.bootloader != BUILTIN
        privileges.give_up(privileges.RUNNING_PROGRAMS if runs_program else privileges.CONFINING)
    result = interrupts.run(_boot(options, process))
    stack.callback(result.close)
    kernel, ramdisk = result.kernel, result.ramdisk
    return Bootable(
        SealedBytes(kernel.fd, kernel.size),
        None if ramdisk is None else SealedBytes(ramdisk.fd, ramdisk.size),
        result.args,
    )


async def _boot(options: FrontEndOptions, process: LauncherProcess | None) -> BootResult:
    budgets = Budgets(wall_seconds=options.seconds or limits.WALL_SECONDS)
    config = Config(budgets=budgets, audit_log=default_log())
    runs_program = options.bootloader != BUILTIN
    request = BootRequest(
        disk=options.disk,
        bootloader=Path(options.bootloader) if os.sep in options.bootloader else options.bootloader,
        entry=options.entry,
        args=options.args if runs_program else None,  # a program appends them itself, as pygrub does
        extra=None if runs_program else options.args,
        kernel=options.kernel,
        ramdisk=options.guest_ramdisk,
        offset=options.offset,
        image_format=options.image_format,
        domain=None if options.domid is None else Domain(id=options.domid),
    )
    async with Supervisor(config, process) as supervisor:
        with ExitStack() as stack:
            if options.wants_menu:
                request = replaced(request, console=stack.enter_context(raw_console()), may_skip_menu=True)
            operation = supervisor.bootloader_operation(request)
            try:
                return await operation.complete()
            except asyncio.CancelledError:
                raise OperationCancelled("The operation was cancelled.", operation=operation.id) from None
