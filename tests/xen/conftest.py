# SPDX-License-Identifier: GPL-3.0-or-later
"""A real dom0: Xen 4.17 and Linux 6.1 (Debian 12), booted once in QEMU, without hardware help, for all tests here.

The lab is a folder of scripts beside the repository (../shared/xenlab, or $DOMWARD_XENLAB). Its dom0 is built once and
kept in the cache. The wheel and those of its dependencies are built here and installed there by pip, and after the main
job the Debian package by dpkg; what the tests look at is written there, by in_dom0.sh, into the folder that both sides
share.

That takes minutes, of one processor. So the test that only starts it comes before all others of a run, and those that
look at what came of it come last.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.disks import DiskFactory, Fs, whole
from support.guests import debian_disk
from support.xen_lab import Booting

REPOSITORY = Path(__file__).parents[2]
DOM0_PYTHON = (3, 11)  # Debian 12's; compiled wheels must be for the same
LAB_FILES = ("xen", "vmlinux", "vmlinuz", "dom0-initrd", "dom0.ext4")
DOM0_PACKAGES = ",".join(
    (
        "e2fsprogs,libvirt-daemon,libvirt-clients,libvirt-daemon-driver-xen,qemu-system-xen",
        # What domward's package depends on: dpkg installs it, without a network.
        "python3-msgpack,python3-prctl,python3-psutil,python3-setproctitle,python3-zstandard,systemd-standalone-sysusers",
    )
)
# qemu emulates AMD hardware virtualisation, so guests may be PVH ones. Xen traps their RDTSCP and needs a feature that
# qemu has not to go on after it: where the processor has none, no guest uses it.
PROCESSOR = "Opteron_G3,+npt,-rdtscp"
JOBS = {"xen": ("xl", "guests"), "bench": ("figures",)}  # NAME_in_dom0.py, which writes NAME.json, by the tests' marks
SECONDS = 1200  # a busy machine takes several times as long as an idle one
MENU = """set default=0
set timeout=60
menuentry "first" {
 linux /boot/vmlinuz console=hvc0 quiet lab=first
 initrd /boot/initrd.img
}
menuentry "second" {
 linux /boot/vmlinuz console=hvc0 quiet lab=second
 initrd /boot/initrd.img
}
"""


@pytest.fixture(scope="session")
def lab() -> tuple[Path, dict[str, str]]:
    """The lab's folder, and the environment to call its scripts with once its dom0 is built."""
    folder = Path(os.environ.get("DOMWARD_XENLAB") or REPOSITORY.parent / "shared/xenlab")
    if not (folder / "xenlab.sh").exists():
        pytest.skip(f"this machine has no xenlab at {folder}")
    missing = [tool for tool in ("mmdebstrap", "qemu-system-x86_64", "dh_python3") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"this machine has no {', '.join(missing)}: packaging/install-dependencies lab")
    work = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "domward-xenlab"  # the lab's own default
    environment = dict(os.environ, W=str(work), TMO=str(SECONDS), EXTRA=DOM0_PACKAGES)
    packages = work / "packages"  # what the dom0 in the cache was built with
    if not all((work / file).exists() for file in LAB_FILES) or not _holds(packages, DOM0_PACKAGES):
        packages.unlink(missing_ok=True)
        subprocess.run([folder / "xenlab.sh", "build"], env=environment, check=True, capture_output=True)
        packages.write_text(DOM0_PACKAGES)
    return folder, environment


def _holds(file: Path, text: str) -> bool:
    return file.exists() and file.read_text() == text


@pytest.fixture(scope="session")
def share(
    lab: tuple[Path, dict[str, str]],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    disks: DiskFactory,
) -> Path:
    """The folder that dom0 sees: the job, the wheels, the package and the guests."""
    python = sys.executable if sys.version_info[:2] == DOM0_PYTHON else shutil.which("python3.11")
    if python is None:
        pytest.skip("this machine has no python3.11, for which the wheels of the lab's dom0 must be built")
    share = tmp_path_factory.mktemp("share")
    # pip's own wheel too: dom0 has none, and runs it from the file.
    wheel = [python, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(share / "wheels"), str(REPOSITORY), "pip"]
    subprocess.run(wheel, check=True, capture_output=True)
    subprocess.run([REPOSITORY / "packaging/build-deb", share], check=True, capture_output=True)
    disks.copy(debian_disk("ext4", scheme="gpt", separate_boot=True), share / "guest.img")
    folder, environment = lab
    subprocess.run([folder / "mkguest.sh", share], env=environment, check=True, capture_output=True)
    disks.copy(
        whole(Fs("ext4", _linux(share, Path(environment["W"]), tmp_path_factory.mktemp("linux")))), share / "menu.img"
    )
    (share / "linux.img").unlink()
    shutil.copy(Path(__file__).with_name("in_dom0.sh"), share / "run")
    marks = {mark for mark in JOBS if any(item.get_closest_marker(mark) for item in request.session.items)}
    jobs = [job for mark in JOBS if mark in marks for job in JOBS[mark]]
    (share / "jobs").write_text(" ".join(jobs))
    for script in ("dom0.py", "groups_in_dom0.py", *(f"{job}_in_dom0.py" for job in jobs)):
        shutil.copy(Path(__file__).with_name(script), share)
    return share


def _linux(share: Path, work: Path, folder: Path) -> dict[str, Path | str]:
    """The files of the lab's Linux guest, with a menu of two entries."""
    dump = f"dump /boot/initrd.img {folder / 'initrd.img'}"
    subprocess.run(["debugfs", "-R", dump, share / "linux.img"], check=True, capture_output=True)
    return {
        "boot/vmlinuz": work / "vmlinuz",
        "boot/initrd.img": folder / "initrd.img",
        "boot/grub/grub.cfg": MENU,
    }


@pytest.fixture(scope="session")
def booting(lab: tuple[Path, dict[str, str]], share: Path) -> Iterator[Booting]:
    """The lab, started; not as a child of this process, whose children are what many tests look at."""
    folder, environment = lab
    running = share / "running"
    with running.open("wb") as lock, (share / "console").open("wb") as console:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # In the background of a shell, which prints its pid and ends; in mounts of its own, since tests count theirs.
        script = 'setsid unshare --mount --pid --mount-proc --fork --kill-child "$@" </dev/null >&2 & echo $!'
        started = subprocess.run(
            ["sh", "-c", script, "sh", folder / "xenlab.sh", "run", share, "-cpu", PROCESSOR],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=console,
            pass_fds=[lock.fileno()],
            check=True,
        )
    under_way = Booting(share, running, int(started.stdout))
    yield under_way
    under_way.end()


@pytest.fixture(scope="session")
def dom0(booting: Booting) -> Path:
    """The shared folder once dom0 has done its job."""
    booting.wait()
    shown = (booting.share / "console").read_text(errors="replace")[-8000:]
    status = booting.share / ".rc"
    assert status.exists(), shown
    assert status.read_text().strip() == "0", shown
    return booting.share


@pytest.fixture
def done(dom0: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What became of the check, or of the part of one, that the test is about; nothing is left of it in dom0."""
    marker = request.node.get_closest_marker("check")
    assert marker is not None
    checks: dict[str, dict[str, Any]] = {}
    for name in JOBS["xen"]:
        assert (dom0 / f"{name}.json").exists(), (dom0 / "checks.out").read_text()
        checks |= json.loads((dom0 / f"{name}.json").read_text())
    assert marker.args[0] in checks, (dom0 / "checks.out").read_text()
    found = checks[marker.args[0]]
    assert "error" not in found, found["error"]
    assert found["left"] == []
    for part in marker.args[1:]:
        found = found[part]
        assert found.get("left", []) == []
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what only starts the lab before everything else."""
    items.sort(key=lambda item: not item.path.name.startswith("test_lab_"))
