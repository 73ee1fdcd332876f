# SPDX-License-Identifier: GPL-3.0-or-later
"""A real domwardd for tests, with settings, socket and state of its own, and clients of it with other uids.

    with daemon(folder) as running:
        with running.client() as client:
            client.list()

It is up when it says so to its service manager, which is a socket of the test's. At the end it is told to stop, and
must end with 0 and leave neither a socket nor a record.
"""

from __future__ import annotations

import array
import contextlib
import os
import pickle
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from domward.protocol import control
from domward.protocol.client import Client
from support.leaks import HELPER_UIDS

SECONDS = 20  # for a machine that is busy
OPERATORS, AUDITORS = ("operator", 37), ("adm", 4)  # groups of every Debian
ResultT = TypeVar("ResultT")


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that everybody can look into, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="control-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Notices:
    """The service manager's end: what a service said, in order, and the fds that it had stored."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(SECONDS)
        self.stored: dict[str, int] = {}

    def next(self) -> dict[str, str]:
        """The next notice."""
        data, ancillary, _flags, _address = self._socket.recvmsg(8192, socket.CMSG_SPACE(64))
        found = dict(line.split("=", 1) for line in data.decode().splitlines())
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content)
                self.stored[found["FDNAME"]] = numbers[0]
        if "FDSTOREREMOVE" in found and found["FDNAME"] in self.stored:
            os.close(self.stored.pop(found["FDNAME"]))
        return found

    def until(self, key: str) -> dict[str, str]:
        """The next notice that has `key`; those before it are dropped."""
        while key not in (found := self.next()):
            pass
        return found

    def close(self) -> None:
        """Closes the socket and what is stored."""
        self._socket.close()
        for number in self.stored.values():
            os.close(number)
        self.stored.clear()


@dataclass
class RunningDaemon:
    """A daemon that serves. `folder` holds its settings, socket, state and logs."""

    folder: Path
    process: subprocess.Popen[bytes]
    notices: Notices
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "log.txt"

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / "control.sock"

    def client(self, name: str = "test") -> Client:
        """A new connection."""
        return Client(self.socket, name)

    def as_user(self, uid: int, gid: int, work: Callable[[Client], ResultT], groups: tuple[int, ...] = ()) -> ResultT:
        """What `work` returns or raises in a child process of that user's, with a connection of its own."""

        def connected() -> ResultT:
            with self.client() as client:
                return work(client)

        return in_child(uid, gid, groups, connected)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Has it end with a signal, and returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def records(self) -> list[str]:
        """The operations that it has noted as being under way."""
        return sorted(os.listdir(self.folder / "state" / "operations"))


def shown_by(client: Client, operation: str, until: bytes) -> tuple[control.Attached, bytes]:
    """Attaches to the console of `operation`; what it shows up to `until`, which must come."""
    console = client.attach(operation)
    shown = b""
    while until not in shown:
        received = client.next_of(console.request, SECONDS)
        assert received is not None, f"{until!r} is not shown: {shown!r}"
        assert isinstance(received.message, control.Output), f"{received.message} after {shown!r}"
        shown += received.message.content
    return console, shown


def settings_text(folder: Path, more: dict[str, dict[str, Any]] | None = None) -> str:
    """Settings for a daemon in `folder`; `more` adds to tables or replaces keys."""
    tables: dict[str, dict[str, Any]] = {
        "control": {
            "socket": str(folder / "control.sock"),
            "operator_group": OPERATORS[0],
            "auditor_group": AUDITORS[0],
        },
        "files": {
            "state_directory": str(folder / "state"),
            "log_directory": str(folder / "logs" / "console"),
            "audit_log": "",
        },
    }
    for table, keys in (more or {}).items():
        tables.setdefault(table, {}).update(keys)
    lines = []
    for table, keys in tables.items():
        lines.append(f"[{table}]")
        for key, value in keys.items():
            lines.append(f'{key} = "{value}"' if isinstance(value, str | Path) else f"{key} = {value}")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def daemon(
    folder: Path,
    more: dict[str, dict[str, Any]] | None = None,
    *,
    environment: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
    before: tuple[str, ...] = (),
) -> Iterator[RunningDaemon]:
    """Starts one and waits until it serves; see the module. `before` are words before the command."""
    (folder / "domward.toml").write_text(settings_text(folder, more))
    (folder / "notify").unlink(missing_ok=True)
    notices = Notices(folder / "notify")
    variables = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(folder / "notify")} | (environment or {})
    variables |= {name: value for name, value in os.environ.items() if name.startswith("COV")}
    command = [*before, sys.executable, "-I", "-m", "domward.supervisor.daemon", "--config", folder / "domward.toml"]
    with open(folder / "log.txt", "ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=variables, pass_fds=pass_fds)
    try:
        running = RunningDaemon(folder, process, notices)
        try:
            notices.until("READY")
        except TimeoutError:
            raise AssertionError((folder / "log.txt").read_text()) from None
        yield running
        if process.returncode is None:
            assert running.stop() == 0, running.log.read_text()
            assert running.records() == []
            assert not running.socket.exists() or environment
    finally:
        process.kill()
        process.wait()
        notices.close()


def in_child(uid: int, gid: int, groups: tuple[int, ...], work: Callable[[], ResultT]) -> ResultT:
    """What `work` returns or raises in a forked child that has become that user for good."""
    near, far = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(near)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                answer: tuple[str, Any] = ("returned", work())
            except Exception as error:  # noqa: BLE001 - carried over to the test, whatever it is
                answer = ("raised", error)
            try:
                data = pickle.dumps(answer)
            except Exception as error:  # noqa: BLE001 - what cannot be carried over is told all the same
                data = pickle.dumps(("raised", AssertionError(f"{answer!r}: {error}")))
            with open(far, "wb") as pipe:
                pipe.write(data)
            code = 0
        finally:
            os._exit(code)
    os.close(far)
    with open(near, "rb") as pipe:
        data = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    kind, value = pickle.loads(data)
    if kind == "raised":
        raise value
    result: ResultT = value
    return result


def helpers() -> list[int]:
    """Every process with a helper's uid."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            lines = Path("/proc", name, "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if int(state["Uid"].split()[0]) in HELPER_UIDS and not state["State"].startswith("Z"):
            found.append(int(name))
    return found


def until_dead(pids: list[int]) -> None:
    """Waits until none of `pids` lives. AssertionError where one does not end."""
    for pid in pids:
        try:
            number = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([number], [], [], SECONDS)[0], f"{pid} lives on"
        finally:
            os.close(number)
