# SPDX-License-Identifier: GPL-3.0-or-later
"""Ten thousand operations of every outcome in one supervisor: nothing grows from the thousandth on.

`DOMWARD_SOAK` is another number of operations; `DOMWARD_SOAK_CURVE` is where to write the curve, as docs/soak.svg is.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.soak import check, curve, soak

from domward.supervisor import Budgets, Config

pytestmark = pytest.mark.bench

OPERATIONS = 10_000


def test_after_thousands_of_operations_nothing_has_grown(
    disks: DiskFactory, kernel: DebianKernel, tmp_path: Path
) -> None:
    (tmp_path / "good").symlink_to(disks.build(debian_disk(kernel=kernel)))
    (tmp_path / "bad").write_bytes(bytes(65536))
    config = Config(state_directory=tmp_path / "state", budgets=Budgets(term_grace_seconds=0.5))
    count = int(os.environ.get("DOMWARD_SOAK", OPERATIONS))
    found = asyncio.run(soak(count, config, tmp_path))
    print(f"\n{found.report()}")
    if "DOMWARD_SOAK_CURVE" in os.environ:
        title = f"{count} operations of mixed outcome in one supervisor"
        Path(os.environ["DOMWARD_SOAK_CURVE"]).write_text(curve(found, title))
    check(found)
