# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 22: a thousand children have one death event each, and whole operations work, whatever the host does to SIGCHLD.

Each host is a process of its own, since what it does is done to the whole process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk

MANNERS = ["polite", "owns", "ignores", "reaps"]

HOST = """
import asyncio, collections, contextlib, os, signal, sys, threading
from pathlib import Path
from domward.protocol.fds import Fd
from domward.supervisor import BootRequest, Supervisor
from domward.supervisor.children import Child
from domward.supervisor.events import Events

manners = sys.argv[1]
ended = threading.Event()
heard = []

def reap():
    while not ended.is_set():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)

if manners == "owns":
    def reap_all(number, frame):
        heard.append(number)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    signal.signal(signal.SIGCHLD, reap_all)
elif manners == "ignores":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
thread = threading.Thread(target=reap)
if manners == "reaps":
    thread.start()
"""

END = """
ended.set()
if manners == "reaps":
    thread.join()
assert manners != "owns" or heard
print("done")
"""

CHILDREN = (
    HOST
    + """
async def main(count):
    events = Events(asyncio.get_running_loop())
    deaths = collections.Counter()
    statuses = collections.Counter()

    def died(number):
        def count_it(future):
            deaths[number] += 1
            statuses[future.result() is None or future.result() == number % 7] += 1
        return count_it

    number = 0
    while number < count:
        batch = []
        for number in range(number, min(number + 200, count)):
            go, wait = os.pipe()[::-1]
            pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"read go; exit {number % 7}"], {},
                                 file_actions=[(os.POSIX_SPAWN_DUP2, wait, 0)])
            child = Child(pid, Fd(os.pidfd_open(pid), "pidfd"), "sh", events)
            child.death.add_done_callback(died(number))
            os.close(wait)
            batch.append((child, go))
        for _, go in batch:
            os.close(go)
        for child, _ in batch:
            await child.death
        number += 1
    await asyncio.sleep(0)
    events.close()
    assert len(deaths) == count and set(deaths.values()) == {1}, deaths
    assert set(statuses) == {True}, statuses

asyncio.run(main(int(sys.argv[2])))
"""
    + END
)

OPERATIONS = (
    HOST
    + """
async def main(disk):
    async with Supervisor() as supervisor:
        results = await asyncio.gather(*(supervisor.run_bootloader(BootRequest(disk=disk)) for _ in range(5)))
        for result in results:
            assert result.kernel.size > 0
            result.close()
        try:
            await supervisor.inspect(Path("/nowhere"))
        except Exception as error:
            assert error.code == "disk-not-found", error

asyncio.run(main(Path(sys.argv[2])))
"""
    + END
)


def run(program: str, manners: str, argument: str) -> None:
    command = [sys.executable, "-W", "error", "-c", program, manners, argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("manners", MANNERS)
def test_row_22_every_child_of_a_thousand_has_one_death_event_with_its_status(manners: str) -> None:
    run(CHILDREN, manners, "1000")


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk(kernel=kernel))


@pytest.mark.parametrize("manners", MANNERS)
def test_row_22_operations_work_whatever_the_application_does_about_children(manners: str, disk: Path) -> None:
    run(OPERATIONS, manners, str(disk))
