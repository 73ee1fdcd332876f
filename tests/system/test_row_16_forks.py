# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 16: the application forks while operations run: the child is refused every call, and nothing reaches the parent.

The children end in every way there is: at once, by leaving the interpreter with all that it would clean up, by exec.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk

COMMON = """
import asyncio, gc, os, select, signal, sys, warnings
from pathlib import Path
from domward.protocol.errors import UsageError
from domward.supervisor import BootRequest, HostedSupervisor, Supervisor, ThreadedSupervisor

warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: it is what this is about
disk, ending = Path(sys.argv[1]), sys.argv[2]
children = []

def refused(*calls):
    for call in calls:
        try:
            call()
        except UsageError as error:
            assert "forked child" in str(error), error
        else:
            raise AssertionError(f"{call} was not refused")

def fork(in_the_child, ending=ending):
    "Forks; the child sees that all is refused, and ends as it is told to."
    pid = os.fork()
    if pid:
        children.append(pid)
        return
    try:
        in_the_child()
        gc.collect()
        if ending == "exec":
            os.execv("/bin/true", ["true"])
        if ending == "leave":
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # asyncio speaks of tasks that never ended
            raise SystemExit(0)
        os._exit(0)
    except Exception as error:
        os.write(2, f"{error!r}\\n".encode())
        os._exit(1)

def see_children_end():
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    print(len(children), "children")
"""

HOSTED = """
with HostedSupervisor() as supervisor:
    def steps(step):
        # In the midst of a step: the loop runs, the operation is under way.
        fork(lambda: refused(supervisor.fileno, supervisor.process, supervisor.close, operation.cancel,
                             operation.result, lambda: supervisor.inspect(disk)),
             "at-once" if ending == "leave" else ending)  # it would leave by way of the parent's loop
    operation = supervisor.run_bootloader(BootRequest(disk=disk), on_progress=steps)
    poll = select.poll()
    poll.register(supervisor.fileno(), select.POLLIN)
    while not operation.done():
        assert poll.poll(60_000)
        supervisor.process()
        fork(lambda: refused(supervisor.process, supervisor.close))
        os.waitid(os.P_PID, children[-1], os.WEXITED | os.WNOWAIT)  # all that it does, it has done
    operation.result().close()
    second = supervisor.inspect(disk)
    while not second.done():
        assert poll.poll(60_000)
        supervisor.process()
    assert second.result().entries
see_children_end()
"""

THREADED = """
with ThreadedSupervisor() as supervisor:
    for _ in range(5):
        operation = supervisor.run_bootloader(BootRequest(disk=disk))
        fork(lambda: refused(supervisor.close, operation.cancel, operation.result, lambda: supervisor.inspect(disk)))
        operation.result(60).close()
    assert supervisor.inspect(disk).result(60).entries
see_children_end()
"""

ASYNCIO = """
async def main():
    async with Supervisor() as supervisor:
        def steps(step):
            fork(lambda: refused(lambda: supervisor.inspect_operation(disk), operation.cancel, operation.start,
                                 lambda: supervisor.close().send(None), lambda: supervisor.open().send(None)))
        operation = supervisor.bootloader_operation(BootRequest(disk=disk))
        operation.on_progress(steps)
        (await operation.complete()).close()
        assert (await supervisor.inspect(disk)).entries

asyncio.run(main())
see_children_end()
"""


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk(kernel=kernel))


PROGRAMS = {"hosted": HOSTED, "threaded": THREADED, "asyncio": ASYNCIO}
# Where the whole program is a loop's, a child cannot leave: the loop's copy would go on, on the parent's fds.
CASES = [(name, ending) for name in PROGRAMS for ending in ("at-once", "exec", "leave")]
CASES.remove(("asyncio", "leave"))


@pytest.mark.parametrize(("name", "ending"), CASES)
def test_row_16_children_are_refused_everything_and_disturb_nothing(name: str, ending: str, disk: Path) -> None:
    command = [sys.executable, "-c", COMMON + PROGRAMS[name], str(disk), ending]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    assert done.stdout.endswith("children\n")
    assert int(done.stdout.split()[-2]) >= 5
