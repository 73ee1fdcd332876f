# SPDX-License-Identifier: GPL-3.0-or-later
"""grub.cfg as grub-mkconfig writes it, and grubenv as grub-editenv writes it.

grub-mkconfig and all scripts of /etc/grub.d run unchanged, in a bubblewrap whose /boot is the guest's. Only the two
programs by which they ask the kernel about mounted devices (grub-probe, grub-mkrelpath) are answered from the
disk's description instead, since the disk is not this machine's own and need not be mountable here.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# What grub-probe calls a file system, which is also its module's name.
GRUB_FS = {"ext2": "ext2", "ext3": "ext2", "ext4": "ext2", "xfs": "xfs", "btrfs": "btrfs", "vfat": "fat"}


@dataclass(frozen=True, slots=True)
class GrubDevice:
    """A file system as GRUB sees it: `drive` like "hd0,msdos1" (or "hd0"), `partmap` "msdos", "gpt" or ""."""

    node: str
    drive: str
    partmap: str
    kind: str
    uuid: str


PROBE = """#!/bin/sh
# Answers like grub-probe for the devices of one described disk.
device= target= path=
while [ $# -gt 0 ]; do
  case "$1" in
    --device) device=$2; shift;;
    --target=*) target=${1#--target=};;
    -t) target=$2; shift;;
    *) path=$1;;
  esac
  shift
done
case "$device:$path" in :/boot*) device=%(boot_node)s;; :*) device=%(root_node)s;; esac
case "$device" in
  %(root_node)s) uuid=%(root_uuid)s fs=%(root_fs)s drive=%(root_drive)s partmap=%(root_partmap)s;;
  %(boot_node)s) uuid=%(boot_uuid)s fs=%(boot_fs)s drive=%(boot_drive)s partmap=%(boot_partmap)s;;
  *) exit 1;;
esac
case "$target" in
  device) echo "$device";;
  fs_uuid) echo "$uuid";;
  fs) echo "$fs";;
  partmap) echo "$partmap";;
  compatibility_hint) echo "$drive";;
  drive) echo "($drive)";;
  hints_string) echo "--hint-bios=$drive --hint-efi=$drive --hint-baremetal=ahci0${drive#hd0}";;
  abstraction) ;;
  *) exit 1;;
esac
"""

MKRELPATH = """#!/bin/sh
# Answers like grub-mkrelpath: a path of the guest relative to the root of its file system.
path=
for path; do :; done
case "$path" in /boot*) path=%(boot_prefix)s${path#/boot};; esac
echo "${path%%/}"
"""


def grub_mkconfig(boot: Path, root_device: GrubDevice, boot_device: GrubDevice, settings: str, prefix: str) -> str:
    """The text of grub.cfg for the files in `boot`, the guest's /boot, with `settings` as its /etc/default/grub.

    `prefix` is /boot's own path within its file system: "/boot", "" where it is a file system of its own, or
    "/@/boot" in a btrfs subvolume.
    """
    words = {
        f"{role}_{name}": shlex.quote(value)
        for role, device in (("root", root_device), ("boot", boot_device))
        for name, value in (
            ("node", device.node),
            ("uuid", device.uuid),
            ("fs", GRUB_FS[device.kind]),
            ("drive", device.drive),
            ("partmap", device.partmap),
        )
    }
    words["boot_prefix"] = shlex.quote(prefix)
    with tempfile.TemporaryDirectory(prefix="grub-mkconfig-") as name:
        work = Path(name)
        for program, text in (("probe", PROBE), ("mkrelpath", MKRELPATH)):
            (work / program).write_text(text % words)
            (work / program).chmod(0o755)
        (work / "default-grub").write_text(settings)
        # The real programs are where the scripts look for them, so the stand-ins are mounted over those.
        probe, mkrelpath = _program("grub-probe"), _program("grub-mkrelpath")
        # Root needs no user namespace, and is refused one inside a chroot.
        unshare = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        command = ["bwrap", *unshare, "--die-with-parent", "--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin"]
        command += ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc/grub.d", "/etc/grub.d"]
        for link in ("bin", "sbin", "lib", "lib64"):
            command += ["--symlink", f"usr/{link}", f"/{link}"]
        command += ["--ro-bind", str(work / "probe"), probe, "--ro-bind", str(work / "mkrelpath"), mkrelpath]
        command += ["--ro-bind", str(work / "default-grub"), "/etc/default/grub"]
        command += ["--ro-bind", str(boot), "/boot", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
        for uuid in sorted({root_device.uuid, boot_device.uuid}):
            command += ["--symlink", "/dev/null", f"/dev/disk/by-uuid/{uuid}"]
        command += ["grub-mkconfig"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"grub-mkconfig failed: {done.stderr}"
        raise RuntimeError(message)
    return done.stdout


def _program(name: str) -> str:
    """The path of `name` as grub-mkconfig spells it."""
    for folder in ("/usr/sbin", "/usr/bin"):
        if Path(folder, name).exists():
            return f"{folder}/{name}"
    message = f"no {name}: install grub-common"
    raise LookupError(message)


def grubenv(path: Path, **variables: str) -> None:
    """Makes a GRUB environment block of 1024 bytes at `path` with the real grub-editenv."""
    subprocess.run(["grub-editenv", path, "create"], check=True)
    if variables:
        subprocess.run(["grub-editenv", path, "set", *(f"{k}={v}" for k, v in variables.items())], check=True)
