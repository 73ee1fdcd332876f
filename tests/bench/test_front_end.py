# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward-bootloader` against pygrub, as libxl calls both: a toolstack waits for it in every create.

By the clock, and by the time on processors, which a busy machine disturbs less and which is all that counts on a dom0
with one. With the daemon, what that and its helper take is in the first only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from bench.peers import interleaved, processor_seconds, quietly, seconds, table, unpacked_pygrub
from support.daemons import daemon, public_folder
from support.debian_kernel import cache_folder
from support.disks import Disk, Fs, Part, build_disk

from domward.supervisor import paths

pytestmark = pytest.mark.bench

KIB, MIB = 1024, 1024 * 1024
RUNS = 9
GRUB_CFG = b"menuentry 'bench' {\n  linux /boot/vmlinuz root=/dev/xvda1 ro\n  initrd /boot/initrd.img\n}\n"
FRONT_END = [sys.executable, "-I", "-c", "from domward.supervisor.front_end import main; main()"]
Measure = Callable[[Callable[[], object]], float]


@pytest.fixture(params=[(200 * KIB, 100 * KIB), (8 * MIB, MIB)], ids=["a tiny kernel", "a kernel of 8 MiB"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kernel, ramdisk = request.param
    files = {"boot/vmlinuz": os.urandom(kernel), "boot/initrd.img": os.urandom(ramdisk), "boot/grub/grub.cfg": GRUB_CFG}
    build_disk(tmp_path / "guest.img", Disk("none", (Part(Fs("ext4", files)),)))
    return tmp_path / "guest.img"


@contextlib.contextmanager
def output() -> Iterator[Path]:
    """A folder on tmpfs, as libxl's in /var/run is."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="domward-bench-"))
    yield folder
    assert len([*folder.iterdir()]) == 3, "the answer, the kernel and the ramdisk"
    shutil.rmtree(folder)


def test_the_front_end_against_pygrub(disk: Path, request: pytest.FixtureRequest) -> None:
    pygrub = unpacked_pygrub(cache_folder())

    def run_pygrub(measure: Measure, *options: str) -> float:
        with output() as folder:
            command = pygrub.command(disk, folder, *options)
            return measure(lambda: quietly(command, pygrub.environment()))

    def run_front_end(measure: Measure) -> float:
        with output() as folder:
            (folder / "result").touch()
            words = [f"--output={folder}/result", "--output-format=simple0", f"--output-directory={folder}", str(disk)]
            return measure(lambda: quietly([*FRONT_END, "--quiet", *words]))

    def with_daemon(measure: Measure) -> float:
        with public_folder() as folder, daemon(folder, {"control": {"socket": paths.CONTROL_SOCKET}}):
            run_front_end(measure)  # the first waits for the launcher
            return run_front_end(measure)

    def works(measure: Measure) -> dict[str, Callable[[], float | Awaitable[float]]]:
        return {
            "pygrub 4.17": lambda: run_pygrub(measure),
            "pygrub 4.17 --runas": lambda: run_pygrub(measure, "--runas=65534"),
            "domward-bootloader, daemon": lambda: with_daemon(measure),
            "domward-bootloader, no daemon": lambda: run_front_end(measure),
        }

    goals = dict.fromkeys(("domward-bootloader, daemon", "domward-bootloader, no daemon"), 1.0)
    for what, measure in (("by the clock", seconds), ("on processors", processor_seconds)):
        medians = asyncio.run(interleaved(works(measure), RUNS))
        table(f"{request.node.callspec.id}, {what}", "pygrub 4.17", medians, goals)
