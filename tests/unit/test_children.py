# SPDX-License-Identifier: GPL-3.0-or-later
"""Real child processes: one death event each, with the status, whatever the host application does about children."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import pytest

from domward.protocol.errors import UsageError
from domward.protocol.fds import Fd
from domward.supervisor.children import Child
from domward.supervisor.events import Events


def with_events(body: Callable[[Events], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        with closing(Events(asyncio.get_running_loop())) as events:
            await body(events)

    asyncio.run(main())


def start(events: Events, *script: str, exit_info: bool = True, stdout: int | None = None) -> Child:
    actions = [] if stdout is None else [(os.POSIX_SPAWN_DUP2, stdout, 1)]
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", *script], {}, file_actions=actions)
    return Child(pid, Fd(os.pidfd_open(pid), "pidfd"), "sh", events, exit_info=exit_info)


def see(pid: int, what: int) -> None:
    """Waits in the kernel until the child has stopped or ended."""
    os.waitid(os.P_PID, pid, what)


def sleeping() -> int:
    return os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})


async def start_when_ready(events: Events, script: str) -> Child:
    """As `start`, once the script has printed a line."""
    reader, writer = os.pipe()
    with Fd(reader, "reader"), Fd(writer, "writer"):
        child = start(events, script, stdout=writer)
        await asyncio.to_thread(os.read, reader, 1)
    return child


@pytest.mark.parametrize("code", [0, 1, 70, 255])
def test_the_exit_code_is_the_status(code: int) -> None:
    async def body(events: Events) -> None:
        child = start(events, f"exit {code}")
        assert await child.death == code
        assert not child.alive
        assert child.describe_death() == f"exited with code {code}"
        assert child.pidfd.closed

    with_events(body)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1])
def test_the_signal_is_the_status(number: signal.Signals) -> None:
    async def body(events: Events) -> None:
        child = start(events, f"kill -{number.value} $$")
        assert await child.death == -number
        assert child.describe_death() == f"was killed by {number.name}"

    with_events(body)


def test_a_signal_without_a_name_is_described_by_its_number() -> None:
    async def body(events: Events) -> None:
        child = start(events, "kill -40 $$")
        assert await child.death == -40
        assert child.describe_death() == "was killed by signal 40"

    with_events(body)


def test_a_child_that_heeds_term_is_ended_by_it() -> None:
    async def body(events: Events) -> None:
        child = await start_when_ready(events, 'trap "exit 7" TERM; echo; while :; do sleep 0.01; done')
        assert await child.end(30) == 7

    with_events(body)


def test_a_child_that_ignores_term_is_killed_after_the_grace() -> None:
    async def body(events: Events) -> None:
        child = await start_when_ready(events, 'trap "" TERM; echo; while :; do sleep 0.01; done')
        assert await child.end(0.01) == -signal.SIGKILL

    with_events(body)


def test_a_stopped_child_is_no_dead_child_and_can_be_killed() -> None:
    async def body(events: Events) -> None:
        child = start(events, "exec sleep 1000")
        child.send_signal(signal.SIGSTOP)
        see(child.pid, os.WSTOPPED)
        await asyncio.sleep(0)
        assert child.alive
        assert await child.end(0.01) == -signal.SIGKILL

    with_events(body)


def test_a_dead_child_can_be_signalled_ended_and_killed_in_vain() -> None:
    async def body(events: Events) -> None:
        child = start(events, "exit 3")
        see(child.pid, os.WEXITED | os.WNOWAIT)
        child.send_signal(signal.SIGKILL)  # dead, its death event is still to come
        assert await child.death == 3
        child.send_signal(signal.SIGKILL)
        assert await child.end(1) == 3
        assert await child.kill() == 3

    with_events(body)


def test_a_hundred_children_have_one_death_event_each() -> None:
    async def body(events: Events) -> None:
        children = [start(events, f"exit {number}") for number in range(100)]
        deaths: list[int | None] = []
        for child in children:
            child.death.add_done_callback(lambda death: deaths.append(death.result()))
        assert await asyncio.gather(*(child.death for child in children)) == list(range(100))
        await asyncio.sleep(0)
        assert sorted(status for status in deaths if status is not None) == list(range(100))

    with_events(body)


def test_waiting_for_a_death_can_be_given_up_without_losing_it() -> None:
    async def body(events: Events) -> None:
        child = start(events, "exec sleep 1000")
        killing = asyncio.ensure_future(child.kill())
        await asyncio.sleep(0)
        killing.cancel()
        assert await asyncio.shield(child.death) == -signal.SIGKILL

    with_events(body)


def test_a_child_that_cannot_be_watched_is_ended_at_once() -> None:
    async def main() -> None:
        events = Events(asyncio.get_running_loop())
        events.close()
        pid = sleeping()
        pidfd = Fd(os.pidfd_open(pid), "pidfd")
        with pytest.raises(UsageError):
            Child(pid, pidfd, "sleep", events)
        assert pidfd.closed
        with pytest.raises(ChildProcessError):
            see(pid, os.WEXITED)

    asyncio.run(main())


# What a host application may do about children, in a process of its own since it is the whole process that does it.
HOST = """
import asyncio, os, signal, sys, threading
from domward.protocol.fds import Fd
from domward.supervisor.children import Child
from domward.supervisor.events import Events

manners, exit_info, script = sys.argv[1], sys.argv[2] == "with-exit-info", sys.argv[3]
if manners == "ignore":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)

async def main():
    events = Events(asyncio.get_running_loop())
    go, wait = os.pipe()[::-1]
    actions = [(os.POSIX_SPAWN_DUP2, wait, 0)]
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "read go; " + script], {}, file_actions=actions)
    child = Child(pid, Fd(os.pidfd_open(pid), "pidfd"), "sh", events, exit_info=exit_info)
    if manners == "reap":
        thread = threading.Thread(target=os.waitpid, args=(-1, 0))
        thread.start()
        os.write(go, b"\\n")
        thread.join()  # this loop has not gone round: the other thread was first
    else:
        os.write(go, b"\\n")
    print(await child.death, child.describe_death())
    events.close()

asyncio.run(main())
"""


def host(manners: str, exit_info: str, script: str) -> str:
    command = [sys.executable, "-W", "error", "-c", HOST, manners, exit_info, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.strip()


def kernel_keeps_exit_info() -> bool:
    return tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 15)


@pytest.mark.parametrize("manners", ["ignore", "reap"])
@pytest.mark.parametrize(("script", "status"), [("exit 9", "9 exited with code 9"), ("kill -9 $$", "-9 was killed")])
def test_the_status_is_known_although_somebody_else_reaped(manners: str, script: str, status: str) -> None:
    if not kernel_keeps_exit_info():
        pytest.skip("this kernel has no exit status in PIDFD_GET_INFO")
    assert host(manners, "with-exit-info", script).startswith(status)


@pytest.mark.parametrize("manners", ["ignore", "reap"])
def test_the_status_is_unknown_where_the_kernel_cannot_tell(manners: str) -> None:
    said = host(manners, "without", "exit 9")
    assert said == "None ended with a status that nobody can tell any more"


def test_without_exit_info_a_status_that_we_reap_ourselves_is_known() -> None:
    assert host("polite", "without", "exit 9") == "9 exited with code 9"
