# SPDX-License-Identifier: GPL-3.0-or-later
"""What stops each attack inside a bootloader program, whose policy allows what ordinary programs do.

The files, processes and limits of a program are its own, so much of what its policy allows meets the next layer at
once; and some of what programs ask for in passing is refused by the filter with an error in place of death.
"""

from __future__ import annotations

from .table import ATTACKS, SECCOMP, Stop, stop

PROGRAM = "program"

#: Allowed by the policy, so that the next layer shows at once.
_NEXT_LAYER = """
read-a-file read-a-private-file write-a-file open-with-the-old-call open-with-the-flags-of-a-pty climb-out
read-through-the-root-of-another make-a-symlink make-a-folder make-a-file link-a-file remove-a-file
rename-a-file truncate-a-file change-the-mode-of-a-file look-whether-a-file-is-there look-with-statx
list-a-folder watch-a-file run-a-program run-code-of-its-own set-a-sysctl read-memory-through-proc
read-the-environment-of-a-process kill-a-process kill-a-thread fork-bomb
fork-with-clone take-all-memory take-all-memory-in-pieces use-up-its-fds use-up-all-ptys open-device-mem
open-device-kvm open-device-fuse open-device-net-tun open-device-kmsg open-device-loop-control open-device-tty1
make-a-device
"""
NEXT_LAYER = frozenset(_NEXT_LAYER.split())

#: Refused by the filter with this error.
REFUSED = {
    "ENOSYS": "open-with-the-new-call run-a-program-from-memory fork-with-clone3",
    "EPERM": "become-root become-root-with-the-old-call become-group-root join-a-group slow-a-process-down "
    "limit-a-process pin-a-process run-more-often raise-its-limits",
    "ENOTSUP": "set-an-attribute",
    "EINVAL": "unlock-the-securebits raise-an-ambient-capability take-back-no-new-privs become-dumpable",
}
SOCKETS = stop(SECCOMP.by, "EAFNOSUPPORT", "prevented")

#: Without seccomp, where a program meets another layer than a helper does.
WITHOUT = {
    **dict.fromkeys(
        ("run-a-program", "fork-bomb", "fork-with-clone", "fork-with-clone3", "clone-into-a-user-namespace"),
        stop("nothing", "succeeded"),
    ),
    **dict.fromkeys(
        ("make-a-symlink", "make-a-folder", "make-a-file", "make-a-device"), stop("mount-namespace", "EROFS")
    ),
}


def _with_seccomp(name: str, without: Stop) -> Stop:
    if name in NEXT_LAYER:
        return without
    for error, names in REFUSED.items():
        if name in names.split():
            return stop(SECCOMP.by, error)
    return SOCKETS if ATTACKS[name].theme == "network" else SECCOMP


def expect() -> None:
    """Adds the column of programs to every attack that makes sense outside helpers."""
    for name, attack in ATTACKS.items():
        if attack.peers:
            without = WITHOUT.get(name) or attack.without["bootloader"]
            attack.without[PROGRAM] = without
            attack.by[PROGRAM] = _with_seccomp(name, without)
