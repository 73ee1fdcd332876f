# SPDX-License-Identifier: GPL-3.0-or-later
"""What many tests of the whole program begin with: a guest's disk, and a folder for a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemons import public_folder
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.tiny_guests import tiny_kernel


@pytest.fixture
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    """A Debian guest on ext4, with a kernel of 64 KiB; several tests share it, and none writes to it."""
    return disks.build(debian_disk("ext4", kernel=kernel))


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that other users can reach."""
    with public_folder() as path:
        yield path


@pytest.fixture(scope="session")
def kernel_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A kernel that qemu boots in a moment, and that does what it is told on its console (support/tiny_guest.c)."""
    return tiny_kernel(tmp_path_factory.mktemp("tiny"))
