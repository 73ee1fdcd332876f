# SPDX-License-Identifier: GPL-3.0-or-later
"""Helpers that break the protocol in every way: one typed error each, in time, and nothing left.

The code runs in a confined helper of its kind in place of the real one; `channel` is its channel.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.planted import planted

from domward.protocol.errors import DomwardError, HelperDied, OperationFailed, ProtocolViolation
from domward.protocol.messages import HelperKind, InspectBoot, OpenPtys
from domward.supervisor import BootRequest, Budgets, Config, Console, Supervisor
from domward.supervisor.events import Condition
from domward.supervisor.helper import Helper
from domward.supervisor.helper_states import HelperState
from domward.supervisor.ptys import open_ptys

BUDGETS = Budgets(wall_seconds=30, term_grace_seconds=0.3, helper_cpu_seconds=1)

# What a planted helper has at hand. `say` sends fields as they are, unchecked; `answer` fills the kernel's sink.
TOOLS = """
def say(channel, fields, fds=()):
    raw(channel, wire.encode(fields), fds)

def raw(channel, data, fds=()):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    channel._socket.sendmsg([data], rights)

def order(channel):
    return channel.receive((ReadBoot, InspectBoot, OpenPtys, Copy))

def boot_read(**changed):
    fields = dict(type="boot-read", title=b"t", args=b"a", kernel_bytes=4, ramdisk_bytes=0, source="s")
    return fields | changed

def answer(channel, received, **changed):
    os.write(received.fds[1].fileno(), b"1234")
    say(channel, boot_read(**changed))

def progress(step="image"):
    return dict(type="progress", step=step)
"""


def helper(folder: Path, kind: HelperKind, body: str, budgets: Budgets = BUDGETS) -> Config:
    """A configuration under which helpers of `kind` do `body` (indented lines of a function of `channel`)."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    code = f"{TOOLS}\ndef work(channel):\n{lines}\n    return 0\n\nlauncher._RUN[HelperKind.{kind.name}] = work\n"
    return Config(python=planted(folder, code), budgets=budgets)


VIOLATIONS = {
    "unknown": "order(channel); say(channel, dict(type='run-command', command='sh'))",
    "of-another-kind": "order(channel); say(channel, dict(type='copied'))",
    "of-the-supervisor": "order(channel); say(channel, dict(type='spawn'))",
    "confined-again": "order(channel); say(channel, dict(type='confined', layers=[]))",
    "repeated": "order(channel)\nfor _ in range(6): say(channel, progress())",
    "oversized": "order(channel); raw(channel, b'x' * (64 * 1024 + 1))",
    "huge": "order(channel); raw(channel, b'x' * 200_000)",
    "not-msgpack": "order(channel); raw(channel, b'\\xc1')",
    "not-a-map": "order(channel); raw(channel, b'\\x93\\x01\\x02\\x03')",
    "key-twice": "order(channel); raw(channel, b'\\x82\\xa4type\\xa1a\\xa4type\\xa1b')",
    "ill-typed": "order(channel); say(channel, boot_read(kernel_bytes='4'))",
    "bool-for-int": "order(channel); say(channel, boot_read(kernel_bytes=True))",
    "negative": "order(channel); say(channel, boot_read(kernel_bytes=-1))",
    "field-missing": "order(channel); say(channel, dict(type='boot-read', title=b''))",
    "field-too-many": "order(channel); say(channel, boot_read(path='/etc/passwd'))",
    "args-too-long": "order(channel); say(channel, boot_read(args=b'a' * 1024))",
    "fd-uncalled-for": "received = order(channel); say(channel, progress(), [received.fds[0].fileno()])",
    "fd-with-answer": "received = order(channel); say(channel, boot_read(), [received.fds[1].fileno()])",
    "nine-fds": "received = order(channel); say(channel, progress(), [received.fds[0].fileno()] * 9)",
    "fds-without-message": "received = order(channel); raw(channel, b'', [received.fds[0].fileno()])",
    "size-too-large": "answer(channel, order(channel), kernel_bytes=5)",
    "size-too-small": "answer(channel, order(channel), kernel_bytes=3)",
    "ramdisk-without-content": "answer(channel, order(channel), ramdisk_bytes=4)",
    "beyond-the-limit": (
        "received = order(channel); os.ftruncate(received.fds[1].fileno(), 1 << 29)\n"
        "say(channel, boot_read(kernel_bytes=1 << 29))"
    ),
    "after-the-answer": "answer(channel, order(channel)); say(channel, progress())",
    "answers-twice": "answer(channel, order(channel)); say(channel, boot_read())",
    "answers-and-hangs": "answer(channel, order(channel)); channel.receive(())",
    "answers-and-spins": "answer(channel, order(channel))\nwhile True: pass",
    "log-flood": "order(channel)\nfor _ in range(2000): say(channel, dict(type='log', level='info', line='x' * 4000))",
    "bad-log-level": "order(channel); say(channel, dict(type='log', level='critical', line='x'))",
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    path.write_bytes(bytes(65536))
    return path


def boot(config: Config, disk: Path) -> DomwardError:
    """Runs the operation, which must fail."""

    async def main() -> DomwardError:
        async with Supervisor(config) as supervisor:
            with pytest.raises(DomwardError) as caught:
                (await supervisor.run_bootloader(BootRequest(disk=disk))).close()
            return caught.value

    return asyncio.run(main())


@pytest.mark.parametrize("name", sorted(VIOLATIONS))
def test_what_a_helper_may_not_send_ends_it_as_a_violation(name: str, tmp_path: Path, disk: Path) -> None:
    error = boot(helper(tmp_path, HelperKind.BOOTLOADER, VIOLATIONS[name]), disk)
    assert isinstance(error, ProtocolViolation), error
    assert (error.code, error.exit_code) == ("protocol-violation", 6)
    assert error.operation.startswith("boot-")
    assert error.helper.startswith("bootloader ")


DEATHS = {
    "exits-at-once": ("pass", 0),
    "exits-without-answer": ("order(channel)", 0),
    "exits-with-a-code": ("order(channel); os._exit(42)", 42),
    "crashes": ("order(channel); ctypes.string_at(0)", -signal.SIGSEGV),
    "makes-a-forbidden-call": ("order(channel); os.getppid()", -signal.SIGSYS),
    "opens-a-file": ("order(channel); os.open('/', os.O_RDONLY)", -signal.SIGSYS),
    "signals-itself": ("order(channel); os.kill(os.getpid(), signal.SIGSTOP)", -signal.SIGSYS),
    "spins": ("order(channel)\nwhile True: pass", -signal.SIGKILL),
    "answers-and-fails": ("answer(channel, order(channel)); os._exit(3)", 3),
    "answers-and-crashes": ("answer(channel, order(channel)); ctypes.string_at(0)", -signal.SIGSEGV),
    "raises": ("order(channel); raise ZeroDivisionError", 70),
}


@pytest.mark.parametrize("name", sorted(DEATHS))
def test_a_helper_that_dies_before_its_work_is_done_says_how(name: str, tmp_path: Path, disk: Path) -> None:
    body, status = DEATHS[name]
    error = boot(helper(tmp_path, HelperKind.BOOTLOADER, body.replace("ctypes", "__import__('ctypes')")), disk)
    assert isinstance(error, HelperDied), error
    assert (error.code, error.exit_code) == ("helper-died", 6)
    assert error.status == status


def test_closing_the_channel_and_living_on_is_a_death_by_the_supervisor(tmp_path: Path, disk: Path) -> None:
    error = boot(helper(tmp_path, HelperKind.BOOTLOADER, "order(channel); channel.close()\nwhile True: pass"), disk)
    assert isinstance(error, HelperDied)
    assert error.status == 128 + signal.SIGTERM


def test_ignoring_term_ends_with_kill(tmp_path: Path, disk: Path) -> None:
    body = "order(channel); channel.close()\nwhile True: pass"
    config = helper(tmp_path, HelperKind.BOOTLOADER, body)
    module = tmp_path / "planted_launcher.py"
    module.write_text(module.read_text().replace("sys.exit(", "launcher._end_at_once = signal.SIG_IGN\nsys.exit("))
    error = boot(config, disk)
    assert isinstance(error, HelperDied)
    assert error.status == -signal.SIGKILL


def test_running_out_of_memory_is_told_and_is_the_hosts_error(tmp_path: Path, disk: Path) -> None:
    body = "order(channel); kept = [bytearray(1 << 24) for _ in range(1000)]"
    budgets = Budgets(helper_address_space=256 << 20)
    error = boot(helper(tmp_path, HelperKind.BOOTLOADER, body, budgets), disk)
    assert isinstance(error, OperationFailed), error
    assert "out of memory" in error.sentence


def test_too_little_memory_to_begin_with_is_told_as_well(
    tmp_path: Path, disks: DiskFactory, kernel: DebianKernel
) -> None:
    image = disks.build(debian_disk("xfs", kernel=kernel))
    errors = {}

    async def main(mebibytes: int) -> None:
        budgets = Budgets(helper_address_space=mebibytes << 20)
        async with Supervisor(Config(budgets=budgets)) as supervisor:
            try:
                (await supervisor.run_bootloader(BootRequest(disk=image))).close()
            except DomwardError as error:
                errors[mebibytes] = error

    for mebibytes in range(1, 120, 8):
        asyncio.run(main(mebibytes))
    assert errors
    assert all(isinstance(error, OperationFailed | HelperDied) for error in errors.values())
    assert {error.exit_code for error in errors.values()} <= {1, 6}


def test_a_system_call_that_fails_is_told_with_its_reason(tmp_path: Path, disk: Path) -> None:
    error = boot(helper(tmp_path, HelperKind.BOOTLOADER, "order(channel); os.read(31, 1)"), disk)
    assert isinstance(error, OperationFailed)
    assert "Bad file descriptor" in error.sentence


def test_the_last_log_line_is_part_of_the_death_report_and_cannot_drive_a_terminal(tmp_path: Path, disk: Path) -> None:
    body = (
        "order(channel)\n"
        "for line in ('first', 'last \\x1b[2J\\n\\u202e words'):\n"
        "    say(channel, dict(type='log', level='info', line=line))\n"
        "os._exit(9)"
    )
    error = boot(helper(tmp_path, HelperKind.BOOTLOADER, body), disk)
    assert error.sentence.endswith("Its last words: last \\x1b[2J\\x0a\\u202e words")
    assert str(error).isascii()
    assert str(error).isprintable()


def test_inspection_has_its_own_closed_set(tmp_path: Path, disk: Path) -> None:
    async def main() -> None:
        body = "order(channel); say(channel, boot_read())"
        async with Supervisor(helper(tmp_path, HelperKind.BOOTLOADER, body)) as supervisor:
            with pytest.raises(ProtocolViolation, match="boot-read"):
                await supervisor.inspect(disk)

    asyncio.run(main())


# --- pty --------------------------------------------------------------------------------------------------------

OPENED = "order(channel)\nmaster, slave = os.open('/ptmx', os.O_RDWR | os.O_NOCTTY), -1\n"
PTYS = {
    "none": ("order(channel); say(channel, dict(type='ptys-opened', count=1))", ProtocolViolation),
    "too-few": ("received = order(channel); say(channel, dict(type='ptys-opened', count=1), [0])", ProtocolViolation),
    "null-devices": ("order(channel); say(channel, dict(type='ptys-opened', count=1), [0, 1])", ProtocolViolation),
    "its-channel": (
        "order(channel); say(channel, dict(type='ptys-opened', count=1), [channel.fileno()] * 2)",
        ProtocolViolation,
    ),
    "two-for-one": (
        "order(channel); say(channel, dict(type='ptys-opened', count=2), [0, 1, 0, 1])",
        ProtocolViolation,
    ),
    "masters-only": (OPENED + "say(channel, dict(type='ptys-opened', count=1), [master, master])", ProtocolViolation),
    "swapped": (
        "received = order(channel); fds = []; pty._open_pty(b'/ptmx', received.message, fds)\n"
        "say(channel, dict(type='ptys-opened', count=1), [fd.fileno() for fd in reversed(fds)])",
        ProtocolViolation,
    ),
    "of-two-ptys": (
        "received = order(channel); fds = []\n"
        "pty._open_pty(b'/ptmx', received.message, fds); pty._open_pty(b'/ptmx', received.message, fds)\n"
        "say(channel, dict(type='ptys-opened', count=1), [fds[0].fileno(), fds[3].fileno()])",
        ProtocolViolation,
    ),
    "cooked": (
        "received = order(channel); fds = []; pty._set_raw = lambda number: None\n"
        "pty._open_pty(b'/ptmx', received.message, fds)\n"
        "say(channel, dict(type='ptys-opened', count=1), [fd.fileno() for fd in fds])",
        ProtocolViolation,
    ),
    "hangs": (
        "received = order(channel); fds = []; pty._open_pty(b'/ptmx', received.message, fds)\n"
        "say(channel, dict(type='ptys-opened', count=1), [fd.fileno() for fd in fds])\nwhile True: pass",
        ProtocolViolation,
    ),
    "fails-afterwards": (
        "received = order(channel); fds = []; pty._open_pty(b'/ptmx', received.message, fds)\n"
        "say(channel, dict(type='ptys-opened', count=1), [fd.fileno() for fd in fds]); os._exit(1)",
        HelperDied,
    ),
    "creates-a-file": ("order(channel); os.open('/x', os.O_RDWR | os.O_CREAT)", HelperDied),
    "injects-input": (OPENED + "fcntl.ioctl(master, 0x5412, b'x')", HelperDied),
    "failed": ("order(channel); say(channel, dict(type='failed', what='No room.', errno=28))", OperationFailed),
}


@pytest.mark.parametrize("name", sorted(PTYS))
def test_a_pty_helper_that_gives_back_no_good_pty_is_refused(name: str, tmp_path: Path) -> None:
    body, kind = PTYS[name]

    async def main() -> None:
        async with Supervisor(helper(tmp_path, HelperKind.PTY, body)) as supervisor:
            with pytest.raises(kind):
                await open_ptys(await supervisor.host(), "test", 1, 80, 24)

    asyncio.run(main())


@pytest.mark.parametrize("kind", [HelperKind.PTY, HelperKind.DATACOPIER])
def test_a_console_whose_helper_fails_ends_the_operation(
    kind: HelperKind, tmp_path: Path, disks: DiskFactory, kernel: DebianKernel
) -> None:
    disk = disks.build(debian_disk(kernel=kernel))

    async def main() -> None:
        master, slave = os.openpty()
        try:
            async with Supervisor(helper(tmp_path, kind, "order(channel); os._exit(5)")) as supervisor:
                with pytest.raises(HelperDied) as caught:
                    await supervisor.run_bootloader(BootRequest(disk=disk, console=Console(slave, slave)))
            assert caught.value.status == 5
            assert caught.value.helper.startswith(kind.value)
        finally:
            os.close(master)
            os.close(slave)

    asyncio.run(main())


# --- life -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", ["progress()", "boot_read()", "dict(type='log', level='info', line='hello')"])
def test_a_message_before_there_is_work_is_a_violation(fields: str, tmp_path: Path) -> None:
    async def main() -> None:
        config = helper(tmp_path, HelperKind.BOOTLOADER, f"say(channel, {fields}); order(channel)")
        async with Supervisor(config) as supervisor:
            host = await supervisor.host()
            early = Helper(HelperKind.BOOTLOADER, "test", host)
            await early.start()
            try:
                assert early._channel is not None
                await host.events.wait(early._channel.fileno(), Condition.IN)
                with pytest.raises(ProtocolViolation, match="where only nothing may come") as caught:
                    await early.order(HelperState.INSPECTING, InspectBoot(image_format=None))
                assert caught.value.helper == early.name
            finally:
                await early.close()

    asyncio.run(main())


def test_a_helper_that_is_stopped_is_killed_at_the_time_out(tmp_path: Path, disk: Path) -> None:
    async def main() -> None:
        async with Supervisor(Config(budgets=BUDGETS)) as supervisor:
            idle = Helper(HelperKind.PTY, "test", await supervisor.host())
            await idle.start()
            idle.child.send_signal(signal.SIGSTOP)
            await idle.close()
            assert idle.child.death.result() == -signal.SIGKILL

    asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_helper_that_was_killed_while_idle_is_a_death_with_its_status(number: signal.Signals) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            idle = Helper(HelperKind.PTY, "test", await supervisor.host())
            await idle.start()
            try:
                idle.child.send_signal(number)
                await asyncio.shield(idle.child.death)
                with pytest.raises(HelperDied) as caught:
                    await idle.order(HelperState.OPENING, OpenPtys(count=1, columns=80, rows=24))
                assert caught.value.status in (-number, 128 + number)
            finally:
                await idle.close()

    asyncio.run(main())


def test_work_is_given_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            opener = Helper(HelperKind.PTY, "test", await supervisor.host())
            await opener.start()
            try:
                await opener.order(HelperState.OPENING, OpenPtys(count=1, columns=80, rows=24))
                with pytest.raises(DomwardError):
                    await opener.order(HelperState.OPENING, OpenPtys(count=1, columns=80, rows=24))
                (await opener.receive()).close()
                await opener.ended()
            finally:
                await opener.close()

    asyncio.run(main())
