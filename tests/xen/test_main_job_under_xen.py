# SPDX-License-Identifier: GPL-3.0-or-later
"""On a real dom0: the main job with the wheel, installed by pip, and the package; each as an administrator would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.guests import debian_disk, expected

from domward import __version__


@pytest.mark.xen
def test_the_wheel_does_the_main_job_in_dom0(dom0: Path) -> None:
    assert (dom0 / "kernel-release").read_text().startswith("6.1.")
    assert (dom0 / "hypervisor").read_text().strip() == "xen"
    assert not (dom0 / "doctor.status").exists(), (dom0 / "doctor.err").read_text()
    wanted = expected(debian_disk("ext4", scheme="gpt", separate_boot=True))
    answer = json.loads((dom0 / "run.json").read_text())
    assert answer["args"] == wanted.args
    assert (dom0 / "out/kernel").read_bytes() == wanted.kernel
    assert (dom0 / "out/ramdisk").read_bytes() == wanted.ramdisk
    assert (dom0 / "out/args").read_text() == wanted.args
    assert (dom0 / "leftovers").read_text() == ""


@pytest.mark.xen
def test_what_domains_are_made_with_is_the_package_and_a_purge_leaves_nothing(dom0: Path) -> None:
    assert (dom0 / "package").read_text() == f"installed {__version__}", (dom0 / "dpkg.out").read_text()
    assert (dom0 / "changed").read_text() == ""
    assert (dom0 / "purged").read_text() == ""
