# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 06: opening and closing a supervisor, whole, half-started or failed at each step, leaves nothing, however often.

A thousand supervisors that fail at one step or another, and some that start a launcher; with DOMWARD_LONG set, a
thousand of those as well. The leak check of every test looks at fds, children, threads, mounts and files afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.planted import planted

from domward.protocol.errors import ConfinementFailed, DomwardError, HelperDied, OperationFailed, UsageError
from domward.supervisor import Config, Supervisor, events
from domward.supervisor.launcher_process import LauncherProcess

FAILURES = 250
STARTS = 1000 if os.environ.get("DOMWARD_LONG") else 40


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def refuse(*_arguments: Any, **_named: Any) -> NoReturn:
    raise OSError(errno.EMFILE, "Too many open files")


def fail(config: Config, error: type[Exception], times: int) -> None:
    async def main() -> None:
        before = fds()
        for _ in range(times):
            supervisor = Supervisor(config)
            with pytest.raises(error):
                await supervisor.open()
            with pytest.raises(UsageError):
                await supervisor.open()
            await supervisor.close()
            assert fds() == before

    asyncio.run(main())


def test_row_06_no_epoll_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    class Select:
        epoll = staticmethod(refuse)

        def __getattr__(self, name: str) -> Any:
            return getattr(select, name)

    monkeypatch.setattr(events, "select", Select())
    fail(Config(), OperationFailed, FAILURES)


def test_row_06_no_uid_leases(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    fail(Config(state_directory=tmp_path / "file"), OperationFailed, FAILURES)


def test_row_06_no_launcher(tmp_path: Path) -> None:
    fail(Config(python=tmp_path / "missing"), OperationFailed, FAILURES)


def test_row_06_a_launcher_that_ends_at_once() -> None:
    fail(Config(python=Path("/bin/false")), HelperDied, FAILURES)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("launcher.prepare_roots = refuse", OperationFailed | ConfinementFailed),
        ("launcher.setproctitle.setproctitle = lambda title: os._exit(9)", HelperDied),
    ],
    ids=["a-step-that-the-kernel-refuses", "dead-while-it-loads"],
)
def test_row_06_a_launcher_that_fails_later(code: str, error: Any, tmp_path: Path) -> None:
    fail(Config(python=planted(tmp_path, code)), getattr(error, "__args__", (error,)), 3)


@pytest.mark.parametrize("rounds", range(6))
def test_row_06_a_supervisor_that_is_cancelled_while_it_starts(rounds: int) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(Supervisor().open())
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_row_06_a_launcher_that_was_started_early_and_never_used() -> None:
    before = fds()
    for _ in range(10):
        process = LauncherProcess(os.fspath(Config().python))
        process.end()
        process.end()
        assert fds() == before


def test_row_06_open_and_close_with_a_launcher() -> None:
    async def main() -> None:
        before = fds()
        for _ in range(STARTS):
            async with Supervisor():
                pass
            assert fds() == before

    asyncio.run(main())


@pytest.mark.parametrize("ending", ["error", "cancel", "running"])
def test_row_06_a_supervisor_closed_after_errors_and_with_operations_in_flight(ending: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))

    async def main() -> None:
        before = fds()
        async with Supervisor() as supervisor:
            for _ in range(5):
                if ending == "error":
                    with pytest.raises(DomwardError):
                        await supervisor.inspect(tmp_path / "missing")
                    continue
                operation = supervisor.inspect_operation(disk)
                operation.start()
                await asyncio.sleep(0)
                if ending == "cancel":
                    operation.cancel()
        assert fds() == before

    asyncio.run(main())


def test_row_06_an_error_in_the_block_closes_all_the_same() -> None:
    async def main() -> None:
        async with Supervisor():
            raise ZeroDivisionError

    check: Callable[[], None] = lambda: asyncio.run(main())  # noqa: E731 - one call, given to the next line
    with pytest.raises(ZeroDivisionError):
        check()
