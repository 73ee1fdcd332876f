# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheel in a clean virtual environment: its command does the main job, and takes nothing from the environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk, expected

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a virtual environment into which pip installed the wheel of this tree, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin/python", "-I", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, REPOSITORY], check=True, capture_output=True)
    (wheel,) = folder.glob("domward-*.whl")
    subprocess.run([*pip, "install", wheel], check=True, capture_output=True)
    return environment / "bin"


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, str]:
    """An environment of which any Python that honours it says so on standard output."""
    for name in ("sitecustomize", "usercustomize", "os", "argparse", "domward", "msgpack"):
        (tmp_path / f"{name}.py").write_text("print('taken from the environment')\n")
    return {
        "PATH": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "os.py"),
        "HOME": str(tmp_path),
        "ENV": str(tmp_path / "os.py"),
    }


def test_the_installed_command_does_the_main_job(
    scripts: Path, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path
) -> None:
    wanted = expected(debian_disk("ext4", kernel=kernel), kernel)
    disk = disks.build(debian_disk("ext4", kernel=kernel))
    out = tmp_path / "out"
    command = [scripts / "domward", "run", disk, "--output-dir", out, "--json"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["args"] == wanted.args
    assert (out / "kernel").read_bytes() == wanted.kernel
    assert (out / "ramdisk").read_bytes() == wanted.ramdisk


def test_row_15_the_installed_commands_take_nothing_from_the_environment(
    scripts: Path, hostile: dict[str, str], tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere"
    link.symlink_to(scripts / "domward")
    for command in (link, *(scripts / name for name in ("domward", "domwardd", "domward-bootloader"))):
        done = subprocess.run([command, "--version"], env=hostile, cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(b"domward")
        assert b"environment" not in done.stdout


def test_that_environment_does_reach_a_python_that_honours_it(hostile: dict[str, str]) -> None:
    del hostile["PYTHONHOME"]
    done = subprocess.run([sys.executable, "-c", ""], env=hostile, capture_output=True, check=False)
    assert b"taken from the environment" in done.stdout
