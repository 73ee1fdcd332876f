# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of a small fleet, as far as logs go: each has its own network, name, /run and /var/log, and runs real daemons.

with fleet("collector", "dom0-a", "dom0-b") as (collector, one, other):
    one.start("rsyslogd", "-n", "-f", configuration)
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

_SECONDS = 90
_LIFE = (
    'hostname "$1"; mount -t tmpfs -o mode=0755 run /run; mount -t tmpfs -o mode=0755 log /var/log; ip link set lo up; '
    "mkdir -p /run/systemd/journal; echo ready; exec sleep infinity"
)


class Host:
    """One host: a process that holds its namespaces, and what was started in them."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        self._stack = stack
        words = ("unshare", "-m", "-n", "-u", "--propagation", "private", "bash", "-c", _LIFE, "bash", name)
        self._holder = self._popen(words, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.pid = self._holder.pid

    def start(self, *words: str | Path) -> None:
        """Starts a program there, which is ended with the fleet."""
        self._popen((*self._enter(), *words), stdout=subprocess.DEVNULL)

    def run(self, *words: str | Path) -> str:
        """Runs a program there to its end and returns what it printed."""
        done = subprocess.run((*self._enter(), *words), capture_output=True, check=False, timeout=_SECONDS, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def path(self, path: str) -> Path:
        """A file of that host, from here."""
        return Path(f"/proc/{self.pid}/root{path}")

    def _enter(self) -> tuple[str, ...]:
        return ("nsenter", "-t", str(self.pid), "-m", "-n", "-u", "--")

    def _popen(self, words: tuple[str | Path, ...], stdout: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL)
        self._stack.callback(_end, process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextlib.contextmanager
def fleet(collector: str, *senders: str) -> Iterator[tuple[Host, ...]]:
    """A collector, and senders each with a wire of its own to it: the collector is 10.99.N.1 for sender N from 1 on."""
    with ExitStack() as stack:
        middle = Host(collector, stack)
        hosts = [Host(name, stack) for name in senders]
        for number, host in enumerate(hosts, 1):
            subprocess.run(
                ["nsenter", "-t", str(middle.pid), "-n", "ip", "link", "add", f"to-{number}", "type", "veth",
                 "peer", "name", "wire", "netns", str(host.pid)],
                check=True,
            )  # fmt: skip
            for one, name, address in ((middle, f"to-{number}", 1), (host, "wire", 2)):
                one.run("ip", "address", "add", f"10.99.{number}.{address}/24", "dev", name)
                one.run("ip", "link", "set", name, "up")
        yield (middle, *hosts)


def until(holds: Callable[[], bool]) -> None:
    """Waits for what other programs do in their own time."""
    end = time.monotonic() + _SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def needs(*programs: str) -> None:
    """Skips the test where one of `programs` is not installed."""
    for program in programs:
        if shutil.which(program, path="/usr/bin:/usr/sbin:/bin:/sbin:/lib/systemd") is None:
            pytest.skip(f"this machine has no {Path(program).name}")
