# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that fail while they are read: EIO, an early end, no answer at all. A FUSE file plays them."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import prctl
import pytest
from support.commands import refusal
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.flaky_disk import NEVER, blocking_from, ending_at, failing_from, flaky_disk
from support.guests import debian_disk, extlinux_disk

PLACES = ("first byte", "file system", "kernel", "end of the ramdisk")


def offset_of(place: str, disk: Path, kernel: DebianKernel) -> int:
    """Where in the image the trouble begins."""
    content = disk.read_bytes()
    match place:
        case "first byte":
            return 0
        case "file system":
            return 1 << 20
        case "kernel":
            return content.index(kernel.vmlinuz.read_bytes()[0x400:0x1400]) + 0x7000
        case _:
            ramdisk = kernel.initrd.read_bytes()
            return content.index(ramdisk[:4096]) + len(ramdisk) - 4096


@pytest.mark.parametrize("place", PLACES)
def test_read_error(place: str, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    image = disks.build(extlinux_disk(kernel=kernel))
    with flaky_disk(tmp_path, image, failing_from(offset_of(place, image, kernel))) as disk:
        assert "Input/output error" in refusal(tmp_path, disk, code="disk-read-error")


@pytest.mark.parametrize("place", PLACES)
def test_disk_that_shrinks(place: str, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    image = disks.build(extlinux_disk(kernel=kernel))
    end = offset_of(place, image, kernel)
    with flaky_disk(tmp_path, image, ending_at(end)) as disk:
        sentence = refusal(tmp_path, disk, code="disk-truncated")
    assert f"had {image.stat().st_size} bytes when opened" in sentence


def test_read_error_within_compressed_clusters(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    image = disks.build(debian_disk("ext4", kernel=kernel, image="qcow2", convert=("-c",)))
    with flaky_disk(tmp_path, image, failing_from(image.stat().st_size // 2)) as disk:
        refusal(tmp_path, disk, code="disk-read-error")


@pytest.mark.parametrize("place", PLACES)
def test_disk_that_does_not_answer(place: str, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    image = disks.build(extlinux_disk(kernel=kernel))
    reached = threading.Event()
    with flaky_disk(tmp_path, image, blocking_from(offset_of(place, image, kernel), reached)) as disk:
        assert "within 2 seconds" in refusal(tmp_path, disk, "--timeout", "2", code="timed-out")


def test_disk_that_may_not_be_read(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    # Root may read every file; but a file server may think otherwise.
    image = disks.build(extlinux_disk(kernel=kernel))
    with flaky_disk(tmp_path, image, failing_from(0), opening=errno.EACCES) as disk:
        assert "may not be read" in refusal(tmp_path, disk, code="refused")


def test_disk_that_cannot_be_opened(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    image = disks.build(extlinux_disk(kernel=kernel))
    with flaky_disk(tmp_path, image, failing_from(0), opening=errno.EIO) as disk:
        assert "cannot be opened: Input/output error" in refusal(tmp_path, disk, code="disk-read-error")


def test_disk_whose_reader_cannot_be_ended(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    """The kernel holds the helper in its read beyond SIGKILL; the command ends all the same."""
    image = disks.build(extlinux_disk(kernel=kernel))
    reached = threading.Event()
    read = blocking_from(offset_of("kernel", image, kernel), reached)
    prctl.set_child_subreaper(True)  # the helper outlives the command: here it can be waited for
    try:
        with flaky_disk(tmp_path, image, read, deaf=True) as disk:
            assert "within 1 seconds" in refusal(tmp_path, disk, "--timeout", "1", code="timed-out")
            assert reached.is_set()
        _, status = os.waitpid(-1, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
    finally:
        prctl.set_child_subreaper(False)


def test_disk_whose_opening_is_not_answered(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    image = disks.build(extlinux_disk(kernel=kernel))
    with flaky_disk(tmp_path, image, failing_from(0), opening=NEVER) as disk:
        assert "within 1 seconds" in refusal(tmp_path, disk, "--timeout", "1", code="timed-out")
