#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make demo` shows: a guest disk with a real Debian kernel, and domward taking the kernel off it.

Run as root with the virtual environment's python. All it makes is in build/demo, and made anew each time; the
downloaded kernel stays in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from support.debian_kernel import debian_kernel
from support.disks import build_disk
from support.guests import debian_disk

FOLDER = REPOSITORY / "build" / "demo"
DOMWARD = Path(sys.executable).with_name("domward")


def say(text: str) -> None:
    """One line of the story."""
    print(text, flush=True)


def show(*command: str | Path) -> int:
    """Runs a command of domward with its output on the terminal, after saying what it is."""
    words = [str(part) for part in command]
    say(f"\n$ {' '.join(os.path.relpath(w) if w.startswith(str(REPOSITORY)) else w for w in words)}")
    return subprocess.run(words, check=False).returncode


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Builds, runs, compares; 0 where what arrived is what was put on the disk."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    say("Fetching a Debian kernel and making its initrd (once; kept in the cache) ...")
    kernel = debian_kernel()
    disk, out = FOLDER / "guest.img", FOLDER / "out"
    say(f"Building a guest disk: MBR, ext4, Linux {kernel.version}, grub.cfg by grub-mkconfig ...")
    build_disk(disk, debian_disk("ext4"))
    if show(DOMWARD, "inspect", disk) or show(DOMWARD, "run", disk, "--output-dir", out):
        say("\nThe demo failed.")
        return 1
    say(f"\nWhat domward took off the disk, in {os.path.relpath(out)}:")
    delivered = {sha256(path): path for path in sorted(out.iterdir())}
    for path in delivered.values():
        say(f"  {path.stat().st_size:>10}  {path.name}")
    same = True
    for what, original in (("kernel", kernel.vmlinuz), ("ramdisk", kernel.initrd)):
        wanted = sha256(original)
        same = same and wanted in delivered
        say(f"  {what}: sha256 {wanted[:16]}... {'the same as put in' if wanted in delivered else 'DIFFERS'}")
    if "SUDO_UID" in os.environ:
        uid, gid = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
        for path in (FOLDER.parent, FOLDER, *FOLDER.rglob("*")):
            os.chown(path, uid, gid)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
