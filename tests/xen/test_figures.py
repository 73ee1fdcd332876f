# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures of docs/xen.md: many creates, nothing left over after each, and the time of one beside pygrub's.

`make xen PYTEST_ARGS="-s -m bench"` makes them anew. No time is asserted.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

pytestmark = pytest.mark.bench


def test_the_figures_of_a_real_xen(dom0: Path) -> None:
    found = json.loads((dom0 / "figures.json").read_text())
    errors = [check["error"] for check in found.values() if "error" in check]
    assert not errors, errors[0]
    seconds = found["in_turn"]["seconds"]
    peer = median(seconds["pygrub"])
    for name, readings in seconds.items():
        print(f"xl create -p with {name}: {median(readings):.1f} s ({median(readings) / peer:.2f}) of {readings}")
    created = found["at_once"]["codes"].count(0)
    print(f"5 at once: {found['at_once']['seconds']} s, of which xl created {created}")
    assert found["at_once"]["bootloaders"] == ["done"] * 5
    assert found["at_once"]["left_after"] == []
    assert found["one_after_another"]["created"] == 20
    assert found["one_after_another"]["left_after_each"] == []
    assert [check["left"] for check in found.values()] == [[]] * 3
