# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher and the command give up what they do not need, for good: seen from outside, and tried from inside.

What is read from /proc here is read by this file's own code, not by the supervisor's.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.commands import COMMAND, SECONDS
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.flaky_disk import blocking_from, flaky_disk
from support.guests import debian_disk, extlinux_disk
from support.planted import planted
from support.toolstacks import FRONT_END

from domward.protocol.errors import ConfinementFailed
from domward.protocol.privileges import LAUNCHER_KEEPS, Capability
from domward.protocol.seccomp import parse, reachable
from domward.protocol.syscall_numbers import NUMBERS
from domward.supervisor import Config, Supervisor, privileges

POLICY = Path(__file__).parents[2] / "protocol" / "policy" / "privileged.policy"
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def status(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def capabilities(pid: int) -> list[set[int]]:
    """The five sets, inheritable first and ambient last."""
    seen = status(pid)
    return [{number for number in range(64) if int(seen[name], 16) >> number & 1} for name in SETS]


def only(kept: set[int]) -> list[set[int]]:
    return [set(), kept, kept, kept, set()]


def filters(pid: int | str) -> int:
    return int(status(pid)["Seccomp_filters"])


# --- the launcher -----------------------------------------------------------------------------------------------


def test_the_launcher_keeps_only_what_confining_takes() -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            launcher = (await supervisor.host()).launcher
            assert launcher.child is not None
            pid = launcher.child.pid
            assert capabilities(pid) == only({6, 7, 8, 21})  # setgid, setuid, setpcap, sys_admin
            assert status(pid)["NoNewPrivs"] == "1"
            assert filters(pid) == filters("self") + 1
            assert status(pid)["Threads"] == "1"
            assert sorted(os.listdir(f"/proc/{pid}/root")) == ["empty", "program", "pty"]
            assert sorted(os.listdir(f"/proc/{pid}/fd"), key=int) == ["0", "1", "2", "3"]

    asyncio.run(main())


def test_each_thing_that_a_launcher_keeps_is_named_with_its_reason() -> None:
    assert set(LAUNCHER_KEEPS) == {Capability.SETGID, Capability.SETUID, Capability.SETPCAP, Capability.SYS_ADMIN}
    assert all(LAUNCHER_KEEPS.values())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("kernel.drop_bounding_set = lambda but=(): None", "it holds cap_chown, cap_dac_override"),
        ("kernel.set_capabilities = lambda kept: None", "it holds cap_chown, cap_dac_override"),
        ("kernel.set_no_new_privs = lambda: None", "it can gain privileges"),
        ("kernel.load_seccomp_filter = kernel.refused_call_passes = lambda *given: None", "it has no seccomp filter"),
    ],
)
def test_a_launcher_that_kept_more_is_found_out_before_it_makes_a_helper(code: str, said: str, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ConfinementFailed, match=said) as caught:
            async with Supervisor(Config(python=planted(tmp_path, code))):
                pass
        assert (caught.value.step, caught.value.exit_code) == ("launcher-privileges", 4)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "step"),
    [
        ("kernel.set_capabilities = refuse", "launcher-capabilities"),
        ("kernel.load_seccomp_filter = refuse", "launcher-seccomp"),
        ("kernel.load_seccomp_filter = lambda program: None", "launcher-seccomp"),
    ],
)
def test_a_launcher_that_cannot_give_up_its_privileges_says_where(code: str, step: str, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ConfinementFailed) as caught:
            async with Supervisor(Config(python=planted(tmp_path, code))):
                pass
        assert caught.value.step == step

    asyncio.run(main())


# --- the command ------------------------------------------------------------------------------------------------

# What `domward run` keeps: chown, dac_override, kill, setgid, setuid, setpcap, sys_ptrace, sys_admin, mknod,
# audit_write.
CONFINING = {0, 1, 5, 6, 7, 8, 19, 21, 27, 29}


@pytest.mark.parametrize("words", [(*COMMAND, "run"), (*COMMAND, "inspect", "--json"), FRONT_END])
def test_a_command_at_work_seen_from_outside(
    words: tuple[str, ...], disks: DiskFactory, kernel: DebianKernel, tmp_path: Path
) -> None:
    reached = threading.Event()
    if words is FRONT_END:
        words = (*words, "--output-format=simple0", f"--output={tmp_path / 'answer'}", f"--output-directory={tmp_path}")
    with (
        flaky_disk(tmp_path, disks.build(extlinux_disk(kernel=kernel)), blocking_from(0, reached)) as disk,
        subprocess.Popen((*words, disk), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
    ):
        try:
            assert reached.wait(SECONDS)
            tasks = [int(task) for task in os.listdir(f"/proc/{process.pid}/task")]
            for task in tasks:  # a thread that was there before would have kept everything
                assert capabilities(task) == only(CONFINING)
                assert status(task)["NoNewPrivs"] == "1"
                assert filters(task) == filters("self") + 1
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 130


def told(code: str) -> Any:
    """What `code` leaves in `found`, in a process of its own that is root."""
    program = (
        "import ctypes, json, os, socket, sys, threading\n"
        "from domward.protocol.errors import DomwardError\n"
        "from domward.protocol.layers import Layer\n"
        "from domward.protocol.privileges import Capability\n"
        "from domward.supervisor import kernel, privileges\n"
        f"{code}\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, start_new_session=True
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


# Each call with arguments that are wrong for it: where it is not refused, it fails in another way or does nothing.
TRY_ALL = """
call = ctypes.CDLL(None, use_errno=True).syscall
found = {}
for name, number in numbers.items():
    arguments = (2**64 - 1, 0x5412 | 1 << 40) if name == "ioctl" else (2**64 - 1,) * 6
    ctypes.set_errno(0)
    call(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments))
    found[name] = ctypes.get_errno()
"""


def test_every_system_call_of_the_policy_is_refused_to_a_process_that_gave_up() -> None:
    machine = os.uname().machine
    named = reachable(parse(POLICY.read_text(), "privileged"))
    numbers = {name: NUMBERS[machine][name] for name in sorted(named) if name in NUMBERS[machine]}
    given_up = told(f"numbers = {numbers}\nprivileges.give_up(privileges.CONFINING){TRY_ALL}")
    assert given_up == dict.fromkeys(numbers, errno.EPERM)
    as_root = told(f"numbers = {numbers}{TRY_ALL}")
    for name in ("ptrace", "personality", "process_vm_readv", "pidfd_getfd", "ioctl"):  # what no sandbox around refuses
        assert as_root[name] != errno.EPERM, name


def test_what_was_given_up_is_refused_and_executing_a_program_does_not_bring_it_back() -> None:
    code = """
privileges.give_up(privileges.CONFINING)
found = []
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
except PermissionError:
    found.append("refused")
again = [sys.executable, "-c", "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)"]
pid = os.posix_spawn(*again[:1], again, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)])
found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert told(code) == ["refused", 1]
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()  # as this process still may


def test_giving_up_beside_another_thread_is_refused_because_that_would_keep_everything() -> None:
    code = """
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
try:
    privileges.give_up(privileges.CONFINING)
except DomwardError as error:
    found = [error.code, error.sentence]
stop.set()
thread.join()
"""
    assert told(code) == ["usage", "Privileges can only be given up before threads are started."]


@pytest.mark.parametrize(
    ("error", "expected"), [("EINVAL", "given up"), ("ENOSYS", "given up"), ("EPERM", ["failed", 1])]
)
def test_where_there_is_no_seccomp_the_rest_is_given_up_and_any_other_failure_is_one(
    error: str, expected: object
) -> None:
    code = f"""
import errno
def refuse(program):
    raise OSError(errno.{error}, os.strerror(errno.{error}))
kernel.load_seccomp_filter = refuse
try:
    privileges.give_up(privileges.CONFINING)
    found = "given up"
except DomwardError as error:
    found = [error.code, error.exit_code]
assert kernel.permitted_capabilities() == sum(1 << kept for kept in privileges.CONFINING)
"""
    assert told(code) == expected


def test_a_launcher_that_is_started_afterwards_confines_as_well(disks: DiskFactory, kernel: DebianKernel) -> None:
    disk = str(disks.build(debian_disk(kernel=kernel)))
    code = f"""
import asyncio
from domward.supervisor import BootRequest, Supervisor
from pathlib import Path
privileges.give_up(privileges.CONFINING)

async def main():
    async with Supervisor() as supervisor:
        result = await supervisor.run_bootloader(BootRequest(disk=Path({disk!r})))
        result.close()
        return "booted"

found = asyncio.run(main())
"""
    assert told(code) == "booted"


def test_a_supervisor_in_somebodys_program_leaves_that_programs_privileges_alone() -> None:
    before = status("self")

    async def main() -> None:
        async with Supervisor():
            pass

    asyncio.run(main())
    after = status("self")
    assert [after[name] for name in (*SETS, "NoNewPrivs", "Seccomp")] == [
        before[name] for name in (*SETS, "NoNewPrivs", "Seccomp")
    ]


def test_each_thing_that_is_kept_is_named_with_its_reason() -> None:
    assert set(privileges.CONFINING) == {Capability(number) for number in CONFINING}
    assert set(privileges.FILES) == {Capability.DAC_OVERRIDE}
    assert set(privileges.RUNNING_PROGRAMS) == set(privileges.CONFINING) | {Capability.SYS_CHROOT}
    assert all(privileges.RUNNING_PROGRAMS.values())
