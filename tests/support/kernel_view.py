# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's file system as this machine's kernel sees it, to compare the reader's answers with.

The mount lives in a mount namespace of its own and is gone when the answer is there. Root only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.disks import Placed

LOOK = """
import hashlib, json, os, stat, subprocess, sys
image, where, options = sys.argv[1:]
subprocess.run(["mount", "-o", options, image, where], check=True)
try:
    found = {}
    for folder, folders, files in os.walk(where):
        for name in folders + files:
            path = os.path.join(folder, name)
            st = os.lstat(path)
            kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
            entry = {"type": kind.get(stat.S_IFMT(st.st_mode), "other"), "size": st.st_size, "inode": st.st_ino}
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    entry["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            elif stat.S_ISLNK(st.st_mode):
                entry["target"] = os.readlink(path)
            found[path[len(where):]] = entry
    json.dump(found, sys.stdout)
finally:
    subprocess.run(["umount", where], check=True)
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """One path: `type` is "file", "directory", "symlink" or "other"; `size` in bytes; `inode` tells hard links."""

    type: str
    size: int
    inode: int
    sha256: str = ""
    target: bytes = b""


def unmountable(kind: str) -> str:
    """Why this machine's kernel cannot mount file systems of `kind`; "" where it can. A reason for a skip."""
    if os.geteuid() != 0:
        return "needs root to mount"
    listed = Path("/proc/filesystems").read_text().split()
    if kind not in listed:
        return f"this kernel has no {kind}"
    return "" if Path("/dev/loop-control").exists() else "this kernel has no loop devices"


def kernel_view(image: Path, place: Placed, kind: str, where: Path) -> dict[bytes, Seen]:
    """Every path (absolute, root left out) of the file system of `kind` at `place` in the raw image.

    `where` is an empty folder to mount on, in the test's tmp_path.
    """
    options = f"loop,ro,offset={place.offset},sizelimit={place.size}"
    if kind == "xfs":
        options += ",nouuid,norecovery"  # the same UUID may be mounted by another test at the same time
    command = ["unshare", "-m", sys.executable, "-c", LOOK, str(image), str(where), options]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        message = f"cannot look into {kind} at {place}: {done.stderr.decode(errors='replace')}"
        raise RuntimeError(message)
    seen = {}
    for path, entry in json.loads(done.stdout).items():
        entry["target"] = os.fsencode(entry.get("target", ""))
        seen[os.fsencode(path)] = Seen(**entry)
    return seen
