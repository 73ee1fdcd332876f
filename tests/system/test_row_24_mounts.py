# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 24, where it takes root: a file system that is mounted in a tree is not emptied."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from domward.protocol.fds import Fd
from domward.supervisor.files import remove_tree


def test_row_24_a_mounted_file_system_keeps_its_files_and_is_told(tmp_path: Path) -> None:
    mounted = tmp_path / "tree" / "mounted"
    mounted.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
    try:
        (mounted / "precious").touch()
        with Fd(os.open(tmp_path, os.O_PATH | os.O_CLOEXEC), "folder") as folder:
            left = remove_tree(folder, "tree")
        assert [entry.path for entry in left] == ["tree/mounted", "tree"]
        assert (mounted / "precious").exists()
    finally:
        subprocess.run(["umount", mounted], check=True)
