# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Debian kernel and initrd, taken from the package that linux-image-amd64 depends on.

Fetched once with apt-get and kept in the cache folder: $DOMWARD_CACHE, else domward in the user's cache folder.
The package is unpacked, not installed; the initrd is made by initramfs-tools, as on a guest. Needs root. Safe against
several processes at once.
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
        _initramfs(unpacked, version, initrd)
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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
