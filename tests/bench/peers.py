# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs that domward is measured against, and the way it is done.

pygrub comes from Debian's packages, unpacked into a cache and not installed: it runs without Xen.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

XEN_PACKAGES = ("xen-utils-4.17", "libxenmisc4.17")


@dataclass(frozen=True)
class Pygrub:
    """An unpacked pygrub."""

    folder: Path

    def command(self, disk: Path, output: Path, *options: str) -> list[str]:
        """The command that takes what boots off `disk` into the folder `output`, as libxl asks for it."""
        result = output / "result"
        result.touch()
        program = self.folder / "usr/lib/xen-4.17/bin/pygrub"
        return [
            "/usr/bin/python3",
            str(program),
            *options,
            "-q",
            f"--output={result}",
            "--output-format=simple0",
            f"--output-directory={output}",
            str(disk),
        ]

    def environment(self) -> dict[str, str]:
        """What it needs to find its libraries where they were unpacked."""
        libraries = self.folder / "usr/lib/xen-4.17/lib/x86_64-linux-gnu"
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LD_LIBRARY_PATH": str(libraries),
            "XEN_FSIMAGE_FSDIR": str(libraries / "xenfsimage"),
        }


def unpacked_pygrub(cache: Path) -> Pygrub:
    """Debian 12's pygrub, from its packages. Raises CalledProcessError where the host's sources do not have them."""
    folder = cache / "xen-utils-4.17"
    if not (folder / "usr").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", *XEN_PACKAGES], cwd=folder, check=True, capture_output=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    return Pygrub(folder)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def processor_seconds(work: Callable[[], object]) -> float:
    """What `work` takes of the processors in processes that it waits for, and those that they waited for."""

    def taken() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = taken()
    work()
    return taken() - before


def quietly(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs `command` to its end and demands that it succeeds."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


async def interleaved(works: dict[str, Callable[[], float | Awaitable[float]]], runs: int) -> dict[str, float]:
    """The median of `runs` timings of each of `works`, taken in turn after one round that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(runs + 1):
        for name, work in works.items():
            taken = work()
            if not isinstance(taken, float):
                taken = await taken
            if number:
                found[name].append(taken)
    return {name: statistics.median(times) for name, times in found.items()}


def table(title: str, peer: str, medians: dict[str, float], goals: dict[str, float]) -> None:
    """Prints `medians` in milliseconds with their ratio to `peer`, and the goal where there is one."""
    size = f"{os.cpu_count()} cores, Linux {os.uname().release}, {time.strftime('%Y-%m-%d')}"
    print(f"\n{title} ({size})")
    for name, value in medians.items():
        goal = f"  goal at most {goals[name]:g}" if name in goals else ""
        print(f"  {name:44} {value * 1000:8.1f} ms  ratio {value / medians[peer]:5.2f}{goal}")
