# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of docs/hosting.md, run as they stand on the page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk, expected

PAGE = Path(__file__).parents[2] / "docs" / "hosting.md"
PROGRAMS = dict(re.findall(r"^```python (\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


def run(name: str, *disks: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", PROGRAMS[name], *map(str, disks)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_page_has_three_programs_and_no_other_code() -> None:
    assert set(PROGRAMS) == {"asyncio", "poll", "threads"}
    assert PAGE.read_text().count("```") == 2 * len(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_row_17_a_program_of_the_page_prints_what_boots(name: str, disks: DiskFactory, kernel: DebianKernel) -> None:
    described = debian_disk(kernel=kernel)
    disk, wanted = disks.build(described), expected(described, kernel)
    done = run(name, disk)
    assert (done.stdout, done.stderr) == (f"{len(wanted.kernel)} {wanted.args}\n", "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_the_page_says_what_is_wrong_with_a_disk(name: str, tmp_path: Path) -> None:
    done = run(name, tmp_path / "missing.img")
    assert done.returncode == 1
    assert "missing.img" in done.stderr
