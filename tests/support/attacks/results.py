# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on what is delivered: kernel and ramdisk, while they are filled, sealed and hashed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .attacker import Stopped
from .syscalls import F_ADD_SEALS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from .table import attack, stop

if TYPE_CHECKING:  # it needs domward, which the peers' interpreters do not have
    from .helper_attacker import HelperAttacker

REFUSED = stop("result check", "protocol-violation")
FROZEN = stop("result check", "EPERM")
READER = ("bootloader",)
KERNEL = {"type": "progress", "step": "kernel"}
RAMDISK = {"type": "progress", "step": "ramdisk"}
F_SEAL_SEAL = 1
TRIES = 1_000_000  # the supervisor freezes the kernel's sink within some hundred of them


@attack(by=REFUSED, without=None, kinds=READER, peers=False)
def claim_more_than_there_is(attacker: HelperAttacker) -> None:
    """Have bytes delivered that the kernel's file does not have."""
    attacker.answer(kernel_bytes=5)


@attack(by=REFUSED, without=None, kinds=READER, peers=False)
def claim_less_than_there_is(attacker: HelperAttacker) -> None:
    """Hide bytes behind the end of the kernel."""
    attacker.answer(kernel_bytes=3)


@attack(by=REFUSED, without=None, kinds=READER, peers=False)
def claim_a_ramdisk(attacker: HelperAttacker) -> None:
    """Have a ramdisk delivered that is not there."""
    attacker.answer(ramdisk_bytes=4)


@attack(by=REFUSED, without=None, kinds=READER, peers=False)
def hide_a_ramdisk(attacker: HelperAttacker) -> None:
    """Fill the ramdisk's file, and say that there is none."""
    attacker.call("write", attacker.fd("ramdisk"), b"hidden", 6)
    attacker.answer()


@attack(by=REFUSED, without=None, kinds=READER, peers=False)
def exceed_the_kernels_budget(attacker: HelperAttacker) -> None:
    """Deliver a kernel that is larger than allowed."""
    attacker.call("ftruncate", attacker.fd("kernel"), 1 << 29)
    attacker.say(attacker.boot_read(kernel_bytes=1 << 29))


@attack(by=stop("rlimits", "EFBIG"), without=None, kinds=READER, peers=False)
def exceed_the_file_size(attacker: HelperAttacker) -> None:
    """Fill the host's memory through the kernel's file."""
    attacker.call("ftruncate", attacker.fd("kernel"), 1 << 40)


@attack(without=REFUSED, kinds=READER, peers=False)
def keep_the_kernel_mapped(attacker: HelperAttacker) -> None:
    """Change the kernel through a mapping, after it was hashed."""
    attacker.call("ftruncate", attacker.fd("kernel"), 4096)
    attacker.call("mmap", 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, attacker.fd("kernel"), 0)
    attacker.say(KERNEL)
    attacker.say(RAMDISK)
    attacker.idle()


@attack(without=stop("result check", "delivered"), kinds=READER, peers=False)
def map_what_the_kernel_is_copied_from(attacker: HelperAttacker) -> None:
    """Keep the supervisor from sealing the kernel by writing it from a mapping of a disk that does not answer."""
    attacker.call("mmap", 0, 4096, PROT_READ, MAP_PRIVATE, attacker.fd("disk"), 0)
    attacker.answer()


@attack(by=FROZEN, without=None, kinds=READER, peers=False)
def write_during_the_hash(attacker: HelperAttacker) -> None:
    """Change the kernel while it is hashed."""
    attacker.fill()
    attacker.say(KERNEL)
    attacker.say(RAMDISK)
    attacker.call("lseek", attacker.fd("kernel"), 0, 0)
    try:
        for _ in range(TRIES):
            attacker.again("lseek", attacker.fd("kernel"), 0, 0)
            attacker.again("write", attacker.fd("kernel"), b"4321", 4)
    except Stopped:
        attacker.call("write", attacker.fd("kernel"), b"4321", 4)


@attack(by=FROZEN, without=None, kinds=READER, peers=False)
def truncate_during_the_hash(attacker: HelperAttacker) -> None:
    """Cut the kernel while it is hashed, so that reading it is a bus error."""
    attacker.fill()
    attacker.say(KERNEL)
    attacker.say(RAMDISK)
    try:
        for _ in range(TRIES):
            attacker.again("ftruncate", attacker.fd("kernel"), 3)
            attacker.again("ftruncate", attacker.fd("kernel"), 4)
    except Stopped:
        attacker.call("ftruncate", attacker.fd("kernel"), 0)


@attack(by=REFUSED, without=None, kinds=READER, peers=False)
def answer_with_another_size_later(attacker: HelperAttacker) -> None:
    """Have the hash of one kernel and the size of another."""
    attacker.fill()
    attacker.say(KERNEL)
    attacker.say(RAMDISK)
    attacker.say(attacker.boot_read(kernel_bytes=8))


@attack(by=stop("result check", "delivered"), without=None, kinds=READER, peers=False)
def deliver_a_path(attacker: HelperAttacker) -> None:
    """Deliver the name of a file of the host as the kernel: it is delivered as those bytes, and nobody opens it."""
    attacker.call("write", attacker.fd("kernel"), b"/etc/shadow", 11)
    attacker.say(attacker.boot_read(kernel_bytes=11, title=b"../../etc/shadow", source="/etc/shadow"))


@attack(without=REFUSED, kinds=READER, peers=False)
def seal_the_kernel_first(attacker: HelperAttacker) -> None:
    """Keep the supervisor from sealing the kernel."""
    attacker.call("fcntl", attacker.fd("kernel"), F_ADD_SEALS, F_SEAL_SEAL)
    attacker.answer()


@attack(without=stop("user", "EPERM", "EACCES"), kinds=READER, peers=False)
def make_the_kernel_a_program(attacker: HelperAttacker) -> None:
    """Make the kernel's file one that can be run."""
    attacker.call("fchmod", attacker.fd("kernel"), 0o777)
