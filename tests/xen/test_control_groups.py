# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operation's control group bounds, under a kernel whose controllers are in the unified tree; Linux 6.1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

MIB = 1024 * 1024


@pytest.mark.xen
def test_row_10_processes_that_together_need_too_much_memory_are_one_typed_failure(dom0: Path) -> None:
    assert (dom0 / "groups.json").exists(), (dom0 / "groups.out").read_text()
    found = json.loads((dom0 / "groups.json").read_text())
    assert found["bounds"] == {
        "memory.max": str(2 * (16 + 64 + 128) * MIB),
        "memory.oom.group": "1",
        "pids.max": "20",
    } | ({"memory.swap.max": "0"} if "memory.swap.max" in found["bounds"] else {})
    assert found["eater"]["code"] == 1
    assert found["eater"]["said"].startswith("domward: out-of-memory: ")
    assert found["after"] == {"code": 0, "said": ""}
    assert found["left"] == []
    assert set(found["handed on"]) == {"memory", "pids"}
