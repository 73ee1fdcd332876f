# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon under load: 1,000 operations at once from 50 clients and 100,000 messages, the bad clients among them."""

from __future__ import annotations

import hashlib

import pytest
from support.daemons import daemon, public_folder
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.load import crowd

from domward.protocol import limits

CLIENTS, OPERATIONS, MESSAGES = 50, 20, 2000


@pytest.mark.bench
def test_a_thousand_operations_from_fifty_clients(disks: DiskFactory, kernel: DebianKernel) -> None:
    disk = disks.build(debian_disk("ext4", kernel=kernel))
    sha256 = hashlib.sha256(kernel.vmlinuz.read_bytes()).hexdigest()
    with public_folder() as folder, daemon(folder, {"operations": {"finished": 4096}}) as running:
        found = crowd(
            running,
            disk,
            clients=CLIENTS,
            operations=OPERATIONS,
            messages=MESSAGES,
            sha256=sha256,
            quota=limits.LIVE_OPERATIONS_PER_UID,
        )
    assert found.completed == CLIENTS * OPERATIONS
    assert found.answered == CLIENTS * MESSAGES
    assert found.refused == 20
    print(
        f"\n{found.completed} operations and {found.answered} messages in {found.seconds:.1f} s; "
        f"answers: median {found.median_answer * 1000:.1f} ms, slowest {found.slowest_answer * 1000:.0f} ms; "
        f"malformed clients turned out: {found.violations}; "
        f"largest resident memory of the daemon: {found.daemon_bytes / limits.MIB:.0f} MiB"
    )
    assert found.daemon_bytes < 512 * limits.MIB
