# SPDX-License-Identifier: GPL-3.0-or-later
"""Every path that the privileged side uses. None comes from the environment; `Config` overrides them."""

from __future__ import annotations

import sys
from pathlib import Path

#: Run-time state: the file whose byte ranges are the leases of helper uids. Root only.
STATE_DIRECTORY = Path("/run/domward")

#: The interpreter that the launcher runs in: the one that runs this, so that both see the same packages.
PYTHON = Path(sys.executable)

#: What is run to start the launcher: the supervisor's own neighbour, so that both sides are of one version.
LAUNCHER = Path(__file__).parents[1] / "helpers" / "start_launcher.py"

#: What is run to confine a guest's emulator and to start it; the emulators that are looked for, KVM's device, and the
#: folder of what a process has open.
EMULATOR = LAUNCHER.with_name("start_emulator.py")
QEMU = (Path("/usr/bin/qemu-system-x86_64"), Path("/usr/libexec/qemu-kvm"))
KVM = "/dev/kvm"
OPEN_FILES = "/proc/self/fd"

#: What qemu calls a set of fds that it was given: no file of the host's.
QEMU_FD_SET = "/dev/fdset"

#: Our own front end, as xl's configurations name it, and a disk that stands for any.
FRONT_END = "/usr/bin/domward-bootloader"
SOME_DISK = "/disk"

#: The same for an ordinary user: a folder "domward" in that of the login session, else "domward-UID" in the other.
USER_SESSIONS = Path("/run/user")
TEMPORARY = Path("/tmp")  # noqa: S108 - only with a name of the user's own there, which is checked to be the user's

#: Ranges of uids that belong to ordinary users, and the programs that map them.
SUBUID, SUBGID = Path("/etc/subuid"), Path("/etc/subgid")
NEWUIDMAP, NEWGIDMAP = Path("/usr/bin/newuidmap"), Path("/usr/bin/newgidmap")

NULL_DEVICE = "/dev/null"

#: Where pygrub puts its files unless it is told: xenopsd takes them from there alone.
PYGRUB_OUTPUT = Path("/var/run/xen/pygrub")
PROC = Path("/proc")

#: This process's place in the unified cgroup tree, and what is mounted where.
OWN_CGROUP = PROC / "self/cgroup"
OWN_MOUNTS = PROC / "self/mountinfo"

#: This process's user namespace, and how many more there may be: user_namespaces(7).
USER_NAMESPACE, MOST_USER_NAMESPACES = PROC / "self/ns/user", PROC / "sys/user/max_user_namespaces"
UID_MAP, GID_MAP, SETGROUPS = PROC / "self/uid_map", PROC / "self/gid_map", PROC / "self/setgroups"

#: The host's identities, proc(5) and machine-id(5).
BOOT_ID = PROC / "sys/kernel/random/boot_id"
MACHINE_ID = Path("/etc/machine-id")

#: The audit log of root's runs and of the daemon.
AUDIT_LOG = Path("/var/log/domward/audit.log")

#: journald's own protocol, and ssh-keygen(1) for signatures.
JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
SSH_KEYGEN = Path("/usr/bin/ssh-keygen")

#: The daemon's settings: one file, and a folder whose *.toml are read after it in the order of their names.
SETTINGS_FILE = Path("/etc/domward/domward.toml")
SETTINGS_FOLDER = Path("/etc/domward/conf.d")

#: The daemon's socket; clients connect to it.
CONTROL_SOCKET = Path("/run/domward/control.sock")

#: Within xenstore, the folder that has one for each domain.
XENSTORE_DOMAINS = "/local/domain"

#: Where xenstored listens, and the device where it runs in another domain.
XENSTORE_SOCKET, XENBUS = "/run/xenstored/socket", "/dev/xen/xenbus"

#: Where xl's block scripts find programs, and what the consoles of domains are called.
TOOLSTACK_COMMANDS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TERMINALS = "/dev/pts/"

#: Where the daemon keeps what consoles showed. Root only.
CONSOLE_LOGS = Path("/var/log/domward/console")

#: xl(1): where Debian has it, where others do, and where Xen puts it itself.
XL = (Path("/usr/sbin/xl"), Path("/usr/bin/xl"), Path("/usr/local/sbin/xl"))

#: Where Xen's packages put pygrub; of several, the one that comes last by its version: Debian's has one a version.
PYGRUB = ("/usr/lib/xen-*/bin/pygrub", "/usr/lib/xen/bin/pygrub", "/usr/libexec/xen/bin/pygrub", "/usr/bin/pygrub")

LOOP_CONTROL = "/dev/loop-control"

#: What a bootloader program sees of the host in the root of its helper: what lies below this folder.
PROGRAMS = "/usr"

#: In that root (`helpers/paths` has them too): places for the disk, or for a folder that holds it, and for a program
#: that does not lie below PROGRAMS.
PROGRAM_DISK_FOLDER = "/disk"
PROGRAM_DISK = "/disk/image"
PROGRAM_FILE = "/bootloader"

#: The mounts of that root with the options that each must have besides nosuid; and those of hosts that have a folder
#: where others have a link into PROGRAMS.
PROGRAM_MOUNTS = {
    "/": (b"ro", b"nodev", b"noexec"),
    "/usr": (b"ro", b"nodev"),
    "/dev": (b"ro", b"noexec"),
    "/tmp": (b"nodev", b"noexec"),  # noqa: S108 - not the host's: a file system of the helper's own
}
PROGRAM_MOUNTS_OF_SOME = frozenset(
    {"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/alternatives"}
)
