# SPDX-License-Identifier: GPL-3.0-or-later
"""The bootloader operation on real disks: its result, its menu on a real pty, and its end at every moment."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tty
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.debian_kernel import DebianKernel
from support.disks import Disk, DiskFactory, Fs, Part
from support.guests import OLDER, debian_disk, expected, extlinux_disk
from support.planted import planted

from domward.protocol.errors import (
    DiskError,
    DomwardError,
    HelperDied,
    OperationCancelled,
    OperationTimedOut,
    RefusedError,
    UsageError,
)
from domward.protocol.fds import Fd
from domward.supervisor import BootRequest, BootResult, Budgets, Config, Console, OperationState, Supervisor
from domward.supervisor.sinks import SealedFile

QUICK = Budgets(term_grace_seconds=0.3)
ARGS = b"root=UUID=5eed0000-0000-4000-8000-000000000000 ro console=hvc0 quiet"


@pytest.fixture(scope="session")
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    return disks.build(debian_disk(kernel=kernel))


def content(file: SealedFile | None) -> bytes:
    assert file is not None
    found = os.pread(file.fd.fileno(), file.size + 1, 0)
    assert len(found) == file.size
    assert hashlib.sha256(found).hexdigest() == file.sha256
    with pytest.raises(PermissionError):
        os.pwrite(file.fd.fileno(), b"x", 0)
    return found


@contextlib.asynccontextmanager
async def booted(request: BootRequest, config: Config | None = None) -> AsyncIterator[BootResult]:
    async with Supervisor(config) as supervisor:
        result = await supervisor.run_bootloader(request)
        try:
            yield result
        finally:
            result.close()


# --- results ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("image", ["raw", "qcow2"])
def test_what_boots_by_default_comes_sealed_and_as_it_is_on_the_disk(
    kind: str, image: str, disks: DiskFactory, kernel: DebianKernel
) -> None:
    described = debian_disk(kind, scheme="gpt", kernel=kernel, image=image)
    wanted = expected(described, kernel)

    async def main() -> None:
        async with booted(BootRequest(disk=disks.build(described))) as result:
            assert content(result.kernel) == wanted.kernel
            assert content(result.ramdisk) == wanted.ramdisk
            assert result.args == wanted.args.encode()
            assert result.title == b"Debian GNU/Linux"
            assert result.log == b""
            assert [helper.layers != () for helper in result.helpers] == [True]

    asyncio.run(main())


def test_a_fd_that_the_caller_opened_serves_like_a_path_and_stays_open(disk: Path, kernel: DebianKernel) -> None:
    async def main() -> None:
        with Fd(os.open(disk, os.O_RDONLY | os.O_CLOEXEC), "disk") as fd:
            async with booted(BootRequest(disk=fd)) as result:
                assert content(result.kernel) == kernel.vmlinuz.read_bytes()
            assert not fd.closed

    asyncio.run(main())


def test_a_fd_that_a_helper_could_write_to_is_refused(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    copy = disks.copy(debian_disk(kernel=kernel), tmp_path / "disk.img")

    async def main() -> None:
        with Fd(os.open(copy, os.O_RDWR | os.O_CLOEXEC), "disk") as fd, pytest.raises(UsageError, match="reading only"):
            async with booted(BootRequest(disk=fd)):
                pass

    asyncio.run(main())


@pytest.mark.parametrize("submenu", [b"", b"Advanced options for Debian GNU/Linux>"])
def test_an_entry_by_title_with_and_without_its_submenu(submenu: bytes, disk: Path) -> None:
    title = b"Debian GNU/Linux, with Linux " + OLDER.encode()

    async def main() -> None:
        async with booted(BootRequest(disk=disk, entry=submenu + title)) as result:
            assert result.title == title
            assert content(result.kernel) == b"MZ older kernel" * 100
            assert content(result.ramdisk) == b"\x1f\x8b older initrd" * 100

    asyncio.run(main())


def test_an_entry_by_number_and_by_id_as_inspect_lists_them(disk: Path) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            found = await supervisor.inspect(disk)
            assert found.problem == found.reason == ""
            assert found.image_format == "raw"
            assert [volume.filesystem for volume in found.volumes] == ["ext"]
            assert found.entries[found.default].title == b"Debian GNU/Linux"
            older = next(entry for entry in found.entries if OLDER.encode() in entry.kernel and not entry.problem)
            for name in (str(older.index).encode(), older.identifier):
                result = await supervisor.run_bootloader(BootRequest(disk=disk, entry=name))
                with contextlib.closing(result):
                    assert (result.title, result.kernel.size) == (older.title, older.kernel_bytes)

    asyncio.run(main())


def test_inspecting_a_disk_without_boot_configuration_lists_what_there_is(disks: DiskFactory) -> None:
    plain = disks.build(Disk("disk", (Part(Fs("ext2", {"readme": b"nothing boots here"})),)))

    async def main() -> None:
        async with Supervisor() as supervisor:
            found = await supervisor.inspect(plain)
            assert [volume.filesystem for volume in found.volumes] == ["ext"]
            assert found.entries == ()
            assert found.reason == "disk-no-boot-configuration"
            assert found.problem

    asyncio.run(main())


def test_inspecting_zeroes_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "zeroes").write_bytes(bytes(1 << 20))

    async def main() -> None:
        async with Supervisor() as supervisor:
            with pytest.raises(DiskError) as caught:
                await supervisor.inspect(tmp_path / "zeroes")
            assert caught.value.code == "disk-no-filesystem"

    asyncio.run(main())


def test_arguments_of_the_caller_replace_those_of_the_entry(disk: Path) -> None:
    async def main() -> None:
        async with booted(BootRequest(disk=disk, args=b"single")) as result:
            assert result.args == b"single"

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["vfat", "ext2"])
def test_extlinux(kind: str, disks: DiskFactory, kernel: DebianKernel) -> None:
    async def main() -> None:
        async with booted(BootRequest(disk=disks.build(extlinux_disk(kind, kernel=kernel)))) as result:
            assert content(result.kernel) == kernel.vmlinuz.read_bytes()

    asyncio.run(main())


@pytest.mark.parametrize(("image_format", "boots"), [("raw", True), ("qcow2", False), (None, True)])
def test_the_image_format_can_be_demanded(image_format: str | None, boots: bool, disk: Path) -> None:
    async def main() -> None:
        with contextlib.nullcontext() if boots else pytest.raises(DiskError):
            async with booted(BootRequest(disk=disk, image_format=image_format)):
                pass

    asyncio.run(main())


def test_an_entry_without_ramdisk_has_none(disks: DiskFactory, kernel: DebianKernel, disk: Path) -> None:
    config = "DEFAULT bare\nLABEL bare\n  LINUX /vmlinuz\n  APPEND ro\n"
    bare = Disk("disk", (Part(Fs("ext2", {"vmlinuz": b"MZ kernel", "boot/extlinux/extlinux.conf": config})),))

    async def main() -> None:
        async with booted(BootRequest(disk=disks.build(bare))) as result:
            assert content(result.kernel) == b"MZ kernel"
            assert result.ramdisk is None

    asyncio.run(main())


def test_twenty_at_once_have_a_uid_each(disk: Path, kernel: DebianKernel) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            results = await asyncio.gather(*(supervisor.run_bootloader(BootRequest(disk=disk)) for _ in range(20)))
            assert len({result.helpers[0].uid for result in results}) == 20
            for result in results:
                assert content(result.kernel) == kernel.vmlinuz.read_bytes()
                result.close()

    asyncio.run(main())


@pytest.mark.parametrize("budget", ["kernel_bytes", "ramdisk_bytes"])
def test_more_than_the_budget_is_the_disks_fault(budget: str, disk: Path) -> None:
    async def main() -> None:
        with pytest.raises(DiskError) as caught:
            async with booted(BootRequest(disk=disk), Config(budgets=Budgets(**{budget: 1000}))):
                pass
        assert caught.value.code == "disk-file-too-big"
        assert caught.value.exit_code == 7

    asyncio.run(main())


def test_what_is_no_disk_is_said_before_any_helper_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    codes = {
        "missing": "disk-not-found",
        "empty": "disk-empty",
        "loop": "disk-symlink-loop",
        "fifo": "disk-not-a-disk",
        ".": "disk-not-a-disk",
        "empty/below": "disk-not-found",
    }

    async def main() -> None:
        async with Supervisor() as supervisor:
            for name, code in codes.items():
                with pytest.raises(DiskError) as caught:
                    await supervisor.run_bootloader(BootRequest(disk=tmp_path / name))
                assert caught.value.code == code, name
            with pytest.raises((UsageError, RefusedError, DiskError)):
                await supervisor.run_bootloader(BootRequest(disk=Path("nul\0")))

    asyncio.run(main())


@pytest.mark.parametrize(
    "config",
    [
        Config(identify_by_pidfd=False),
        Config(exit_info_from_pidfd=False),
        Config(identify_by_pidfd=False, exit_info_from_pidfd=False),
    ],
    ids=["before-6.5", "before-6.15", "6.1"],
)
def test_older_kernels_without_newer_ways_to_know_a_helper(config: Config, disk: Path, kernel: DebianKernel) -> None:
    async def main() -> None:
        async with booted(BootRequest(disk=disk), config) as result:
            assert content(result.kernel) == kernel.vmlinuz.read_bytes()

    asyncio.run(main())


# --- the menu ---------------------------------------------------------------------------------------------------


class Person:
    """Somebody at the master side of a pty, who reads what the menu shows and presses keys."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)  # as the command sets its own terminal
        os.set_blocking(self.master, False)
        self.seen = b""
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def _read(self) -> None:
        try:
            self.seen += os.read(self.master, 65536)
        except OSError:  # hung up
            asyncio.get_running_loop().remove_reader(self.master)
        self._more.set()

    @property
    def console(self) -> Console:
        return Console(self.slave, self.slave)

    async def sees(self, text: bytes) -> None:
        """Waits until `text` was shown, and forgets what came up to it."""
        while text not in self.seen:
            self._more.clear()
            await self._more.wait()
        self.seen = self.seen.partition(text)[2]

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def hang_up(self) -> None:
        if self.master >= 0:
            asyncio.get_running_loop().remove_reader(self.master)
            os.close(self.master)
            self.master = -1

    def close(self) -> None:
        self.hang_up()
        os.close(self.slave)


@contextlib.asynccontextmanager
async def at_the_menu(
    disk: Path, config: Config | None = None, seconds: int | None = None
) -> AsyncIterator[tuple[Person, asyncio.Task[BootResult]]]:
    """A person who sees the menu, and the operation."""
    with contextlib.closing(Person()) as person:
        async with Supervisor(config or Config(budgets=QUICK)) as supervisor:
            request = BootRequest(disk=disk, console=person.console, menu_timeout=seconds)
            running = asyncio.ensure_future(supervisor.run_bootloader(request))
            await person.sees(b"e: edit arguments")
            yield person, running
            if running.done() and not running.cancelled() and running.exception() is None:
                running.result().close()


def test_enter_boots_the_default_and_the_log_has_what_was_shown(disk: Path, kernel: DebianKernel) -> None:
    async def main() -> None:
        async with at_the_menu(disk) as (person, running):
            person.press(b"\r")
            result = await running
            assert content(result.kernel) == kernel.vmlinuz.read_bytes()
            assert result.args == ARGS
            assert b"Debian GNU/Linux" in result.log
            assert b"Enter: boot" in result.log
            assert len(result.helpers) == 2

    asyncio.run(main())


def test_an_arrow_chooses_another_entry(disk: Path) -> None:
    async def main() -> None:
        async with at_the_menu(disk) as (person, running):
            person.press(b"\x1b[B")
            await person.sees(b"(2 of")
            person.press(b"\r")
            assert (await running).title != b"Debian GNU/Linux"

    asyncio.run(main())


def test_e_edits_the_arguments(disk: Path) -> None:
    async def main() -> None:
        async with at_the_menu(disk) as (person, running):
            person.press(b"e")
            await person.sees(b"Enter: keep")
            person.press(b"\x15single user\r")
            await person.sees(b"Enter: boot")
            person.press(b"\r")
            assert (await running).args == b"single user"

    asyncio.run(main())


@pytest.mark.parametrize("keys", [b"q", b"\x03"])
def test_leaving_the_menu_cancels(keys: bytes, disk: Path) -> None:
    async def main() -> None:
        async with at_the_menu(disk) as (person, running):
            person.press(keys)
            with pytest.raises(OperationCancelled, match="left without a choice") as caught:
                await running
            assert caught.value.exit_code == 130

    asyncio.run(main())


def test_a_console_that_hangs_up_in_the_menu_cancels(disk: Path) -> None:
    async def main() -> None:
        async with at_the_menu(disk) as (person, running):
            person.hang_up()
            with pytest.raises(OperationCancelled, match="console went away"):
                await running

    asyncio.run(main())


def test_the_count_down_boots_the_default(disk: Path) -> None:
    async def main() -> None:
        async with at_the_menu(disk, seconds=1) as (_person, running):
            assert (await running).args == ARGS

    asyncio.run(main())


def test_the_wall_clock_ends_a_menu_that_nobody_answers(disk: Path) -> None:
    async def main() -> None:
        config = Config(budgets=Budgets(wall_seconds=0.3, term_grace_seconds=0.3))
        with contextlib.closing(Person()) as person:
            async with Supervisor(config) as supervisor:
                with pytest.raises(OperationTimedOut) as caught:
                    await supervisor.run_bootloader(BootRequest(disk=disk, console=person.console))
                assert caught.value.exit_code == 5

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "status"), [("os._exit(4)", 4), ("__import__('ctypes').string_at(0)", -signal.SIGSEGV)]
)
def test_a_reader_that_dies_in_the_menu_is_the_cause_and_not_its_console(
    body: str, status: int, disk: Path, tmp_path: Path
) -> None:
    python = planted(tmp_path, f"bootloader.run_menu = lambda *rest, **named: {body}")

    async def main() -> None:
        with contextlib.closing(Person()) as person:
            async with Supervisor(Config(python=python)) as supervisor:
                with pytest.raises(HelperDied) as caught:
                    await supervisor.run_bootloader(BootRequest(disk=disk, console=person.console))
                assert caught.value.status == status
                assert caught.value.helper.startswith("bootloader")

    asyncio.run(main())


def test_a_relay_that_dies_in_the_menu_is_the_cause(disk: Path) -> None:
    async def main() -> None:
        async with at_the_menu(disk) as (_person, running):
            os.kill(child_of_kind("datacopier"), signal.SIGKILL)
            with pytest.raises(HelperDied) as caught:
                await running
            assert caught.value.helper.startswith("datacopier")
            assert caught.value.status == -signal.SIGKILL

    asyncio.run(main())


def test_helpers_that_are_stopped_and_continued_go_on(disk: Path) -> None:
    async def main() -> None:
        async with at_the_menu(disk) as (person, running):
            for kind in ("bootloader", "datacopier"):
                stop_and_continue(child_of_kind(kind))
            person.press(b"\r")
            assert (await running).args == ARGS

    asyncio.run(main())


def stop_and_continue(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    os.kill(pid, signal.SIGCONT)


def child_of_kind(kind: str) -> int:
    for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
        if Path("/proc", pid, "cmdline").read_text().startswith(f"domward: {kind}"):
            return int(pid)
    raise LookupError(kind)


@pytest.mark.parametrize("numbers", [(-1, 1), (1000, 1), (1, 1000)])
def test_a_console_that_is_not_open_is_the_callers_error(numbers: tuple[int, int], disk: Path) -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match="console's fd"):
            async with booted(BootRequest(disk=disk, console=Console(*numbers))):
                pass

    asyncio.run(main())


# --- ends -------------------------------------------------------------------------------------------------------

STEPS = ["disk", "helper", "image", "configuration", "kernel", "ramdisk", "hash"]


def test_progress_in_order_and_none_after_the_end(disk: Path) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            operation = supervisor.bootloader_operation(BootRequest(disk=disk))
            steps: list[str] = []
            operation.on_progress(steps.append)
            (await operation.complete()).close()
            assert steps == STEPS

    asyncio.run(main())


@pytest.mark.parametrize("step", STEPS)
def test_a_cancel_at_each_step(step: str, disk: Path) -> None:
    async def main() -> None:
        async with Supervisor(Config(budgets=QUICK)) as supervisor:
            operation = supervisor.bootloader_operation(BootRequest(disk=disk))
            steps: list[str] = []
            operation.on_progress(steps.append)
            operation.on_progress(lambda at: operation.cancel() if at == step else None)
            with pytest.raises(OperationCancelled):
                await operation.complete()
            assert steps[-1] == step
            assert operation.state is OperationState.DONE

    asyncio.run(main())


@pytest.mark.parametrize("step", ["console", "helper", "menu"])
def test_a_cancel_at_each_step_of_a_menu(step: str, disk: Path) -> None:
    async def main() -> None:
        with contextlib.closing(Person()) as person:
            async with Supervisor(Config(budgets=QUICK)) as supervisor:
                operation = supervisor.bootloader_operation(BootRequest(disk=disk, console=person.console))
                operation.on_progress(lambda at: operation.cancel() if at == step else None)
                with pytest.raises(OperationCancelled):
                    await operation.complete()

    asyncio.run(main())


@pytest.mark.parametrize("rounds", range(0, 120, 6))
def test_a_cancel_after_any_number_of_rounds_of_the_loop(rounds: int, disk: Path) -> None:
    async def main() -> None:
        with contextlib.closing(Person()) as person:
            async with Supervisor(Config(budgets=QUICK)) as supervisor:
                operation = supervisor.bootloader_operation(BootRequest(disk=disk, console=person.console))
                operation.start()
                for _ in range(rounds):
                    await asyncio.sleep(0.0005)
                operation.cancel()
                with pytest.raises(OperationCancelled):
                    await operation.wait()

    asyncio.run(main())


def test_a_caller_that_is_cancelled_leaves_nothing(disk: Path) -> None:
    async def main() -> None:
        async with Supervisor(Config(budgets=QUICK)) as supervisor:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    (await supervisor.run_bootloader(BootRequest(disk=disk))).close()

    asyncio.run(main())


def test_closing_the_supervisor_cancels_what_runs(disk: Path) -> None:
    async def main() -> None:
        with contextlib.closing(Person()) as person:
            supervisor = Supervisor(Config(budgets=QUICK))
            await supervisor.open()
            requests = [BootRequest(disk=disk, console=person.console), BootRequest(disk=disk)]
            operations = [supervisor.bootloader_operation(request) for request in requests]
            for operation in operations:
                operation.start()
            await person.sees(b"Enter: boot")
            await supervisor.close()
            assert [operation.state for operation in operations] == [OperationState.DONE] * 2
            with pytest.raises(OperationCancelled):
                await operations[0].wait()
            with contextlib.suppress(DomwardError):
                (await operations[1].wait()).close()

    asyncio.run(main())


# --- the launcher -----------------------------------------------------------------------------------------------


def launcher_of(supervisor: Supervisor) -> int:
    assert supervisor._launcher is not None
    assert supervisor._launcher.child is not None
    return supervisor._launcher.child.pid


@pytest.mark.parametrize("step", ["disk", "helper", "image", "kernel"])
def test_a_launcher_that_is_killed_fails_at_most_what_needs_it_and_another_takes_over(step: str, disk: Path) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            first = launcher_of(supervisor)
            assert supervisor._launcher is not None
            dying = supervisor._launcher.child
            assert dying is not None
            operation = supervisor.bootloader_operation(BootRequest(disk=disk))
            operation.on_progress(lambda at: os.kill(first, signal.SIGKILL) if at == step else None)
            with contextlib.suppress(HelperDied):
                (await operation.complete()).close()
            await asyncio.shield(dying.death)
            (await supervisor.run_bootloader(BootRequest(disk=disk))).close()
            assert launcher_of(supervisor) != first

    asyncio.run(main())


def test_a_helper_made_by_a_launcher_that_died_before_saying_so_is_ended_too(disk: Path, tmp_path: Path) -> None:
    code = (
        "real = kernel.clone_sibling\n"
        "def clone(namespaces):\n"
        "    pid, pidfd = real(namespaces)\n"
        "    if pid:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return pid, pidfd\n"
        "kernel.clone_sibling = clone"
    )

    async def main() -> None:
        async with Supervisor(Config(python=planted(tmp_path, code), budgets=QUICK)) as supervisor:
            with pytest.raises(HelperDied):
                await supervisor.run_bootloader(BootRequest(disk=disk))

    asyncio.run(main())


def test_cancelling_while_the_launcher_does_not_answer_gives_nothing_up(disk: Path) -> None:
    async def main() -> None:
        async with Supervisor(Config(budgets=QUICK)) as supervisor:
            os.kill(launcher_of(supervisor), signal.SIGSTOP)
            operation = supervisor.bootloader_operation(BootRequest(disk=disk))

            def cancel_soon(_step: str) -> None:
                asyncio.get_running_loop().call_soon(operation.cancel)

            operation.on_progress(cancel_soon)
            with pytest.raises(OperationCancelled):
                await operation.complete()

    asyncio.run(main())


@pytest.mark.parametrize(
    "code",
    [
        "launcher.LauncherReady = lambda **named: Failed(what='no', errno=0)",
        "launcher._spawn = lambda channel, received, host: channel.send(LauncherReady(landlock_abi=1, missing=()))",
        "launcher._spawn = lambda channel, received, host: os._exit(1)",
        "launcher._spawn = lambda channel, received, host: channel.send(SpawnFailed(request=99, step='x', errno=1))",
    ],
)
def test_a_launcher_that_breaks_the_protocol_is_ended(code: str, disk: Path, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(DomwardError) as caught:
            async with booted(BootRequest(disk=disk), Config(python=planted(tmp_path, code))):
                pass
        assert caught.value.exit_code == 6

    asyncio.run(main())


@pytest.mark.parametrize("code", ["sys.exit(3)", "raise ZeroDivisionError", "time.sleep(600)"])
def test_a_launcher_that_never_becomes_ready(code: str, tmp_path: Path) -> None:
    async def main() -> None:
        config = Config(python=planted(tmp_path, code), budgets=Budgets(start_seconds=0.5, term_grace_seconds=0.1))
        with pytest.raises(HelperDied):
            async with Supervisor(config):
                pass

    asyncio.run(main())


def test_an_interpreter_that_is_not_there_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(DomwardError, match="could not be started: No such file") as caught:
            async with Supervisor(Config(python=tmp_path / "python")):
                pass
        assert caught.value.exit_code == 1

    asyncio.run(main())


# --- the supervisor ---------------------------------------------------------------------------------------------


def test_opening_and_closing_fifty_times_leaves_nothing() -> None:
    async def main() -> None:
        for _ in range(50):
            async with Supervisor():
                pass

    asyncio.run(main())


def test_a_closed_or_unopened_supervisor_refuses_every_call(disk: Path) -> None:
    async def main() -> None:
        supervisor = Supervisor()
        with pytest.raises(UsageError, match="not open"):
            await supervisor.run_bootloader(BootRequest(disk=disk))
        await supervisor.open()
        with pytest.raises(UsageError, match="opened once"):
            await supervisor.open()
        await supervisor.close()
        await supervisor.close()
        for call in (supervisor.run_bootloader(BootRequest(disk=disk)), supervisor.inspect(disk), supervisor.open()):
            with pytest.raises(UsageError):
                await call

    asyncio.run(main())


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_another_loop_is_refused_and_so_is_none(loop: asyncio.AbstractEventLoop, disk: Path) -> None:
    supervisor = Supervisor()
    loop.run_until_complete(supervisor.open())
    try:

        async def elsewhere() -> None:
            await supervisor.run_bootloader(BootRequest(disk=disk))

        with pytest.raises(UsageError, match="another event loop"):
            asyncio.run(elsewhere())
        with pytest.raises(UsageError, match="another event loop"):
            supervisor.inspect_operation(disk)
    finally:
        loop.run_until_complete(supervisor.close())


def test_without_root_nothing_is_tried() -> None:
    script = (
        "import os, asyncio\n"
        "from domward.supervisor import Supervisor\n"
        "from domward.protocol.errors import ConfinementUnavailable\n"
        "import domward.supervisor.supervisor\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "try:\n"
        "    asyncio.run(Supervisor().open())\n"
        "except ConfinementUnavailable as error:\n"
        "    print(error.exit_code, error)\n"
    )
    # Nobody may not write where coverage keeps its data.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env=unmeasured
    )
    assert done.stderr == ""
    assert done.stdout.startswith("4 Confining helpers takes root")


def test_the_hosts_own_manners_with_children_do_not_matter(disk: Path) -> None:
    script = (
        "import asyncio, signal, sys\n"
        "from pathlib import Path\n"
        "from domward.supervisor import BootRequest, Supervisor\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "async def main():\n"
        "    async with Supervisor() as supervisor:\n"
        "        result = await supervisor.run_bootloader(BootRequest(disk=Path(sys.argv[1])))\n"
        "        print(result.kernel.size)\n"
        "        result.close()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout == "65536\n"


def test_the_sinks_are_not_inherited_by_what_the_host_starts(disk: Path) -> None:
    async def main() -> None:
        async with booted(BootRequest(disk=disk)) as result:
            assert fcntl.fcntl(result.kernel.fd.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC

    asyncio.run(main())
