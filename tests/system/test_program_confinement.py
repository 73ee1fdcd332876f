# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bootloader program cannot reach, tried from inside one, and what its helper looks like from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pyseccomp
import pytest
from support.planted import planted
from support.programs import delivered, refused, reporting

from domward.protocol import limits
from domward.protocol.errors import ConfinementFailed
from domward.protocol.layers import Layer
from domward.protocol.messages import HelperKind
from domward.supervisor import Budgets, Config, Supervisor
from domward.supervisor.helper import Helper

# Calls that end whoever makes them, with arguments that would do nothing.
FORBIDDEN = (
    "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "pidfd_open", "kcmp", "mount", "umount2",
    "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "mount_setattr", "unshare", "setns", "bpf", "keyctl",
    "add_key", "request_key", "perf_event_open", "userfaultfd", "io_uring_setup", "personality", "modify_ldt",
    "open_by_handle_at", "name_to_handle_at", "init_module", "kexec_load", "reboot", "swapon", "acct", "quotactl",
    "syslog", "sethostname", "settimeofday", "seccomp", "landlock_create_ruleset", "bind", "connect", "accept",
    "recvmmsg", "sendmmsg", "shmget", "msgget", "semget", "mq_open", "fanotify_init", "inotify_init1", "vmsplice",
    "process_madvise", "iopl", "ioperm", "mlock", "sync", "vhangup",
)  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"disk" * 1024)
    path.chmod(0o600)
    return path


def found(disk: Path, folder: Path, code: str, config: Config | None = None) -> Any:
    return delivered(disk, reporting(folder / "boot", code), config).report()


def test_a_program_sees_what_it_needs_and_nothing_else_of_the_host(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not for programs")
    places = ["/etc/shadow", "/etc/passwd", "/root", "/home", "/var", "/proc", "/sys", "/run", "/boot", "/srv", "/opt"]
    told = found(
        disk,
        tmp_path,
        f"found = {{'missing': [p for p in {[*places, str(tmp_path)]!r} if os.path.exists(p)],\n"
        " 'root': sorted(os.listdir('/')), 'etc': sorted(os.listdir('/etc')), 'dev': sorted(os.listdir('/dev')),\n"
        " 'disk': os.listdir('/disk'), 'tmp': sorted(os.listdir('/tmp')), 'results': os.listdir(folder)}",
    )
    assert told["missing"] == []
    usual = {"bin", "bootloader", "dev", "disk", "etc", "lib", "lib64", "sbin", "tmp", "usr"}
    assert usual - {"lib64"} <= set(told["root"]) <= usual | {"lib32", "libx32"}
    assert set(told["etc"]) <= {"alternatives", "ld.so.cache"}
    assert told["dev"] == ["full", "null", "random", "tty", "urandom", "zero"]
    assert (told["disk"], told["tmp"], told["results"]) == (["image"], ["output", "results"], [])


def test_a_program_writes_to_its_own_tmp_and_executes_nothing_from_there(disk: Path, tmp_path: Path) -> None:
    assert found(
        disk,
        tmp_path,
        "def write(path):\n"
        "    return error(os.open, path, os.O_WRONLY | os.O_CREAT)\n"
        "open('/tmp/x', 'w').write('#!/bin/sh\\n')\n"
        "os.chmod('/tmp/x', 0o4755)\n"
        "found = {'writes': {write(p) for p in ('/x', '/usr/x', '/usr/bin/sh', '/dev/x', '/etc/x', '/bootloader')},\n"
        " 'execute': error(os.execv, '/tmp/x', ['x']),\n"
        " 'device': error(os.mknod, '/tmp/d', stat.S_IFBLK | 0o600, os.makedev(7, 0)),\n"
        " 'socket': error(os.mknod, '/tmp/s', stat.S_IFSOCK | 0o600), 'fifo': error(os.mkfifo, '/tmp/f'),\n"
        " 'chown': error(os.chown, '/tmp/x', 0, 0)}\n"
        "found['writes'] = sorted(found['writes'] - {'EROFS', 'EACCES'})",
    ) == {
        "writes": [],
        "execute": "EACCES",
        "device": "EACCES",
        "socket": "EACCES",
        "fifo": None,
        "chown": "EPERM",
    }


def test_a_program_has_no_network_no_other_processes_and_no_way_to_type_into_its_terminal(
    disk: Path, tmp_path: Path
) -> None:
    families = [int(family) for family in socket.AddressFamily]
    told = found(
        disk,
        tmp_path,
        f"found = {{'sockets': sorted({{error(socket.socket, f, socket.SOCK_DGRAM) for f in {families!r}}}),\n"
        " 'pair': error(socket.socketpair), 'sti': error(fcntl.ioctl, 0, 0x5412, b'x'),\n"
        " 'others': [p for p in range(3, 5000) if p != os.getpid() and error(os.kill, p, 0) != 'ESRCH'],\n"
        " 'kill': error(os.kill, 1, signal.SIGKILL), 'stop': error(os.kill, 1, signal.SIGSTOP),\n"
        " 'pid': os.getpid(), 'parent': os.getppid(),\n"
        " 'root': error(os.setuid, 0), 'limits': ctypes.CDLL(None).setrlimit(7, (ctypes.c_ulong * 2)(16, 16)),\n"
        " 'nice': error(os.setpriority, os.PRIO_PROCESS, 0, 5), 'host': os.uname().nodename}",
    )
    assert told == {
        "sockets": ["EAFNOSUPPORT"],
        "pair": "EAFNOSUPPORT",
        "sti": "ENOTTY",
        "others": [],
        "kill": None,  # the kernel lets nobody in a pid namespace kill or stop its first process
        "stop": None,
        "pid": 2,
        "parent": 1,
        "root": "EPERM",
        "limits": -1,
        "nice": "EPERM",
        "host": "domward",
    }


def test_what_only_an_attack_calls_ends_it(disk: Path, tmp_path: Path) -> None:
    numbers = {name: pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in FORBIDDEN}
    numbers = {name: number for name, number in numbers.items() if number >= 0}
    told = found(
        disk,
        tmp_path,
        "call = ctypes.CDLL(None).syscall\n"
        "found = {}\n"
        f"for name, number in {numbers!r}.items():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        call(number, -1, -1, -1, -1, -1, -1)\n"
        "        os._exit(0)\n"
        "    found[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "for name, flags in {'user': 0x10000000, 'mount': 0x20000, 'parent': 0x8000}.items():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        f"        call({pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, 'clone')}, flags | 17, 0, 0, 0, 0)\n"
        "        os._exit(0)\n"
        "    found['clone ' + name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n",
    )
    assert told == dict.fromkeys(told, -signal.SIGSYS)
    assert len(told) > len(FORBIDDEN)


def test_a_program_that_is_ended_for_a_call_says_so(disk: Path, tmp_path: Path) -> None:
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "ptrace")
    error = refused(disk, reporting(tmp_path / "boot", f"ctypes.CDLL(None).syscall({number}, 0, 0, 0, 0)"))
    assert "It was ended by SIGSYS: it made a system call that bootloader programs may not make." in str(error)


def test_memory_and_room_in_tmp_are_bounded(disk: Path, tmp_path: Path) -> None:
    config = Config(
        budgets=Budgets(kernel_bytes=limits.MIB, ramdisk_bytes=limits.MIB, helper_address_space=256 * limits.MIB)
    )
    told = found(
        disk,
        tmp_path,
        "def fill():\n"
        "    for number in range(100):\n"
        "        with open(f'/tmp/{number}', 'wb', buffering=0) as file:\n"
        "            if file.write(bytes(1 << 20)) < 1 << 20:\n"
        "                return number\n"
        "    return 'no end'\n"
        "def make():\n"
        "    for number in range(100_000):\n"
        "        os.mkdir(f'/tmp/folder-{number}')\n"
        "found = {'fill': error(fill), 'bytes': sum(f.stat().st_size for f in os.scandir('/tmp') if f.is_file())}\n"
        "for number in range(100):\n"
        "    if os.path.exists(f'/tmp/{number}'):\n"
        "        os.unlink(f'/tmp/{number}')\n"
        "found['make'] = error(make)\n"
        "found['folders'] = len(os.listdir('/tmp'))\n"
        "for number in range(found['folders']):\n"
        "    if os.path.exists(f'/tmp/folder-{number}'):\n"
        "        os.rmdir(f'/tmp/folder-{number}')\n"
        "try:\n"
        "    found['memory'] = len(bytearray(300 << 20))\n"
        "except MemoryError:\n"
        "    found['memory'] = 'refused'\n",
        config,
    )
    assert told["fill"] in ("ENOSPC", told["bytes"] >> 20)
    assert told["bytes"] <= 2 * limits.MIB + limits.PROGRAM_FILES * 4096
    assert told["make"] == "ENOSPC"
    assert told["folders"] <= limits.PROGRAM_FILES
    assert told["memory"] == "refused"


# --- from outside -----------------------------------------------------------------------------------------------


def mounts_of(pid: int) -> dict[str, set[str]]:
    """The options of each place that is mounted, as the process `pid` sees it."""
    lines = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return {line[4]: set(line[5].split(",")) for line in lines}


def test_the_root_of_a_programs_helper_seen_from_outside() -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            helper = Helper(HelperKind.PROGRAM, "test", await supervisor.host())
            try:
                await helper.start(limits.MIB)
                pid = helper.child.pid
                mounts = mounts_of(pid)
                assert {"/", "/usr", "/dev", "/tmp"} <= set(mounts)
                for place, options in mounts.items():
                    assert "nosuid" in options
                    assert ("ro" in options) is (place != "/tmp")
                    assert ("nodev" in options) is (place != "/dev")
                    assert ("noexec" in options) is (place in ("/", "/dev", "/tmp"))
                assert os.stat(f"/proc/{pid}/root/tmp").st_mode & 0o777 == 0o700
                assert helper.verified is not None
                assert os.stat(f"/proc/{pid}/root/tmp").st_uid == helper.verified.uid
            finally:
                await helper.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("program_root._SEEN &= ~kernel.MS_RDONLY", "is mounted without ro"),
        ("program_root._SEEN &= ~kernel.MS_NOSUID", "is mounted without nosuid"),
        ("program_root.paths.ETC_NAMES += ('/etc/passwd',)", "its mounts are"),
    ],
)
def test_a_root_that_shows_or_allows_more_is_found_out(code: str, said: str, disk: Path, tmp_path: Path) -> None:
    program = reporting(tmp_path / "boot", "found = 1")
    config = Config(python=planted(tmp_path, f"from domward.helpers import program_root\n{code}"))
    error = refused(disk, program, config)
    assert isinstance(error, ConfinementFailed)
    assert error.step == Layer.MOUNT.value
    assert said in error.sentence


def test_landlock_that_forbids_nothing_is_found_out(disk: Path, tmp_path: Path) -> None:
    program = reporting(tmp_path / "boot", "found = 1")
    code = "from domward.helpers import program_root\nprogram_root.restrict = lambda abi: None"
    error = refused(disk, program, Config(python=planted(tmp_path, code)))
    assert isinstance(error, ConfinementFailed)
    assert error.step == Layer.LANDLOCK.value
