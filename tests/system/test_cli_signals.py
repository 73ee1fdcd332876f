# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGINT, SIGTERM and SIGHUP while a command works: exit code 130, everything ended, earlier output as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.commands import COMMAND, SECONDS, EarlierOutput, Ran
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.flaky_disk import blocking_from, flaky_disk
from support.guests import extlinux_disk

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupted(disk: Path, reached: threading.Event, numbers: tuple[signal.Signals, ...], *words: str | Path) -> Ran:
    """Runs the command with `words`, sends it the signals once its helper is stuck in a read, and waits."""
    with subprocess.Popen((*COMMAND, *words, disk), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert reached.wait(SECONDS)
        for number in numbers:
            process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
        return Ran(process.returncode, out.decode("ascii"), err.decode("ascii"))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_cancels(number: signal.Signals, disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    earlier = EarlierOutput.made(tmp_path / "earlier")
    before = earlier.state()
    reached = threading.Event()
    with flaky_disk(tmp_path, disks.build(extlinux_disk(kernel=kernel)), blocking_from(0, reached)) as disk:
        ran = interrupted(disk, reached, (number,), "run", "--json", "--output-dir", earlier.folder)
    assert "cancelled" in ran.error("cancelled")
    error = ran.json()["error"]
    assert (error["code"], error["exit_code"]) == ("cancelled", 130)
    assert error["operation"].startswith("boot-")
    assert earlier.state() == before


def test_impatient_signals_change_nothing(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    reached = threading.Event()
    with flaky_disk(tmp_path, disks.build(extlinux_disk(kernel=kernel)), blocking_from(0, reached)) as disk:
        ran = interrupted(disk, reached, SIGNALS * 3, "inspect")
    ran.error("cancelled")


def test_a_new_folder_goes_away_again(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    reached = threading.Event()
    with flaky_disk(tmp_path, disks.build(extlinux_disk(kernel=kernel)), blocking_from(0, reached)) as disk:
        interrupted(disk, reached, (signal.SIGTERM,), "run", "--output-dir", tmp_path / "out").error("cancelled")
    assert not (tmp_path / "out").exists()


def test_a_hang_up_that_nohup_ignores(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    reached = threading.Event()
    with flaky_disk(tmp_path, disks.build(extlinux_disk(kernel=kernel)), blocking_from(0, reached)) as disk:
        command = ("nohup", *COMMAND, "run", "--timeout", "3", disk)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert reached.wait(SECONDS)
            process.send_signal(signal.SIGHUP)
            _out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 5
    assert b"domward: timed-out: " in err


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_while_the_command_loads(number: signal.Signals, tmp_path: Path) -> None:
    # Sent to itself while it is blocked, as it is from the entry point's first line on.
    program = (
        "import os, signal, sys\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])\n"
        f"os.kill(os.getpid(), {int(number)})\n"
        "from domward.supervisor.command import main\n"
        "sys.exit(main())\n"
    )
    words = ("run", "--json", "--output-dir", tmp_path / "out", tmp_path / "disk")
    done = subprocess.run([sys.executable, "-I", "-c", program, *words], capture_output=True, check=False)
    ran = Ran(done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii"))
    assert "Interrupted" in ran.error("cancelled")
    assert ran.json()["error"]["exit_code"] == 130
    assert [*tmp_path.iterdir()] == []
