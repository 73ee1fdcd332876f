# SPDX-License-Identifier: GPL-3.0-or-later
"""Hundreds of operations of every outcome in one supervisor leave it as it was; tests/bench has the long form."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.soak import check, soak

from domward.supervisor import Budgets, Config

OPERATIONS = 300


def test_after_hundreds_of_operations_nothing_has_grown(
    disks: DiskFactory, kernel: DebianKernel, tmp_path: Path
) -> None:
    (tmp_path / "good").symlink_to(disks.build(debian_disk(kernel=kernel)))
    (tmp_path / "bad").write_bytes(bytes(65536))
    config = Config(state_directory=tmp_path / "state", budgets=Budgets(term_grace_seconds=0.5))
    found = asyncio.run(soak(OPERATIONS, config, tmp_path))
    print(found.report())
    check(found)
