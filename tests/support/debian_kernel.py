# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Debian kernel and initrd, taken from the package that linux-image-amd64 depends on.

Fetched once with apt-get and kept in the cache folder: $DOMWARD_CACHE, else domward in the user's cache folder.
The package is unpacked, not installed. The initrd is made by initramfs-tools where that is installed and this is
root; otherwise it is a busybox on its own, which boots just as well. Safe against several processes at once.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULES = ("ext4", "xfs", "btrfs", "vfat", "nls_ascii", "xen-blkfront", "xen-netfront", "virtio_pci", "virtio_blk")

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
echo "GUEST-MARKER-OK cmdline=$(/bin/busybox cat /proc/cmdline)" > /dev/hvc0
while :; do /bin/busybox sleep 3600; done
"""


@dataclass(frozen=True, slots=True)
class DebianKernel:
    """`version` as in the file names, e.g. "6.1.0-30-amd64"; the two files of this machine's cache folder."""

    version: str
    vmlinuz: Path
    initrd: Path


def cache_folder() -> Path:
    """Where downloads and what is made from them stay between runs; made if missing."""
    named = os.environ.get("DOMWARD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(named) if named else Path(base) / "domward"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def debian_kernel() -> DebianKernel:
    """The kernel and initrd; the first call on a machine downloads about 70 MB and takes some 20 s."""
    folder = cache_folder() / "debian-kernel"
    folder.mkdir(exist_ok=True)
    with _locked(folder / ".lock"):
        made = _made(folder)
        if made is None:
            _make(folder)
            made = _made(folder)
    assert made is not None, f"no kernel in {folder} after it was made"
    return made


def _made(folder: Path) -> DebianKernel | None:
    for vmlinuz in sorted(folder.glob("vmlinuz-*")):
        version = vmlinuz.name.removeprefix("vmlinuz-")
        initrd = folder / f"initrd.img-{version}"
        if initrd.exists():
            return DebianKernel(version, vmlinuz, initrd)
    return None


def _make(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix="making-") as name:
        work = Path(name)
        package = _kernel_package()
        subprocess.run(["apt-get", "download", "-qq", package], cwd=work, check=True, capture_output=True)
        (archive,) = work.glob("linux-image-*.deb")
        unpacked = work / "unpacked"
        subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
        (vmlinuz,) = (unpacked / "boot").glob("vmlinuz-*")
        version = vmlinuz.name.removeprefix("vmlinuz-")
        initrd = work / "initrd"
        if os.geteuid() == 0 and shutil.which("mkinitramfs"):
            _initramfs(unpacked, version, initrd)
        else:
            _busybox_initrd(initrd)
        shutil.move(vmlinuz, folder / vmlinuz.name)
        shutil.move(initrd, folder / f"initrd.img-{version}")


def _kernel_package() -> str:
    """The versioned package behind linux-image-amd64 (or this machine's architecture)."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    depends = subprocess.run(
        ["apt-cache", "depends", "--important", f"linux-image-{architecture}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"Depends: (linux-image-[0-9]\S*)", depends)
    if found is None:
        message = f"apt knows no linux-image-{architecture}: run apt-get update"
        raise LookupError(message)
    return found[1]


def _initramfs(unpacked: Path, version: str, initrd: Path) -> None:
    """Runs the real mkinitramfs with the unpacked package laid over /lib and /boot in a mount namespace of its own."""
    conf = unpacked.parent / "conf"
    (conf / "conf.d").mkdir(parents=True)
    (conf / "initramfs.conf").write_text("MODULES=list\nBUSYBOX=auto\nKEYMAP=n\nCOMPRESS=gzip\nFSTYPE=auto\n")
    (conf / "modules").write_text("\n".join(MODULES) + "\n")
    libraries = unpacked / "lib" if (unpacked / "lib/modules").exists() else unpacked / "usr/lib"
    subprocess.run(["depmod", "-b", libraries.parent, version], check=True)
    script = (
        'mount -t overlay overlay -o "lowerdir=$1:/usr/lib" /usr/lib && mount --bind "$2" /boot'
        ' && exec mkinitramfs -d "$3" -o "$4" "$5"'
    )
    arguments = [libraries, unpacked / "boot", conf, initrd, version]
    subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *arguments], check=True, capture_output=True)


def _busybox_initrd(initrd: Path) -> None:
    """busybox as the only program, the way a rescue image is made: a cpio archive, compressed."""
    busybox = shutil.which("busybox")
    if busybox is None:
        message = "no busybox: install busybox-static"
        raise LookupError(message)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "bin").mkdir()
        shutil.copy(busybox, root / "bin/busybox")
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        pack = "find . | LC_ALL=C sort | cpio -o -H newc --quiet --owner=0:0 | gzip -n > "
        subprocess.run(["sh", "-c", pack + '"$1"', "sh", initrd], cwd=root, check=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
