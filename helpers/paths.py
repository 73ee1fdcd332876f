# SPDX-License-Identifier: GPL-3.0-or-later
"""Every path of the host, or of a helper's own root, that the launcher and the helpers use. None is configurable.

Paths on a guest's disk are no paths of ours: `reader` has those.
"""

from __future__ import annotations

ROOT = "/"

#: Where the launcher builds its own root: a folder that every Linux has. Nothing below it is written; it is covered.
STAGING = "/proc"
LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"
NULL, RANDOM = "/dev/null", "/dev/urandom"
DEVPTS = "/dev/pts"
UID_MAP = "/proc/self/uid_map"
NAMESPACES = "/proc/self/ns"
NAMESPACE_LIMITS = "/proc/sys/user"

#: In the launcher's root: the helpers' future roots.
EMPTY_ROOT = "/empty"
PTY_ROOT = "/pty"

#: In the root of a pty helper.
PTMX = "/ptmx"
PTS = "/pts"

#: What the root of a bootloader program shows of the host, read-only: these folders, or the links that stand for them,
#: and of /etc what finding libraries and commands takes.
USR = "/usr"
USR_NAMES = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC_NAMES = ("/etc/ld.so.cache", "/etc/alternatives")

#: In the launcher's root and in that of a program helper. The supervisor mounts the disk at PROGRAM_DISK or over its
#: folder, and a program that does not lie below /usr at PROGRAM_FILE.
PROGRAM_ROOT = "/program"
ETC = "/etc"
DEVICES = "/dev"
TEMPORARY = "/tmp"  # noqa: S108 - not the host's: a file system of the helper's own
DISK_FOLDER = "/disk"
PROGRAM_DISK = "/disk/image"
PROGRAM_FILE = "/bootloader"

#: Below TEMPORARY: where a program leaves its results.
OUTPUT_FILE = TEMPORARY + "/output"
OUTPUT_FOLDER = TEMPORARY + "/results"

#: Where a program looks for commands: its PATH.
COMMANDS = "/usr/sbin:/usr/bin:/sbin:/bin"
