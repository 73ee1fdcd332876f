# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job on a real dom0: Xen 4.17 and Linux 6.1 (Debian 12), booted in QEMU without hardware help.

The lab is a folder of scripts beside the repository (../shared/xenlab, or $DOMWARD_XENLAB). Its dom0 is built once and
kept in the cache. The wheel and those of its dependencies are built here and installed there by pip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.disks import DiskFactory
from support.guests import debian_disk, expected

REPOSITORY = Path(__file__).parents[2]
DOM0_PYTHON = (3, 11)  # Debian 12's; compiled wheels must be for the same
LAB_FILES = ("xen", "vmlinux", "vmlinuz", "dom0-initrd", "dom0.ext4")


@pytest.fixture(scope="module")
def lab() -> tuple[Path, dict[str, str]]:
    """The lab's script, and the environment to call it with once its dom0 is built."""
    folder = Path(os.environ.get("DOMWARD_XENLAB") or REPOSITORY.parent / "shared/xenlab")
    script = folder / "xenlab.sh"
    if not script.exists():
        pytest.skip(f"this machine has no xenlab at {folder}")
    if not shutil.which("mmdebstrap") or not shutil.which("qemu-system-x86_64"):
        pytest.skip("this machine has no mmdebstrap and qemu-system-x86_64: packaging/install-dependencies lab")
    work = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "domward-xenlab"  # the lab's own default
    environment = dict(os.environ, W=str(work), TMO="600")
    if not all((work / file).exists() for file in LAB_FILES):
        subprocess.run([script, "build"], env=environment, check=True, capture_output=True)
    return script, environment


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory, disks: DiskFactory) -> Path:
    """The folder that dom0 sees: the job, the wheels and a guest."""
    python = sys.executable if sys.version_info[:2] == DOM0_PYTHON else shutil.which("python3.11")
    if python is None:
        pytest.skip("this machine has no python3.11, for which the wheels of the lab's dom0 must be built")
    share = tmp_path_factory.mktemp("share")
    # pip's own wheel too: dom0 has none, and runs it from the file.
    wheel = [python, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(share / "wheels"), str(REPOSITORY), "pip"]
    subprocess.run(wheel, check=True, capture_output=True)
    disks.copy(debian_disk("ext4", scheme="gpt", separate_boot=True), share / "guest.img")
    shutil.copy(Path(__file__).with_name("in_dom0.sh"), share / "run")
    return share


@pytest.mark.xen
def test_the_wheel_does_the_main_job_in_dom0(lab: tuple[Path, dict[str, str]], share: Path) -> None:
    script, environment = lab
    with (share / "console").open("wb") as console:
        done = subprocess.run([script, "run", share], env=environment, stdout=console, stderr=console, check=False)
    shown = (share / "console").read_text(errors="replace")[-8000:]
    assert done.returncode == 0, shown
    assert (share / "kernel-release").read_text().startswith("6.1.")
    assert (share / "hypervisor").read_text().strip() == "xen"
    assert not (share / "doctor.status").exists(), (share / "doctor.err").read_text()
    wanted = expected(debian_disk("ext4", scheme="gpt", separate_boot=True))
    answer = json.loads((share / "run.json").read_text())
    assert answer["args"] == wanted.args
    assert (share / "out/kernel").read_bytes() == wanted.kernel
    assert (share / "out/ramdisk").read_bytes() == wanted.ramdisk
    assert (share / "out/args").read_text() == wanted.args
    assert (share / "leftovers").read_text() == ""
