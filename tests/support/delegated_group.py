# SPDX-License-Identifier: GPL-3.0-or-later
"""A control group that is delegated as systemd delegates one, with this process in it while it lasts."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def delegated_group(folder: Path) -> Iterator[Path]:
    """Where it is seen: below `folder`, where the tree is mounted for that."""
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    folder.mkdir()
    if subprocess.run(["mount", "-t", "cgroup2", "cgroup2", folder], capture_output=True, check=False).returncode:
        pytest.skip("this machine has no cgroup v2")
    home = folder / own.lstrip("/")
    group = home / f"domward-test-{os.getpid()}"
    try:
        group.mkdir()
        os.setxattr(group, "trusted.delegate", b"1")
        (group / "cgroup.procs").write_text("0")
        yield group
    finally:
        (home / "cgroup.procs").write_text("0")
        for inner in group.iterdir():
            if inner.is_dir():
                inner.rmdir()
        group.rmdir()
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
