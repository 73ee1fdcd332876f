# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel that lacks something, for one command: a seccomp filter around it answers as such a kernel does.

    domward("run", disk, before=older_kernel("landlock"))

A filter sees no flags of clone3(2), and so cannot refuse namespaces: "net-namespaces" and its like run the command as
root of a user namespace where the number of those is limited to 0, as an administrator may do for a whole host.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

SO_PASSPIDFD, PIDFD_GET_INFO, PR_SET_SECCOMP = 76, 0xC040FF0B, 22
NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
FEATURES = ("landlock", "seccomp", "so-passpidfd", "pidfd-get-info", "close-range")
# All ids that helpers get; not the whole range, as the first user namespace of a host has it.
_IDS = "0 0 2000000000"
_CLONE_NEWUSER = 0x10000000


def older_kernel(feature: str) -> tuple[str, ...]:
    """The words before a command that is to run without `feature`, one of FEATURES or "NAME-namespaces"."""
    assert feature in FEATURES or feature.removesuffix("-namespaces") in NAMESPACES
    return (sys.executable, "-I", __file__, feature)


def _refuse(feature: str) -> None:
    import pyseccomp

    def rule(error: int, call: str, *conditions: object) -> None:
        filter_.add_rule(pyseccomp.ERRNO(error), call, *conditions)

    filter_ = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    match feature:
        case "landlock":
            rule(errno.ENOSYS, "landlock_create_ruleset")
        case "seccomp":
            rule(errno.ENOSYS, "seccomp")
            rule(errno.EINVAL, "prctl", pyseccomp.Arg(0, pyseccomp.EQ, PR_SET_SECCOMP))
        case "so-passpidfd":
            rule(errno.ENOPROTOOPT, "setsockopt", pyseccomp.Arg(2, pyseccomp.EQ, SO_PASSPIDFD))
        case "pidfd-get-info":
            rule(errno.ENOTTY, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, PIDFD_GET_INFO))
        case "close-range":
            rule(errno.ENOSYS, "close_range")
    filter_.load()


def _limit(name: str) -> None:
    """Makes this process root of a user namespace that may have no namespace `name`; a child outside maps the ids."""
    ready, go = os.pipe()
    own = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(ready, 1)
        for kind in ("uid", "gid"):
            with open(f"/proc/{own}/{kind}_map", "w") as file:
                file.write(_IDS)
        os._exit(0)
    os.close(ready)
    if ctypes.CDLL(None).unshare(_CLONE_NEWUSER) != 0:
        raise OSError("no user namespace")
    os.close(go)
    if os.waitpid(child, 0)[1] != 0:
        raise OSError("the ids could not be mapped")
    with open(f"/proc/sys/user/max_{name}_namespaces", "w") as file:
        file.write("0")


if __name__ == "__main__":
    lacking = sys.argv[1]
    if lacking in FEATURES:
        _refuse(lacking)
    else:
        _limit(lacking.removesuffix("-namespaces"))
    os.execv(sys.argv[2], sys.argv[2:])
