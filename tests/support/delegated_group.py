# SPDX-License-Identifier: GPL-3.0-or-later
"""A control group that is delegated as systemd delegates one, with this process in it while it lasts."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

#: What is the owner's of a group that is delegated, cgroups(7); all else in it stays the host's.
_OWNED = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")


@contextlib.contextmanager
def delegated_group(folder: Path, owner: int = 0) -> Iterator[Path]:
    """Where it is seen: below `folder`, where the tree is mounted for that. It is delegated to the uid `owner`."""
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    folder.mkdir()
    if subprocess.run(["mount", "-t", "cgroup2", "cgroup2", folder], capture_output=True, check=False).returncode:
        pytest.skip("this machine has no cgroup v2")
    home = folder / own.lstrip("/")
    group = home / f"domward-test-{os.getpid()}"
    try:
        group.mkdir()
        os.setxattr(group, "trusted.delegate", b"1")
        if owner:
            os.setxattr(group, "user.delegate", b"1")
            for path in (group, *(group / name for name in _OWNED)):
                os.chown(path, owner, owner)
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
