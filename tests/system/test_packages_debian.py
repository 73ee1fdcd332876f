# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian package: built from a clean clone, looked at by lintian; installed, used and removed in a clean Debian.

That Debian is a real one, with systemd as process 1 (`support.debian_machine`); it has what the package depends on and
no network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.debian_machine import DebianMachine, debian_tree
from support.disks import DiskFactory
from support.guests import debian_disk, expected
from support.packages import Source


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this tree."""
    folder = tmp_path_factory.mktemp("deb")
    return Source(folder).deb(folder)


@pytest.fixture
def share(tmp_path: Path, deb: Path) -> Path:
    """A folder with the package, for a machine's /mnt."""
    share = tmp_path / "share"
    share.mkdir()
    shutil.copy(deb, share / "domward.deb")
    return share


def test_row_01_the_package_is_built_from_a_clean_clone_that_stays_clean_and_twice_the_same(
    tmp_path: Path, deb: Path
) -> None:
    source = Source(tmp_path)
    again = source.deb(source.path / "build/deb")
    assert source.status() == ""
    assert again.name == deb.name
    assert again.read_bytes() == deb.read_bytes()


def test_lintian_finds_no_error(deb: Path) -> None:
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", deb]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_installed_package_does_the_main_job_and_a_removed_one_leaves_nothing(
    share: Path, disks: DiskFactory, kernel: DebianKernel
) -> None:
    wanted = expected(debian_disk("ext4", kernel=kernel), kernel)
    disks.copy(debian_disk("ext4", kernel=kernel), share / "guest.img")
    with DebianMachine(debian_tree(), share) as machine:
        before = files(machine)
        machine.run("dpkg", "--install", "/mnt/domward.deb")
        assert machine.run("domward", "run", "/mnt/guest.img", "--output-dir", "/root/out").stderr == ""
        assert machine.path("/root/out/kernel").read_bytes() == wanted.kernel
        assert machine.path("/root/out/args").read_text() == wanted.args
        assert json.loads(machine.run("domward", "doctor", "--json").stdout)["usable"] is True
        shutil.rmtree(machine.path("/root/out"))
        machine.run("dpkg", "--purge", "domward")
        assert files(machine) == before


def test_row_15_nothing_of_the_callers_environment_reaches_the_installed_commands(share: Path) -> None:
    hostile = share / "hostile"
    hostile.mkdir()
    for name in ("sitecustomize", "usercustomize", "os", "argparse", "domward", "msgpack"):
        (hostile / f"{name}.py").write_text("print('taken from the environment')\n")
    with DebianMachine(debian_tree(), share) as machine:
        machine.run("dpkg", "--install", "/mnt/domward.deb")
        settings = {"PYTHONPATH": "/mnt/hostile", "HOME": "/mnt/hostile", "PYTHONUSERBASE": "/mnt/hostile"}
        assert "taken" in machine.run("python3", "-c", "", **settings).stdout  # it would be seen
        for command in (["domward", "--version"], ["domward", "doctor"]):
            assert "taken" not in machine.run(*command, **settings).stdout


def files(machine: DebianMachine) -> set[str]:
    """All files and folders of the machine that are to be as they were once the package is purged."""
    places = ["/etc", "/usr", "/var/lib", "/var/log", "/srv", "/opt", "/root"]
    moving = ("/var/lib/dpkg/", "/var/log/journal/", "/var/log/dpkg.log")
    found = machine.run("find", *places, "-xdev", "-print0").stdout.rstrip("\0").split("\0")
    return {path for path in found if not path.startswith(moving)}
