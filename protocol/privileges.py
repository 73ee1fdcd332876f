# SPDX-License-Identifier: GPL-3.0-or-later
"""What the privileged processes keep of root's privileges, and what they are refused: named, each with its reason.

The launcher cuts itself to LAUNCHER_KEEPS as it starts, and the supervisor looks at it from outside before it asks for
the first helper. What the supervisor keeps is its own matter (`domward.supervisor.privileges`). The system calls that
both are refused are those of policy/privileged.policy beside this module.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Mapping

from . import seccomp


class Capability(enum.IntEnum):
    """All of <linux/capability.h>."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    FOWNER = 3
    FSETID = 4
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    LINUX_IMMUTABLE = 9
    NET_BIND_SERVICE = 10
    NET_BROADCAST = 11
    NET_ADMIN = 12
    NET_RAW = 13
    IPC_LOCK = 14
    IPC_OWNER = 15
    SYS_MODULE = 16
    SYS_RAWIO = 17
    SYS_CHROOT = 18
    SYS_PTRACE = 19
    SYS_PACCT = 20
    SYS_ADMIN = 21
    SYS_BOOT = 22
    SYS_NICE = 23
    SYS_RESOURCE = 24
    SYS_TIME = 25
    SYS_TTY_CONFIG = 26
    MKNOD = 27
    LEASE = 28
    AUDIT_WRITE = 29
    AUDIT_CONTROL = 30
    SETFCAP = 31
    MAC_OVERRIDE = 32
    MAC_ADMIN = 33
    SYSLOG = 34
    WAKE_ALARM = 35
    BLOCK_SUSPEND = 36
    AUDIT_READ = 37
    PERFMON = 38
    BPF = 39
    CHECKPOINT_RESTORE = 40


LAUNCHER_KEEPS: Mapping[Capability, str] = {
    Capability.SETGID: "gives each helper a gid of its own and takes its supplementary groups away",
    Capability.SETUID: "gives each helper a uid of its own",
    Capability.SETPCAP: "empties each helper's bounding set and locks its securebits",
    Capability.SYS_ADMIN: "makes each helper's namespaces and its root",
}


def privileged_filter(machine: str) -> bytes:
    """The seccomp filter of the supervisor and the launcher, for `machine`. Raises UsageError."""
    with open(os.path.join(os.path.dirname(__file__), "policy", "privileged.policy"), encoding="ascii") as file:
        return seccomp.compile_denials(seccomp.parse(file.read(), "privileged"), machine)


def capability_names(bits: int) -> tuple[str, ...]:
    """The names of a set of capabilities, as capabilities(7) writes them; one that is newer than this as its number."""
    known = {capability.value: capability.name.lower() for capability in Capability}
    return tuple(f"cap_{known.get(number, number)}" for number in range(64) if bits >> number & 1)


def capability_bits(capabilities: Iterable[Capability]) -> int:
    """The set as the kernel writes it: one bit for each."""
    return sum(1 << capability for capability in set(capabilities))
