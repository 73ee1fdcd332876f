# SPDX-License-Identifier: GPL-3.0-or-later
"""What the audit log costs: a warm operation with and without it, and reading a million records."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench.peers import interleaved, table
from support.audit_logs import opened, operation
from support.debian_kernel import cache_folder
from support.disks import Disk, Fs, Part, build_disk

from domward.supervisor import BootRequest, Config, Supervisor
from domward.supervisor.audit.selection import Filter, select
from domward.supervisor.audit.verify import verify

pytestmark = pytest.mark.bench

MIB = 1024 * 1024
RECORDS = int(os.environ.get("DOMWARD_AUDIT_RECORDS", "1000000"))
GRUB_CFG = (
    b"set default=0\nset timeout=5\nmenuentry 'bench' {\n"
    b"  linux /boot/vmlinuz root=/dev/xvda1 ro quiet\n  initrd /boot/initrd.img\n}\n"
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = {"boot/vmlinuz": os.urandom(10 * MIB), "boot/initrd.img": os.urandom(40 * MIB)}
    path = tmp_path_factory.mktemp("bench") / "guest.img"
    build_disk(path, Disk("none", (Part(Fs("ext4", {**content, "boot/grub/grub.cfg": GRUB_CFG})),)))
    return path


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A folder for a log on the disk that keeps downloads: /tmp may be in memory, where a sync costs nothing."""
    folder = Path(tempfile.mkdtemp(dir=cache_folder(), prefix="audit-bench-"))
    yield folder
    shutil.rmtree(folder)


def test_a_warm_operation_with_and_without_a_log(disk: Path, on_disk: Path) -> None:
    async def measure() -> dict[str, float]:
        logged = Config(audit_log=on_disk / "audit.log")
        async with Supervisor() as without, Supervisor(logged) as with_log:

            async def warm(supervisor: Supervisor) -> float:
                before = time.perf_counter()
                result = await supervisor.run_bootloader(BootRequest(disk=disk))
                taken = time.perf_counter() - before
                result.close()
                return taken

            plain, logged_one = (lambda: warm(without)), (lambda: warm(with_log))
            works = {"warm, without an audit log": plain, "warm, with a log on a disk": logged_one}
            return await interleaved(works, 40)

    goals = {"warm, with a log on a disk": 1.05}
    table("10 MiB kernel and 40 MiB ramdisk", "warm, without an audit log", asyncio.run(measure()), goals)


def test_reading_a_million_records(on_disk: Path) -> None:
    path = on_disk / "audit.log"
    with opened(path, file_bytes=1 << 40) as log:
        records = 1
        while records < RECORDS:
            batch = [one for number in range(400) for one in operation(number)]
            records += len(log.append(batch))

    def timed(work: Callable[[], object]) -> float:
        before = time.perf_counter()
        work()
        return time.perf_counter() - before

    def hashed() -> None:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            while file.read(4 * MIB):
                pass

    def grepped(text: bytes) -> None:
        subprocess.run(("grep", "-cF", text, path), check=True, capture_output=True)  # to /dev/null it would stop early

    found: list[int] = []

    def shown(wanted: Filter) -> None:
        found.append(sum(1 for _ in select(path, wanted)))

    read()
    size = path.stat().st_size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = {
        "reading the file": timed(read),
        "sha256 of the file": timed(hashed),
        "verify": timed(lambda: verify([path])),
        "show --operation": timed(lambda: shown(Filter(operation="boot-000000000007"))),
        "show --event protocol-violation (none)": timed(lambda: shown(Filter(event="protocol-violation"))),
        "show --until (none)": timed(lambda: shown(Filter(until="2020"))),
        "show --domain (none)": timed(lambda: shown(Filter(domain="db-2"))),
        "show --outcome ok --until (none)": timed(lambda: shown(Filter(outcome="ok", until="2020"))),
        "grep -c, one operation": timed(lambda: grepped(b'"operation":"boot-000000000007"')),
    }
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"\n{records} records, {size / MIB:.0f} MiB, found {found}; peak memory grew by {grown / 1024:.1f} MiB")
    table("Reading the audit log", "sha256 of the file", results, {})
