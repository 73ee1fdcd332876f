# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on this host for an attack to reach, and the look at it from outside, before and after.

Canary files, a process with a secret in its memory that is the leader of a person's session, that person's terminal,
services on loopback and on Unix sockets, System V objects and a key. All are this test's own; an attack that reaches
one of them does the machine no harm.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from support.attacks.syscalls import NUMBERS
from support.leaks import HELPER_UIDS

SECRET = "the canary sings at dawn"
_CANARIES = {"public": 0o666, "private": 0o600}
# Others may run the same tests at the same time, in the same namespaces: names of our own.
ABSTRACT = f"domward-canary-{secrets.token_hex(8)}"
CANARY_KEY = secrets.randbelow(1 << 29) * 2 + 1  # System V IPC
OWN_KEY = CANARY_KEY + 1
DISK_BYTES = 65_536
_SYSCTLS = ("kernel/hostname", "kernel/core_pattern", "kernel/randomize_va_space", "net/ipv4/ip_forward")
# Beginnings of what drives a terminal: any escape but the sequences that move the cursor, erase and colour.
_DRIVES = re.compile(rb"\x1b(?!\[[0-9;]*[ABCDHJKm]|\[\?25[hl]|\x1b).{0,8}|[\x80-\x9f]", re.DOTALL)
_LIBC = ctypes.CDLL(None, use_errno=True)
_VICTIM = """
import ctypes, signal, sys
secret = ctypes.create_string_buffer(sys.argv[1].encode())
print(ctypes.addressof(secret), flush=True)
while True: signal.pause()
"""
_HIGH_PID = 300  # no process in a helper's own pid namespace gets so far


@dataclass(frozen=True)
class HostState:
    """What the host looks like; two are equal where nothing was reached."""

    files: dict[str, tuple[object, ...]]
    victim: dict[str, object]
    terminal: tuple[object, ...]
    driven: tuple[bytes, ...]
    callers: tuple[str, ...]
    mounts: str
    settings: tuple[str, ...]
    ipc: tuple[str, ...]
    keys: tuple[str, ...]
    helpers: tuple[str, ...]
    clock: int

    def differences(self, other: HostState) -> list[str]:
        """What differs, by name."""
        return [
            f"{field.name}: {getattr(self, field.name)} became {getattr(other, field.name)}"
            for field in fields(HostState)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


class HostileHost:
    """The targets. `targets()` is what an attacker is told of them; `state()` the look from outside."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="attack-canaries-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, self.folder)
        self.folder.chmod(0o755)
        for name, mode in _CANARIES.items():
            (self.folder / name).write_text(SECRET)
            (self.folder / name).chmod(mode)
        self.disk = self.folder / "disk.img"
        self.disk.write_bytes(bytes(DISK_BYTES))
        self._handle = _handle_of(self.folder / "public")
        self.master, self.slave = os.openpty()
        stack.callback(os.close, self.master)
        stack.callback(os.close, self.slave)
        self._victim, self._address = self._start_victim(stack)
        self._services = {
            "socket file": _listening(stack, socket.AF_UNIX, str(self.folder / "socket")),
            "abstract socket": _listening(stack, socket.AF_UNIX, f"\0{ABSTRACT}"),
            "loopback": _listening(stack, socket.AF_INET, ("127.0.0.1", 0)),
        }
        (self.folder / "socket").chmod(0o777)
        self._make_ipc(stack)
        self._make_key(stack)

    def targets(self) -> dict[str, Any]:
        """What attacks are told."""
        return {
            "canaries": str(self.folder),
            "secret": SECRET,
            "handle": self._handle,
            "victim": self._victim.pid,
            "victim-address": self._address,
            "pts": os.minor(os.fstat(self.slave).st_rdev),
            "tcp-port": self._services["loopback"].getsockname()[1],
            "abstract": ABSTRACT,
            "ipc-key": CANARY_KEY,
            "own-ipc-key": OWN_KEY,
            "uid": HELPER_UIDS[0],
            "an-hour-on": int(time.time()) + 3600,
            "own-root": True,
        }

    def state(self) -> HostState:
        """The host now."""
        return HostState(
            files={path.name: _file(path) for path in sorted(self.folder.iterdir())},
            victim=self._look_at_victim(),
            terminal=self._look_at_terminal(),
            driven=self._take_shown(),
            callers=tuple(name for name, service in self._services.items() if _readable(service.fileno())),
            mounts=Path("/proc/self/mountinfo").read_text(),
            settings=tuple(Path("/proc/sys", name).read_text() for name in _SYSCTLS),
            ipc=_ipc_objects(),
            keys=_helpers_keys(),
            helpers=_helpers_left(),
            clock=round((time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)) / 60),
        )

    def _start_victim(self, stack: contextlib.ExitStack) -> tuple[subprocess.Popen[bytes], int]:
        while os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[0] < _HIGH_PID:
            pass
        victim = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-I", "-c", _VICTIM, SECRET], stdin=self.slave, stdout=subprocess.PIPE
        )
        assert victim.stdout is not None
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        stack.callback(victim.stdout.close)
        return victim, int(victim.stdout.readline())

    def _look_at_victim(self) -> dict[str, object]:
        pid = self._victim.pid
        if self._victim.poll() is not None:
            return {"ended": self._victim.returncode}
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(self._address)
            secret = memory.read(len(SECRET))
        return {
            "stopped": status["State"].startswith(("T", "t")),
            "tracer": status["TracerPid"],
            "cpus": status["Cpus_allowed_list"],
            "niceness": os.getpriority(os.PRIO_PROCESS, pid),
            "io priority": _LIBC.syscall(ctypes.c_long(252), 1, pid),
            "limits": Path(f"/proc/{pid}/limits").read_text(),
            "secret": secret,
        }

    def _look_at_terminal(self) -> tuple[object, ...]:
        settings = termios.tcgetattr(self.slave)
        size = termios.tcgetwinsize(self.slave)
        fresh = os.open(os.ttyname(self.slave), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        os.close(fresh)
        return (settings, size, _readable(self.slave), os.get_blocking(self.slave), os.tcgetpgrp(self.master))

    def _take_shown(self) -> tuple[bytes, ...]:
        """What the person's terminal was told since the last look, beyond drawing."""
        shown = b""
        while _readable(self.master):
            shown += os.read(self.master, 65_536)
        return tuple(_DRIVES.findall(shown))

    def _make_ipc(self, stack: contextlib.ExitStack) -> None:
        flags = 0o1600
        for get, arguments, remove in (
            (_LIBC.shmget, (CANARY_KEY, 4096, flags), lambda n: _LIBC.shmctl(n, 0, None)),
            (_LIBC.msgget, (CANARY_KEY, flags), lambda n: _LIBC.msgctl(n, 0, None)),
            (_LIBC.semget, (CANARY_KEY, 1, flags), lambda n: _LIBC.semctl(n, 0, 0)),
        ):
            number = get(*arguments)
            assert number >= 0, os.strerror(ctypes.get_errno())
            stack.callback(remove, number)

    def _make_key(self, stack: contextlib.ExitStack) -> None:
        """A key in the session keyring of this process, which programs that it starts inherit."""
        secret = SECRET.encode()
        key = _LIBC.syscall(
            ctypes.c_long(NUMBERS["add_key"]), b"user", b"domward-canary", secret, ctypes.c_long(len(secret)), -3
        )
        assert key >= 0, os.strerror(ctypes.get_errno())
        stack.callback(_LIBC.syscall, ctypes.c_long(NUMBERS["keyctl"]), 21, key, 0, 0, 0)  # invalidate

    def restore(self) -> None:
        """Takes back what an attack inside a peer, where it may succeed, has done."""
        for service in self._services.values():
            while _readable(service.fileno()):
                service.accept()[0].close()
        for name in ("second", "moved"):
            (self.folder / name).unlink(missing_ok=True)
        for name, mode in _CANARIES.items():
            path = self.folder / name
            if not path.exists() or path.read_text() != SECRET or path.stat().st_mode & 0o777 != mode:
                path.write_text(SECRET)
                path.chmod(mode)


def _handle_of(path: Path) -> tuple[int, str]:
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 120, 0), 128)
    mount = ctypes.c_int()
    found = _LIBC.name_to_handle_at(-100, os.fsencode(path), buffer, ctypes.byref(mount), 0)
    if found < 0:  # some file systems have none: then an invented one, for the privilege is asked for first
        return 1, "00" * 8
    length, kind = struct.unpack_from("Ii", buffer.raw)
    return kind, buffer.raw[8 : 8 + length].hex()


def _listening(stack: contextlib.ExitStack, family: socket.AddressFamily, address: Any) -> socket.socket:
    service = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    service.bind(address)
    service.listen()
    return service


def _readable(number: int) -> bool:
    return bool(select.select([number], [], [], 0)[0])


def _file(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return (found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_mtime_ns, content, os.listxattr(path))


def _ipc_objects() -> tuple[str, ...]:
    """The objects with one of our keys that are there, by kind."""
    return tuple(
        f"{kind} {line.split()[0]}"
        for kind in ("shm", "msg", "sem")
        for line in Path("/proc/sysvipc", kind).read_text().splitlines()[1:]
        if int(line.split()[0]) in (CANARY_KEY, OWN_KEY)
    )


def _helpers_keys() -> tuple[str, ...]:
    """Keys that belong to a uid of helpers, once the kernel has taken away those that nobody refers to."""
    end = time.monotonic() + 2
    while True:
        lines = Path("/proc/keys").read_text().splitlines()
        found = tuple(line for line in lines if int(line.split()[5]) in HELPER_UIDS)
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.01)


def _helpers_left() -> tuple[str, ...]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path("/proc", pid, "status").read_text(errors="replace")
            if int(status.partition("\nUid:")[2].split()[0]) in HELPER_UIDS:
                found.append(pid)
    return tuple(found)


@contextlib.contextmanager
def hostile_host() -> Iterator[HostileHost]:
    """The targets for as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the person's terminal goes at the end
        stack.callback(signal.signal, signal.SIGHUP, ignored)
        yield HostileHost(stack)
