# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks that only a bootloader program can make: on its collector, its root, and what becomes of its results."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from .table import Stop, Work, add, stop

if TYPE_CHECKING:  # who imports this module for its attacks has loaded it already
    from .program_side import ProgramAttacker

PROGRAM = ("program",)
OUTPUT = stop("program's contract", "program-output-invalid")
RESULT = stop("program's contract", "program-result-invalid")
SUCCEEDS = stop("nothing", "succeeded")


def _attack(by: Stop, without: Stop | None = None, gains: str = "") -> Work:
    def register(work: Work) -> Work:
        add(work, work.__name__.replace("_", "-"), work.__doc__ or "", without, by, PROGRAM, peers=False, gains=gains)
        return work

    return register


@_attack(RESULT)
def deliver_a_symlink(attacker: ProgramAttacker) -> None:
    """Have a file of the host copied out, by a kernel that is a symbolic link."""
    os.symlink(attacker.path("private"), attacker.result())
    attacker.deliver(attacker.result())


@_attack(RESULT)
def deliver_the_disk(attacker: ProgramAttacker) -> None:
    """Have the whole disk copied out, by a kernel that is a link to it."""
    os.symlink(attacker.disk, attacker.result())
    attacker.deliver(attacker.result())


@_attack(OUTPUT)
def deliver_a_file_of_the_host(attacker: ProgramAttacker) -> None:
    """Name a file of the host as the kernel."""
    attacker.deliver("/etc/shadow")


@_attack(OUTPUT)
def deliver_from_above(attacker: ProgramAttacker) -> None:
    """Name a file outside the folder of results, by ".."."""
    attacker.deliver(f"{attacker.folder}/../output")


@_attack(RESULT)
def deliver_a_fifo(attacker: ProgramAttacker) -> None:
    """Have whoever copies the kernel wait for ever, at a FIFO."""
    os.mkfifo(attacker.result())
    attacker.deliver(attacker.result())


@_attack(RESULT)
def deliver_a_folder(attacker: ProgramAttacker) -> None:
    """Deliver a folder as the kernel."""
    os.mkdir(attacker.result())
    attacker.deliver(attacker.result())


@_attack(RESULT)
def deliver_nothing_as_a_kernel(attacker: ProgramAttacker) -> None:
    """Have an empty kernel booted."""
    attacker.deliver(content=b"")


@_attack(RESULT)
def deliver_a_kernel_beyond_the_budget(attacker: ProgramAttacker) -> None:
    """Have the host's memory filled by a kernel of 512 MiB."""
    attacker.deliver()
    os.truncate(attacker.result(), 1 << 29)


@_attack(OUTPUT)
def flood_the_output(attacker: ProgramAttacker) -> None:
    """Have two megabytes of output read."""
    attacker.write(b"kernel " + b"k" * (2 << 20))


@_attack(stop("program's contract", "program-output-invalid"))
def replace_the_output_by_a_link(attacker: ProgramAttacker) -> None:
    """Have another file read as the output."""
    os.unlink(attacker.output)
    os.symlink("/etc/shadow", attacker.output)


@_attack(stop("reaping", "delivered"))
def change_the_kernel_afterwards(attacker: ProgramAttacker) -> None:
    """Leave a daemon behind that changes the kernel while it is copied: it is killed first, and what was there is."""
    attacker.deliver()
    if os.fork() == 0:
        os.setsid()
        while True:
            with open(attacker.result(), "r+b") as file:
                file.write(b"4321")


@_attack(stop("pid-namespace", "prevented"))
def kill_the_collector(attacker: ProgramAttacker) -> None:
    """End the process that watches it, which is the first of its namespace."""
    attacker.call("kill", 1, signal.SIGKILL)
    attacker.call("kill", 1, signal.SIGSTOP)
    attacker.prevented("the first process of a namespace takes neither from within")


@_attack(SUCCEEDS, gains="an end of its own operation, as its own failure would be")
def ask_the_collector_to_end(attacker: ProgramAttacker) -> None:
    """End the process that watches it, by the signal that it heeds."""
    attacker.expect_end(128 + signal.SIGTERM)
    attacker.call("kill", 1, signal.SIGTERM)
    attacker.call("pause")


@_attack(stop("seccomp", "SIGSYS"), stop("dumpable", "EPERM"))
def trace_the_collector(attacker: ProgramAttacker) -> None:
    """Take over the process that has the channel, which has its own uid."""
    attacker.call("ptrace", 0x4206, 1, 0, 0)


@_attack(stop("seccomp", "SIGSYS"), stop("dumpable", "EPERM"))
def steal_the_channel(attacker: ProgramAttacker) -> None:
    """Take the channel out of the collector, which has its own uid."""
    attacker.call("pidfd_getfd", attacker.call("pidfd_open", 1, 0), 3, 0)


@_attack(stop("mount-namespace", "EROFS"), stop("mount-namespace", "EROFS"))
def write_to_usr(attacker: ProgramAttacker) -> None:
    """Replace a program of the host."""
    attacker.call("openat", -100, b"/usr/bin/domward-canary", 0o101, 0o755)


@_attack(stop("mount-namespace", "EROFS"), stop("mount-namespace", "EROFS"))
def write_to_the_disk_by_its_path(attacker: ProgramAttacker) -> None:
    """Change the guest's disk, which lies in its root."""
    attacker.call("openat", -100, attacker.disk.encode(), 1)


@_attack(stop("mount-namespace", "EROFS", "EACCES"), stop("mount-namespace", "EROFS", "EACCES"))
def write_to_the_bootloader(attacker: ProgramAttacker) -> None:
    """Change the bootloader that the next guest is started with."""
    attacker.call("openat", -100, b"/bootloader", 1)


@_attack(stop("rlimits", "EAGAIN"), stop("rlimits", "EAGAIN"))
def make_more_processes_than_it_may(attacker: ProgramAttacker) -> None:
    """Make processes until the host has no numbers left: it may have a few."""
    for _ in range(64):
        attacker.fork("fork", then="pause")


@_attack(stop("mount-namespace", "ENOSPC"), stop("mount-namespace", "ENOSPC"))
def make_more_files_than_it_may(attacker: ProgramAttacker) -> None:
    """Make files until the host's memory is full of them."""
    attacker.call("chdir", b"/tmp")
    for number in range(10_000):
        attacker.again("mkdir", b"%d" % number, 0o700)


@_attack(stop("no-new-privs", "prevented"), stop("no-new-privs", "prevented"))
def run_a_set_uid_program(attacker: ProgramAttacker) -> None:
    """Be root by a set-uid program of the host."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.dup2(write, 2)
        os.execv("/usr/bin/passwd", ["passwd", "--status", "root"])
    os.waitpid(pid, 0)
    attacker.prevented(f"it ran without root's rights and said so: {len(os.read(read, 1024)) > 0}")


@_attack(stop("user", "EACCES"), stop("user", "EACCES"))
def execute_from_tmp(attacker: ProgramAttacker) -> None:
    """Run a program that it wrote itself."""
    with open("/tmp/program", "wb") as file:
        file.write(b"#!/bin/sh\n")
    os.chmod("/tmp/program", 0o755)
    attacker.call("execve", b"/tmp/program", None, None)


@_attack(stop("terminal filter", "succeeded"), gains="nothing: what it writes is filtered before a person sees it")
def drive_the_terminal_as_a_program(attacker: ProgramAttacker) -> None:
    """Have the person's terminal answer and rename itself, by escape sequences."""
    os.write(1, b"\x1b[6n\x1b]0;x\x07\x1b]52;c;eA==\x07\x1bP+q\x1b\\\x1b[?1049h\n")


@_attack(stop("seccomp", "ENOTTY"), SUCCEEDS, gains="keys in its own pty, for itself to read")
def type_into_its_own_terminal_as_a_program(attacker: ProgramAttacker) -> None:
    """Type into its controlling terminal, by TIOCSTI."""
    attacker.call("ioctl", 0, 0x5412, b"x")
