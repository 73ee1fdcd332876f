# SPDX-License-Identifier: GPL-3.0-or-later
"""Each line of a helper's seccomp policy is used, or says why it is there all the same: real helpers are traced."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support import traced_calls
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk

from domward.protocol.errors import OperationCancelled
from domward.protocol.messages import HelperKind
from domward.supervisor import BootRequest, Supervisor
from domward.supervisor.console import Console
from domward.supervisor.helper import Helper

LINES = {
    "pty": ("ioctl", "openat", "rt_sigreturn"),
    "datacopier": ("readv", "sendto", "pwritev2"),
    "bootloader": ("pread64", "sendfile", "read"),
}
#: Programs have a test of their own.
KINDS = (HelperKind.PTY, HelperKind.DATACOPIER, HelperKind.BOOTLOADER)


def test_every_line_is_used_or_says_why_it_is_there(disks: DiskFactory, kernel: DebianKernel, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("this machine has no strace")
    if (platform.machine(), *platform.libc_ver()) != ("x86_64", "glibc", "2.36"):
        pytest.skip("this machine has no C library of Debian 12, of whose calls the policies speak")
    disk = disks.build(debian_disk("ext4", kernel=kernel))
    traces = tmp_path / "traces"
    traces.mkdir()
    with traced_calls.installed(traces):
        asyncio.run(all_that_helpers_do(disk))
    traced_calls.settled(traces)
    found = traced_calls.collected(traces)
    assert [*traced_calls.objections(found, KINDS)] == []
    for kind, names in LINES.items():
        for name in names:
            assert any(line.split()[0] == name for line in found[kind]), (kind, name)


async def all_that_helpers_do(disk: Path) -> None:
    """Boots with and without a menu, on sockets and on pipes; inspects; ends each kind of helper before its time."""
    async with Supervisor() as supervisor:
        (await supervisor.run_bootloader(BootRequest(disk=disk))).close()
        await supervisor.inspect(disk)
        near, far = socket.socketpair()
        with near, far:
            request = BootRequest(disk=disk, console=Console(input=far.fileno(), output=far.fileno()))
            operation = supervisor.bootloader_operation(request)
            operation.start()
            await shown(near.recv)
            near.send(b"\r")
            (await operation.wait()).close()
        keys, typing = os.pipe()
        screen, output = os.pipe()
        try:
            request = BootRequest(disk=disk, console=Console(input=keys, output=output))
            operation = supervisor.bootloader_operation(request)
            operation.start()
            await shown(lambda size: os.read(screen, size))
            operation.cancel()
            with pytest.raises(OperationCancelled):
                await operation.wait()
        finally:
            for number in (keys, typing, screen, output):
                os.close(number)
        for kind in HelperKind:
            helper = Helper(kind, "test", await supervisor.host())
            await helper.start()
            helper.child.send_signal(signal.SIGTERM)
            await helper.child.death
            await helper.close()


async def shown(read: Callable[[int], bytes]) -> None:
    """Waits for the menu."""
    seen = b""
    while b"Debian" not in seen:
        seen += await asyncio.to_thread(read, 65536)


def test_a_line_without_use_and_without_a_word_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = "read -- the channel\nwrite -- not seen: results\nclose -- at times: fds\nfstat -> EPERM -- never\n"
    monkeypatch.setattr(traced_calls, "policy_text", lambda _kind: policy)
    none: list[str] = []
    found = {kind.value: none for kind in HelperKind} | {"pty": ["write"], "datacopier": ["read"]}
    assert [*traced_calls.objections(found, KINDS)] == [
        "pty: read was not used, and does not say why it is allowed",
        "pty: write is marked as not seen, and was used",
        "bootloader: read was not used, and does not say why it is allowed",
    ]
