# SPDX-License-Identifier: GPL-3.0-or-later
"""A client in C, written from docs/control-protocol.md alone, does the daemon's main job."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemons import RunningDaemon, daemon, public_folder
from support.debian_kernel import DebianKernel

from domward.protocol.client import Screen
from domward.protocol.errors import OperationCancelled

SOURCE = Path(__file__).parents[1] / "support" / "control_client.c"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("c") / "control_client"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined"]
    subprocess.run(["gcc", *flags, "-o", built, SOURCE], check=True, capture_output=True, text=True)
    return built


@pytest.fixture
def running() -> Iterator[RunningDaemon]:
    with public_folder() as folder, daemon(folder) as started:
        yield started


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True, timeout=60)


def test_it_gets_a_kernel(program: Path, running: RunningDaemon, disk: Path, kernel: DebianKernel) -> None:
    done = run(program, running.socket, "run", disk)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "role=root"
    assert "step=kernel" in lines
    assert f"kernel_sha256={hashlib.sha256(kernel.vmlinuz.read_bytes()).hexdigest()}" in lines
    assert lines[-2:] == ["file=65536", f"file={kernel.initrd.stat().st_size}"]


def test_it_lists_and_cancels(program: Path, running: RunningDaemon, disk: Path) -> None:
    with running.client() as client, disk.open("rb") as opened:
        submitted = client.run(opened.fileno(), console=Screen(menu_timeout=600), label="menu")
        assert run(program, running.socket, "cancel", submitted.operation).returncode == 0
        with pytest.raises(OperationCancelled):
            client.result(submitted)
        done = run(program, running.socket, "list")
    assert f"operation={submitted.operation}\nstate=done\noutcome=cancelled\nlabel=menu" in done.stdout


def test_it_is_told_of_errors(program: Path, running: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = run(program, running.socket, "run", tmp_path / "empty")
    assert done.returncode == 7
    assert "code=disk-empty" in done.stdout
    assert run(program, running.socket, "cancel", "boot-000000000000").returncode == 2
