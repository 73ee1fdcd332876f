# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives up what a supervisor process of our own does not need of root's privileges, for good.

For processes that are ours alone: the `domward` command and the daemon. A `Supervisor` inside somebody's program never
does it, because the privileges are that program's; `domward doctor` shows what a process has.

What is kept is named here with its reason, for each kind of work. The rest leaves the bounding, permitted, effective,
inheritable and ambient sets; no_new_privs is set; and the system calls of protocol/policy/privileged.policy are refused
from then on. A launcher that is started later inherits all of it.

no_new_privs does not keep root from executing programs: they get at most the capabilities that are kept. Where they
need more (xl and what it starts set up block devices and networks), the work must name those as well.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from domward.protocol.errors import OperationFailed, UsageError
from domward.protocol.privileges import LAUNCHER_KEEPS, Capability, capability_bits, privileged_filter

from . import kernel
from .paths import PROC

#: For work on files that root may use, whoever owns them.
FILES: Mapping[Capability, str] = {
    Capability.DAC_OVERRIDE: "opens disks, output folders and logs that root may use, whoever owns them",
}

#: For confining helpers, and what comes with it.
CONFINING: Mapping[Capability, str] = {
    **FILES,
    **{capability: f"a launcher started later {reason}" for capability, reason in LAUNCHER_KEEPS.items()},
    Capability.CHOWN: "makes a pty root's, that no later helper of the same uid can claim it",
    Capability.MKNOD: "a launcher started later makes the devices of helpers' roots",
    Capability.AUDIT_WRITE: "writes completions to the kernel's audit",
    Capability.KILL: "ends helpers, which have uids of their own",
    Capability.SYS_PTRACE: "looks at a helper through proc; the system call itself is refused",
}

#: For running bootloader programs besides.
RUNNING_PROGRAMS: Mapping[Capability, str] = {
    **CONFINING,
    Capability.SYS_CHROOT: "enters the root of a helper that runs a program, to put the disk there",
}


def give_up(but: Mapping[Capability, str]) -> None:
    """Gives up all but `but`, as far as this process has it, from a process with one thread.

    Without root there is nothing to give up but what executing a program could bring. A kernel without seccomp refuses
    no calls: to confine there is refused by the supervisor, which records it, unless that layer is named as optional.
    Raises OperationFailed, and UsageError where there are other threads, which would keep everything.
    """
    if len(os.listdir(f"{PROC}/self/task")) > 1:
        raise UsageError("Privileges can only be given up before threads are started.")
    try:
        kept = [capability for capability in but if kernel.permitted_capabilities() >> capability & 1]
        if kernel.permitted_capabilities() & capability_bits([Capability.SETPCAP]):
            kernel.drop_bounding_set(but=kept)
        kernel.set_capabilities(kept)
        kernel.set_no_new_privs()
    except OSError as error:
        raise OperationFailed(f"Privileges could not be given up: {error.strerror}.") from error
    try:
        kernel.load_seccomp_filter(privileged_filter(kernel.MACHINE))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise OperationFailed(f"A seccomp filter could not be loaded: {error.strerror}.") from error
        return
    if kernel.refused_call_passes():
        raise OperationFailed("The seccomp filter was loaded and does not work.")
