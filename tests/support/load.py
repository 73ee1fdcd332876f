# SPDX-License-Identifier: GPL-3.0-or-later
"""Many clients at once on one daemon, each a process with a uid of its own, well and badly behaved ones among them.

    found = crowd(running, disk, clients=50, operations=20, messages=2000, sha256=..., quota=64)

Every well-behaved client has `operations` under way at once, makes `messages` small requests besides, and checks every
answer: each operation has one completion with the right kernel, each request its one last answer. Meanwhile there are:

- a silent one, that connects and says nothing, and one that says hello and never reads what it asks for
- a slow one, that reads a message now and then
- one that sends what nobody may, again and again, on new connections
- an over-quota one, that asks for more operations than it may have
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domward.protocol import control, wire
from domward.protocol.client import Screen
from domward.protocol.errors import RefusedError
from support.daemons import OPERATORS, RunningDaemon

FIRST_UID = 62_000
SECONDS = 400.0  # for everything; what is slow fails by this, and nothing is measured by it


@dataclass(frozen=True)
class Found:
    """What the crowd found: sums over the well-behaved clients, times in seconds, sizes in bytes."""

    completed: int
    answered: int
    seconds: float
    slowest_answer: float
    median_answer: float
    refused: int
    violations: int
    daemon_bytes: int


def crowd(
    running: RunningDaemon, disk: Path, *, clients: int, operations: int, messages: int, sha256: str, quota: int
) -> Found:
    """Has everybody do their work and tells what came of it. `quota` is the most live operations of one uid."""
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(disk.open("rb")).fileno()
        bad = [
            stack.enter_context(_process(FIRST_UID + 900 + place, lambda work=work: work(running)))
            for place, work in enumerate((_silent, _never_reads, _slow, _malformed))
        ]
        greedy = stack.enter_context(_process(FIRST_UID + 990, lambda: _greedy(running, opened, quota)))
        started = time.monotonic()
        good = [
            stack.enter_context(
                _process(FIRST_UID + place, lambda: _well_behaved(running, opened, operations, messages, sha256))
            )
            for place in range(clients)
        ]
        answers = [_answer_of(pipe) for _pid, pipe in good]
        seconds = time.monotonic() - started
        refused = _answer_of(greedy[1])["refused"]
        for pid, _pipe in bad:
            os.kill(pid, signal.SIGTERM)
    with running.client() as client:
        text = client.metrics()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    latencies = sorted(delay for answer in answers for delay in answer["latencies"])
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return Found(
        completed=sum(answer["completed"] for answer in answers),
        answered=sum(answer["answered"] for answer in answers),
        seconds=seconds,
        slowest_answer=latencies[-1],
        median_answer=latencies[len(latencies) // 2],
        refused=refused,
        violations=int(samples['domward_violations_total{source="client"}']),
        daemon_bytes=int(status.split("VmHWM:")[1].split()[0]) * 1024,
    )


def _well_behaved(running: RunningDaemon, disk: int, operations: int, messages: int, sha256: str) -> dict[str, Any]:
    completed = answered = 0
    latencies: list[float] = []
    with running.client() as client:
        waiting = [client.run(disk, label=f"load {place}") for place in range(operations)]
        assert len({submitted.operation for submitted in waiting}) == operations
        for _ in range(messages):
            asked = time.monotonic()
            info, _steps = client.show(waiting[0].operation)
            latencies.append(time.monotonic() - asked)
            assert info.operation == waiting[0].operation
            answered += 1
        for submitted in waiting:
            with client.result(submitted) as booted:
                assert booted.completed.operation == submitted.operation
                assert booted.completed.kernel_sha256 == sha256
                assert booted.kernel is not None
                assert os.fstat(booted.kernel.fileno()).st_size == booted.completed.kernel_bytes
                completed += 1
    return {"completed": completed, "answered": answered, "latencies": latencies[:: max(1, len(latencies) // 200)]}


def _connected(running: RunningDaemon) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.connect(str(running.socket))
    return end


def _hello(end: socket.socket) -> None:
    end.send(wire.encode({"type": "hello", "request": 1, "version": 1, "client": "crowd"}))
    assert wire.decode(end.recv(65536))["type"] == "welcome"


def _silent(running: RunningDaemon) -> None:
    with _connected(running):
        signal.pause()


def _never_reads(running: RunningDaemon) -> None:
    """Watches everything and asks on and on; reads nothing. The daemon stops reading from it in the end."""
    with _connected(running) as end:
        _hello(end)
        end.send(wire.encode({"type": "watch", "request": 2}))
        number = 3
        with contextlib.suppress(OSError):
            while True:
                end.send(wire.encode({"type": "list", "request": number, "finished": True}))
                number += 1
        signal.pause()


def _slow(running: RunningDaemon) -> None:
    with running.client() as client:
        number = client.watch()
        for _message in client.messages(number):
            select.select([], [], [], 0.02)  # its pace, not a wait for anything


def _malformed(running: RunningDaemon) -> None:
    while True:
        with contextlib.suppress(OSError), _connected(running) as end:
            _hello(end)
            end.send(b"\xc1nonsense")
            while end.recv(65536):
                pass
        select.select([], [], [], 0.005)


def _greedy(running: RunningDaemon, disk: int, quota: int) -> dict[str, Any]:
    """Asks for `quota` operations and 20 more that are refused; those it has all complete."""
    refused = 0
    with running.client() as client:
        menu = Screen(menu_timeout=600)
        waiting = [client.run(disk, console=menu, label="greedy") for _ in range(quota)]
        for _ in range(20):
            with contextlib.suppress(RefusedError):
                client.run(disk)
                refused -= 1
            refused += 1
        for submitted in waiting:
            client.cancel(submitted.operation)
            received = client.next_of(submitted.request, SECONDS)
            while received is not None and not isinstance(received.message, control.CallFailed):
                received.close()
                received = client.next_of(submitted.request, SECONDS)
            assert received is not None
            assert received.message.code == "cancelled"
    return {"refused": refused}


@contextlib.contextmanager
def _process(uid: int, work: Callable[[], object]) -> Iterator[tuple[int, Any]]:
    """`work` in a forked process of `uid`'s; what it returns comes through the pipe. It is gone at the end."""
    near, far = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(near)
            os.setgroups([OPERATORS[1]])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            try:
                answer: object = work()
            except BaseException as error:  # noqa: BLE001 - carried over to the test, whatever it is
                answer = {"error": f"{type(error).__name__}: {error}"}
            with open(far, "w") as pipe:
                json.dump(answer, pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(far)
    with open(near) as pipe:
        try:
            yield pid, pipe
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _answer_of(pipe: Any) -> dict[str, Any]:
    ready, _, _ = select.select([pipe], [], [], SECONDS)
    assert ready, "a client did not finish"
    answer: dict[str, Any] = json.loads(pipe.read())
    assert "error" not in answer, answer
    return answer
