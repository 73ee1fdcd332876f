# SPDX-License-Identifier: GPL-3.0-or-later
"""Ratios against the named peers; `make bench` prints them. Nothing is asserted about time."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from bench.peers import interleaved, quietly, seconds, table, unpacked_pygrub
from support.debian_kernel import cache_folder
from support.disks import Disk, Fs, Part, build_disk

from domward.protocol.messages import HelperKind
from domward.supervisor import BootRequest, Supervisor
from domward.supervisor.helper import Helper

pytestmark = pytest.mark.bench

MIB = 1024 * 1024
KERNEL_BYTES, RAMDISK_BYTES = 10 * MIB, 40 * MIB
GRUB_CFG = (
    b"set default=0\nset timeout=5\nmenuentry 'bench' {\n"
    b"  linux /boot/vmlinuz root=/dev/xvda1 ro quiet\n  initrd /boot/initrd.img\n}\n"
)
ALIVE = 100
DOMWARD = [sys.executable, "-I", "-m", "domward.supervisor"]


@pytest.fixture(scope="module")
def content() -> dict[str, bytes]:
    return {"boot/vmlinuz": os.urandom(KERNEL_BYTES), "boot/initrd.img": os.urandom(RAMDISK_BYTES)}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes]) -> Path:
    path = tmp_path_factory.mktemp("bench") / "guest.img"
    build_disk(path, Disk("none", (Part(Fs("ext4", {**content, "boot/grub/grub.cfg": GRUB_CFG})),)))
    return path


@pytest.fixture
def on_tmpfs() -> Iterator[Path]:
    """A folder on tmpfs, as xl's output folder in /var/run is."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="domward-bench-"))
    yield folder
    shutil.rmtree(folder)


def test_a_whole_run_against_pygrub(disk: Path, content: dict[str, bytes], on_tmpfs: Path) -> None:
    pygrub = unpacked_pygrub(cache_folder())
    mount = on_tmpfs / "copy"
    mount.mkdir()
    originals = [mount / "kernel.original", mount / "ramdisk.original"]
    for path, data in zip(originals, content.values(), strict=True):
        path.write_bytes(data)

    def run_pygrub(*options: str) -> Callable[[], float]:
        def work() -> float:
            output = Path(tempfile.mkdtemp(dir=on_tmpfs))
            taken = seconds(lambda: quietly(pygrub.command(disk, output, *options), pygrub.environment()))
            kernels = sorted(output.glob("boot_*"), key=lambda path: path.stat().st_size)
            assert [path.stat().st_size for path in kernels] == [KERNEL_BYTES, RAMDISK_BYTES]
            shutil.rmtree(output)
            return taken

        return work

    def run_domward() -> float:
        output = on_tmpfs / "domward"
        taken = seconds(lambda: quietly([*DOMWARD, "run", str(disk), "--output-dir", str(output)]))
        assert (output / "kernel").read_bytes() == content["boot/vmlinuz"]
        shutil.rmtree(output)
        return taken

    def copy() -> float:
        target = on_tmpfs / "copied"
        taken = seconds(lambda: quietly(["/bin/sh", "-c", f"cat {originals[0]} {originals[1]} > {target}"]))
        target.unlink()
        return taken

    async def measure() -> dict[str, float]:
        async with Supervisor() as supervisor:

            async def warm() -> float:
                before = time.perf_counter()
                result = await supervisor.run_bootloader(BootRequest(disk=disk))
                taken = time.perf_counter() - before
                assert (result.kernel.size, result.ramdisk and result.ramdisk.size) == (KERNEL_BYTES, RAMDISK_BYTES)
                result.close()
                return taken

            works: dict[str, Callable[[], float | Awaitable[float]]] = {
                "pygrub 4.17": run_pygrub(),
                "pygrub 4.17 --runas": run_pygrub("--runas=65534"),
                "cat of the two files into tmpfs": copy,
                "domward run, cold (new process)": run_domward,
                "domward, warm (one supervisor)": warm,
            }
            return await interleaved(works, 15)

    medians = asyncio.run(measure())
    goals = {"domward run, cold (new process)": 2.0, "domward, warm (one supervisor)": 0.5}
    table("10 MiB kernel and 40 MiB ramdisk from ext4", "pygrub 4.17", medians, goals)


def test_a_confined_helper_against_bubblewrap() -> None:
    async def measure() -> dict[str, float]:
        async with Supervisor() as supervisor:
            host = await supervisor.host()

            async def helper() -> float:
                one = Helper(HelperKind.BOOTLOADER, "bench", host)
                before = time.perf_counter()
                await one.start()
                taken = time.perf_counter() - before
                await one.close()
                return taken

            bwrap = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "/bin/true"]
            python = [sys.executable, "-I", "-c", "pass"]
            works: dict[str, Callable[[], float | Awaitable[float]]] = {
                "bwrap --unshare-all true": lambda: seconds(lambda: quietly(bwrap)),
                "a fresh python": lambda: seconds(lambda: quietly(python)),
                "domward helper, confined and verified": helper,
            }
            return await interleaved(works, 60)

    goals = {"domward helper, confined and verified": 1.3}
    table("A confined helper", "bwrap --unshare-all true", asyncio.run(measure()), goals)


def test_memory_of_a_hundred_helpers() -> None:
    async def measure() -> tuple[float, float]:
        async with Supervisor() as supervisor:
            host = await supervisor.host()
            helpers = [Helper(HelperKind.BOOTLOADER, "bench", host) for _ in range(ALIVE)]
            try:
                for helper in helpers:
                    await helper.start()
                sizes = [psutil.Process(helper.child.pid).memory_full_info().pss for helper in helpers]
                assert host.launcher.child is not None
                launcher = psutil.Process(host.launcher.child.pid).memory_full_info().pss
            finally:
                await asyncio.gather(*(helper.close() for helper in helpers))
            return statistics.median(sizes) / MIB, launcher / MIB

    helper, launcher = asyncio.run(measure())
    print(f"\nPSS with {ALIVE} helpers alive: {helper:.2f} MiB each (goal at most 2.5), launcher {launcher:.2f} MiB")
