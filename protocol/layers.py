# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers of a helper's confinement, in the order in which they are put on.

The order is DESIGN's: identity first, while the capabilities that the later steps need are kept; the filter
that closes everything, seccomp, last. `LOST_WITHOUT` says what a host without the layer gives up.
"""

from __future__ import annotations

import enum


class Layer(enum.Enum):
    """One layer; the value is its stable name in configuration, messages, `doctor` and the audit log."""

    __hash__ = object.__hash__  # each member is one object; that of Enum is Python code that looks at its name

    USER = "user"
    GROUPS = "groups"
    MOUNT = "mount-namespace"
    PID = "pid-namespace"
    NETWORK = "network-namespace"
    IPC = "ipc-namespace"
    UTS = "uts-namespace"
    CGROUP = "cgroup-namespace"
    RLIMITS = "rlimits"
    CAPABILITIES = "capabilities"
    SECUREBITS = "securebits"
    NO_NEW_PRIVS = "no-new-privs"
    DUMPABLE = "dumpable"
    PARENT_DEATH = "parent-death-signal"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"


LOST_WITHOUT = {
    Layer.USER: "helpers would share a uid with something else and could signal it or exhaust its limits",
    Layer.GROUPS: "helpers would keep the supplementary groups of whoever started domward",
    Layer.MOUNT: "helpers would see the host's files",
    Layer.PID: "helpers would see and could address the host's processes",
    Layer.NETWORK: "helpers would reach the host's networks and abstract sockets",
    Layer.IPC: "helpers would reach the host's System V IPC and message queues",
    Layer.UTS: "helpers would learn the host's name",
    Layer.CGROUP: "helpers would see where the host puts them in the cgroup tree",
    Layer.RLIMITS: "a helper could use all memory, time and disk of the host",
    Layer.CAPABILITIES: "a helper would keep privileges of root",
    Layer.SECUREBITS: "a helper that became uid 0 would get root's capabilities back",
    Layer.NO_NEW_PRIVS: "a helper could gain privileges by executing a set-uid program",
    Layer.DUMPABLE: "another process of the helper's uid could trace it and read its memory",
    Layer.PARENT_DEATH: "a helper could outlive a killed supervisor until it reads from its channel",
    Layer.LANDLOCK: "the empty root and seccomp alone would keep a helper from files, without a second opinion",
    Layer.SECCOMP: "a helper could use every system call, so every kernel bug that one of them has",
}

#: The namespaces' names under /proc/PID/ns.
NAMESPACE_FILES = {
    Layer.MOUNT: "mnt",
    Layer.PID: "pid",
    Layer.NETWORK: "net",
    Layer.IPC: "ipc",
    Layer.UTS: "uts",
    Layer.CGROUP: "cgroup",
}
