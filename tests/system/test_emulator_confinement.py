# SPDX-License-Identifier: GPL-3.0-or-later
"""What an emulator that its guest took over can do: tried from inside, by a program that is started in its place."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from domward.protocol.errors import ConfinementFailed
from domward.protocol.fds import Fd
from domward.supervisor import Supervisor
from domward.supervisor.hypervisor.emulator import Emulator, first_fd
from domward.supervisor.sinks import freeze, open_sink

PYTHON = "/usr/bin/python3"  # below /usr, as an emulator is

# Tries each thing, and tells what became of it: the name of the errno, or "done".
PROBE = """
import errno, json, os, signal, socket, sys
MEMFD, PARENT, HOST = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def tcp():
    with socket.socket() as end: end.connect(("127.0.0.1", 9))
def rewrite():
    os.pwrite(os.open(f"/proc/self/fd/{MEMFD}", os.O_RDWR), b"x", 0)
tries = {
    "passwd": lambda: open("/etc/passwd"),
    "image of another": lambda: open(HOST),
    "new file": lambda: open("/tmp/new", "w"),
    "run": lambda: os.listdir("/run"),
    "init": lambda: open("/proc/1/status"),
    "zero": lambda: open("/dev/zero"),
    "null": lambda: open("/dev/null", "w"),
    "usr": lambda: os.listdir("/usr"),
    "write usr": lambda: open("/usr/bin/new", "w"),
    "sealed kernel": rewrite,
    "tcp": tcp,
    "kill": lambda: os.kill(PARENT, signal.SIGTERM),
    "root": lambda: os.setuid(0),
    "groups": lambda: os.setgroups([0]),
    "name": lambda: socket.sethostname("x"),
    "chroot": lambda: os.chroot("/usr"),
}
found = {}
for name, attempt in tries.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
found["uids"] = [*os.getresuid(), *os.getresgid(), *os.getgroups()]
found["environment"] = sorted(os.environ)
sys.stderr.write(json.dumps(found) + "\\n")
sys.stderr.flush()
"""
REFUSED = {
    "passwd": "EACCES",
    "image of another": "EACCES",
    "new file": "EACCES",
    "run": "EACCES",
    "init": "EACCES",
    "zero": "EACCES",
    "null": "done",
    "usr": "done",
    "write usr": "EACCES",
    "sealed kernel": "EPERM",
    "kill": "EPERM",
    "root": "EPERM",
    "groups": "EPERM",
    "name": "EPERM",
    "chroot": "EPERM",
}


async def words_of(emulator: Emulator) -> str:
    """What it wrote, once it has ended."""
    async with asyncio.timeout(30):
        await asyncio.shield(emulator.child.death)
    return emulator.last_words()


async def started(supervisor: Supervisor, command: Sequence[str], fds: Sequence[Fd] = ()) -> Emulator:
    emulator = Emulator(await supervisor.host(), "probe")
    try:
        emulator.start(command, fds)
    except BaseException:
        await emulator.end()
        raise
    return emulator


def test_what_an_emulator_could_do_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "another.raw"
    image.write_bytes(b"everybody may read this")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)

    async def play() -> dict[str, Any]:
        async with Supervisor() as supervisor:
            with open_sink("kernel") as kernel:
                os.write(kernel.fileno(), b"kernel")
                freeze(kernel, "")
                number = str(first_fd([kernel]))
                probe = [PYTHON, "-I", "-c", PROBE, number, str(os.getpid()), str(image)]
                emulator = await started(supervisor, probe, [kernel])
                try:
                    found: dict[str, Any] = json.loads(await words_of(emulator))
                    assert found["uids"] == [emulator.uid] * 6
                finally:
                    await emulator.end()
                assert supervisor.helpers_alive == 0
                assert os.pread(kernel.fileno(), 10, 0) == b"kernel"
                return found

    found = asyncio.run(play())
    assert {name: found[name] for name in REFUSED} == REFUSED
    assert found["tcp"] in ("ENETUNREACH", "EACCES")
    assert found["environment"] == ["LC_ALL", "PATH"]


def test_an_emulator_without_a_filter_of_its_own_is_not_let_run() -> None:
    async def play() -> None:
        async with Supervisor() as supervisor:
            near, far = os.pipe2(os.O_CLOEXEC)
            with Fd(near, "sign") as sign, Fd(far, "far end of the sign") as given:
                waits = f"import os, signal; os.write({first_fd([given])}, b'x'); signal.pause()"
                emulator = await started(supervisor, [PYTHON, "-I", "-c", waits], [given])
                await asyncio.to_thread(os.read, sign.fileno(), 1)
            try:
                with pytest.raises(ConfinementFailed, match="did not verify: it has no seccomp filter of its own"):
                    emulator.verify()
            finally:
                await emulator.end()

    asyncio.run(play())


def test_what_lies_outside_usr_is_not_executed(tmp_path: Path) -> None:
    async def play(command: str) -> str:
        async with Supervisor() as supervisor:
            emulator = await started(supervisor, [command])
            try:
                return await words_of(emulator)
            finally:
                await emulator.end()

    program = tmp_path / "qemu"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    assert asyncio.run(play(str(program))) == f"{program}: Permission denied"
    assert asyncio.run(play("/usr/bin/nothing")) == "/usr/bin/nothing: No such file or directory"
