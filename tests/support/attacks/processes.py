# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on other processes of the host, and on the limits on one's own."""

from __future__ import annotations

import ctypes
import struct

from .attacker import Attacker, Prevented
from .syscalls import (
    CLONE_FILES,
    CLONE_FS,
    CLONE_SIGHAND,
    CLONE_THREAD,
    CLONE_VM,
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGSTOP,
)
from .table import attack, stop

UNSEEN = stop("pid-namespace", "ESRCH")
NO_CAPABILITY = stop("capabilities", "EPERM", "EACCES")
NO_MORE = stop("rlimits", "EAGAIN")
A_FEW = "a few processes, which a program may have and which end with it"
RLIMIT_AS, RLIMIT_NPROC = 9, 6
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206


def _vector(address: int, length: int) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * 2)(address, length)


@attack(without=UNSEEN)
def trace_a_process(attacker: Attacker) -> None:
    """Take over a process of the host by ptrace."""
    attacker.call("ptrace", PTRACE_SEIZE, attacker.targets["victim"], 0, 0)


@attack(without=UNSEEN)
def read_the_memory_of_a_process(attacker: Attacker) -> None:
    """Read a secret in the memory of a process of the host."""
    buffer = ctypes.create_string_buffer(64)
    local, remote = _vector(ctypes.addressof(buffer), 64), _vector(attacker.targets["victim-address"], 64)
    attacker.call("process_vm_readv", attacker.targets["victim"], local, 1, remote, 1, 0)


@attack(without=UNSEEN)
def write_the_memory_of_a_process(attacker: Attacker) -> None:
    """Change the memory of a process of the host."""
    buffer = ctypes.create_string_buffer(b"changed")
    local, remote = _vector(ctypes.addressof(buffer), 7), _vector(attacker.targets["victim-address"], 7)
    attacker.call("process_vm_writev", attacker.targets["victim"], local, 1, remote, 1, 0)


@attack(without=stop("mount-namespace", "ENOENT"))
def read_memory_through_proc(attacker: Attacker) -> None:
    """Read a process's memory as a file of /proc."""
    attacker.call("openat", -100, f"/proc/{attacker.targets['victim']}/mem".encode(), 0)


@attack(without=stop("mount-namespace", "ENOENT"))
def read_the_environment_of_a_process(attacker: Attacker) -> None:
    """Read what a process of the host was started with."""
    fd = attacker.call("openat", -100, f"/proc/{attacker.targets['victim']}/cmdline".encode(), 0)
    buffer = ctypes.create_string_buffer(4096)
    attacker.call("read", fd, buffer, 4096)
    if attacker.targets["secret"].encode() not in buffer.raw:
        raise Prevented("another process of that number was read")


@attack(without=UNSEEN)
def steal_an_fd(attacker: Attacker) -> None:
    """Take an open file out of a process of the host with pidfd_getfd."""
    attacker.call("pidfd_getfd", attacker.call("pidfd_open", attacker.targets["victim"], 0), 0, 0)


@attack(without=UNSEEN)
def kill_a_process(attacker: Attacker) -> None:
    """End a process of the host."""
    attacker.call("kill", attacker.targets["victim"], SIGKILL)


@attack(without=UNSEEN)
def kill_a_thread(attacker: Attacker) -> None:
    """End a process of the host by the number of its thread."""
    attacker.call("tgkill", attacker.targets["victim"], attacker.targets["victim"], SIGKILL)


@attack(without=UNSEEN)
def send_a_forged_signal(attacker: Attacker) -> None:
    """Send a process of the host a signal with a forged sender."""
    information = struct.pack("iiiiII", SIGCONT, 0, -1, 0, 1, 0) + bytes(104)
    attacker.call("rt_sigqueueinfo", attacker.targets["victim"], SIGCONT, information)


@attack(without=UNSEEN)
def signal_through_a_pidfd(attacker: Attacker) -> None:
    """End a process of the host through a pidfd."""
    attacker.call("pidfd_send_signal", attacker.call("pidfd_open", attacker.targets["victim"], 0), SIGKILL, None, 0)


@attack(without=UNSEEN, peers=False)
def kill_everybody(attacker: Attacker) -> None:
    """End every process that it may, with kill -1."""
    attacker.call("kill", -1, SIGKILL)


@attack(without=UNSEEN)
def slow_a_process_down(attacker: Attacker) -> None:
    """Make a process of the host the last to run."""
    attacker.call("setpriority", 0, attacker.targets["victim"], 19)


@attack(without=UNSEEN)
def limit_a_process(attacker: Attacker) -> None:
    """Take the files away from a process of the host, by its limits."""
    attacker.call("prlimit64", attacker.targets["victim"], 7, struct.pack("QQ", 64, 64), None)


@attack(without=UNSEEN)
def pin_a_process(attacker: Attacker) -> None:
    """Bind a process of the host to one processor."""
    attacker.call("sched_setaffinity", attacker.targets["victim"], 8, struct.pack("Q", 1))


@attack(without=UNSEEN)
def starve_the_disk_of_a_process(attacker: Attacker) -> None:
    """Let a process of the host read only when nobody else does."""
    attacker.call("ioprio_set", 1, attacker.targets["victim"], 3 << 13)


@attack(without=UNSEEN)
def move_the_memory_of_a_process(attacker: Attacker) -> None:
    """Learn where a process of the host has its memory, by move_pages."""
    status = (ctypes.c_int * 1)()
    pages = (ctypes.c_uint64 * 1)(attacker.targets["victim-address"] & ~4095)
    attacker.call("move_pages", attacker.targets["victim"], 1, pages, None, status, 0)


@attack(without=UNSEEN)
def compare_processes(attacker: Attacker) -> None:
    """Learn about addresses in the kernel by comparing processes with kcmp."""
    attacker.call("kcmp", attacker.targets["victim"], attacker.targets["victim"], 1, 0, 0)


@attack(without=UNSEEN)
def find_the_locks_of_a_process(attacker: Attacker) -> None:
    """Learn addresses within a process of the host with get_robust_list."""
    out = (ctypes.c_uint64 * 2)()
    length = ctypes.addressof(out) + 8
    attacker.call("get_robust_list", attacker.targets["victim"], ctypes.addressof(out), length)


# --- its own limits ---------------------------------------------------------------------------------------------


@attack(without=NO_CAPABILITY)
def run_before_everybody(attacker: Attacker) -> None:
    """Run before everybody else, with a real-time priority."""
    attacker.call("sched_setscheduler", 0, 1, struct.pack("i", 50))


@attack(without=NO_CAPABILITY)
def run_more_often(attacker: Attacker) -> None:
    """Run more often than others, with a negative niceness."""
    attacker.call("setpriority", 0, 0, -20)


@attack(without=stop("capabilities", "EPERM"))
def raise_its_limits(attacker: Attacker) -> None:
    """Lift the limit on processes that was set on it."""
    attacker.call("setrlimit", RLIMIT_NPROC, struct.pack("QQ", 2**40, 2**40))


@attack(without=NO_MORE, gains=A_FEW)
def fork_bomb(attacker: Attacker) -> None:
    """Make processes until the host has no numbers left."""
    for _ in range(8):
        attacker.fork("fork")


@attack(without=NO_MORE, gains=A_FEW)
def fork_with_clone(attacker: Attacker) -> None:
    """Make a process with clone, which filters on fork forget."""
    attacker.fork("clone", SIGCHLD, 0, 0, 0, 0)


@attack(without=NO_MORE, gains=A_FEW)
def fork_with_clone3(attacker: Attacker) -> None:
    """Make a process with clone3, whose flags a filter cannot see."""
    arguments = struct.pack("8Q", 0, 0, 0, 0, SIGCHLD, 0, 0, 0)
    attacker.fork("clone3", arguments, len(arguments))


@attack(without=NO_MORE, peers=False)
def thread_bomb(attacker: Attacker) -> None:
    """Make threads until the host has no numbers left."""
    attacker.call("clone", CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, 0, 0, 0, 0)


@attack(without=stop("pid-namespace", "prevented"), peers=False)
def stop_itself(attacker: Attacker) -> None:
    """Stop, and leave the operation waiting."""
    attacker.call("kill", 1, SIGSTOP)
    raise Prevented("the first process of a pid namespace takes no SIGSTOP from within")
