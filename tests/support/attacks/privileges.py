# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks that want back what was given up, or want more of the kernel than files, processes and networks."""

from __future__ import annotations

import ctypes
import struct

from .attacker import Attacker, Prevented
from .syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    SIGCHLD,
)
from .table import add, attack, stop

NO_CAPABILITY = stop("capabilities", "EPERM")
SUCCEEDS = stop("nothing", "succeeded")
ROOT, KEEP = 0, -1

for _name, _flag in (
    ("mount", CLONE_NEWNS),
    ("pid", CLONE_NEWPID),
    ("network", CLONE_NEWNET),
    ("ipc", CLONE_NEWIPC),
    ("uts", CLONE_NEWUTS),
    ("cgroup", CLONE_NEWCGROUP),
    ("time", CLONE_NEWTIME),
):
    add(
        lambda attacker, flag=_flag: (attacker.call("unshare", flag), None)[1],
        f"make-{'an' if _name in ('ipc', 'uts') else 'a'}-{_name}-namespace",
        f"Have a {_name} namespace of its own, with all of the kernel that it opens.",
        NO_CAPABILITY,
    )


@attack(
    without=SUCCEEDS,
    gains="capabilities that count only within namespaces of its own; mounts there are Landlock's to stop",
)
def make_a_user_namespace(attacker: Attacker) -> None:
    """Be root in a user namespace of its own, the start of most local exploits."""
    attacker.call("unshare", CLONE_NEWUSER)


@attack(
    without=stop("rlimits", "EAGAIN"),
    gains="make-a-user-namespace in one of the few processes of a program",
)
def clone_into_a_user_namespace(attacker: Attacker) -> None:
    """Have a child that is root in a user namespace of its own."""
    attacker.fork("clone", SIGCHLD | CLONE_NEWUSER | CLONE_NEWNET, 0, 0, 0, 0)


@attack(without=stop("pid-namespace", "ESRCH"))
def join_the_namespaces_of_another(attacker: Attacker) -> None:
    """Join the namespaces of a process of the host."""
    attacker.call("setns", attacker.call("pidfd_open", attacker.targets["victim"], 0), CLONE_NEWNS)


@attack(without=NO_CAPABILITY)
def become_root(attacker: Attacker) -> None:
    """Be uid 0 again."""
    attacker.call("setresuid", ROOT, ROOT, ROOT)


@attack(without=NO_CAPABILITY)
def become_root_with_the_old_call(attacker: Attacker) -> None:
    """Be uid 0 again, by setuid."""
    attacker.call("setuid", ROOT)


@attack(without=NO_CAPABILITY)
def become_group_root(attacker: Attacker) -> None:
    """Be gid 0 again."""
    attacker.call("setresgid", ROOT, ROOT, ROOT)


@attack(without=NO_CAPABILITY)
def join_a_group(attacker: Attacker) -> None:
    """Join the groups that may read disks and terminals."""
    attacker.call("setgroups", 2, struct.pack("II", 6, 5))


@attack(without=stop("capabilities", "prevented"))
def use_files_as_root(attacker: Attacker) -> None:
    """Be root for file accesses only, by setfsuid, which reports no error."""
    attacker.call("setfsuid", ROOT)
    if attacker.call("setfsuid", KEEP) != ROOT:
        raise Prevented("the uid for file accesses stayed")


@attack(without=NO_CAPABILITY)
def regain_capabilities(attacker: Attacker) -> None:
    """Have every capability again."""
    attacker.call("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *(0xFFFFFFFF,) * 6))


@attack(without=NO_CAPABILITY)
def unlock_the_securebits(attacker: Attacker) -> None:
    """Make uid 0 mean something again."""
    attacker.call("prctl", 28, 0, 0, 0, 0)


@attack(without=stop("securebits", "EPERM"))
def raise_an_ambient_capability(attacker: Attacker) -> None:
    """Hand a capability to the next program by the ambient set."""
    attacker.call("prctl", 47, 2, 21, 0, 0)


@attack(without=stop("no-new-privs", "EINVAL"))
def take_back_no_new_privs(attacker: Attacker) -> None:
    """Have set-uid programs work again."""
    attacker.call("prctl", 38, 0, 0, 0, 0)


@attack(without=SUCCEEDS, gains="a process that its own uid could trace; no other process has that uid, or sees it")
def become_dumpable(attacker: Attacker) -> None:
    """Be open to a tracer of its own uid."""
    attacker.call("prctl", 4, 1, 0, 0, 0)


@attack(
    without=SUCCEEDS,
    peers=False,
    gains="it may outlive a supervisor that was killed; with one that lives it is killed as ever",
)
def outlive_the_supervisor(attacker: Attacker) -> None:
    """Take back the signal that ends it with its supervisor."""
    attacker.call("prctl", 1, 0, 0, 0, 0)


@attack(without=SUCCEEDS, gains="a filter on top of the others, never one in place of them")
def replace_the_filter(attacker: Attacker) -> None:
    """Load a seccomp filter that allows everything."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    attacker.call("seccomp", 1, 0, struct.pack("HxxxxxxQ", 1, ctypes.addressof(program)))


# --- the kernel's other doors -----------------------------------------------------------------------------------


@attack(without=stop("ipc-namespace", "ENOENT"))
def attach_shared_memory(attacker: Attacker) -> None:
    """Attach a System V segment of the host."""
    attacker.call("shmget", attacker.targets["ipc-key"], 0, 0)


@attack(without=stop("ipc-namespace", "ENOENT"))
def join_a_message_queue(attacker: Attacker) -> None:
    """Read a System V message queue of the host."""
    attacker.call("msgget", attacker.targets["ipc-key"], 0)


@attack(without=stop("ipc-namespace", "ENOENT"))
def use_a_semaphore(attacker: Attacker) -> None:
    """Use a System V semaphore of the host."""
    attacker.call("semget", attacker.targets["ipc-key"], 0, 0)


@attack(without=stop("ipc-namespace", "prevented"))
def leave_shared_memory_behind(attacker: Attacker) -> None:
    """Keep memory of the host beyond its own end, in a System V segment."""
    attacker.call("shmget", attacker.targets["own-ipc-key"], 4096, 0o1600)
    raise Prevented("the segment is one of its own namespace, and goes with it")


@attack(without=stop("rlimits", "EMFILE"))
def leave_a_message_queue_behind(attacker: Attacker) -> None:
    """Keep memory of the host beyond its own end, in a POSIX queue."""
    attacker.call("mq_open", b"domward-canary", 0o102, 0o600, None)


@attack(without=NO_CAPABILITY)
def load_a_bpf_program(attacker: Attacker) -> None:
    """Run code in the kernel's BPF machine."""
    code = ctypes.create_string_buffer(struct.pack("BBhi", 0xB7, 0, 0, 0) + struct.pack("BBhi", 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    attribute = struct.pack("IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(licence)) + bytes(96)
    attacker.call("bpf", 5, attribute, len(attribute))


@attack(without=stop("capabilities", "EACCES", "EPERM"))
def watch_the_processors(attacker: Attacker) -> None:
    """Watch everything that a processor does, by perf events."""
    attribute = struct.pack("IIQQQQQ", 1, 64, 1, 0, 0, 0, 0) + bytes(16)
    attacker.call("perf_event_open", attribute, -1, 0, -1, 0)


@attack(without=NO_CAPABILITY)
def handle_the_page_faults_of_the_kernel(attacker: Attacker) -> None:
    """Hold the kernel up in the middle of a copy, by userfaultfd."""
    attacker.call("userfaultfd", 0)


@attack(without=stop("rlimits", "ENOMEM"))
def set_up_an_io_uring(attacker: Attacker) -> None:
    """Make system calls that no filter sees, by io_uring."""
    attacker.call("io_uring_setup", 2, ctypes.create_string_buffer(120))


@attack(without=SUCCEEDS, gains="its own address space laid out differently")
def change_its_personality(attacker: Attacker) -> None:
    """Have its next program at known addresses."""
    attacker.call("personality", 0x0040000)


@attack(without=SUCCEEDS, gains="16-bit segments of its own; a part of the kernel that had bugs")
def change_its_descriptor_table(attacker: Attacker) -> None:
    """Have segments of its own in the local descriptor table."""
    attacker.call("modify_ldt", 1, struct.pack("IIII", 0, 0, 4096, 0x51), 16)


@attack(without=NO_CAPABILITY)
def talk_to_the_ports(attacker: Attacker) -> None:
    """Talk to devices through the processor's ports."""
    attacker.call("ioperm", 0x80, 1, 1)


@attack(without=NO_CAPABILITY)
def talk_to_all_ports(attacker: Attacker) -> None:
    """Talk to devices through all of the processor's ports."""
    attacker.call("iopl", 3)


@attack(without=NO_CAPABILITY)
def load_a_module(attacker: Attacker) -> None:
    """Load code into the kernel."""
    attacker.call("init_module", b"\x7fELF", 4, b"")


@attack(without=NO_CAPABILITY)
def remove_a_module(attacker: Attacker) -> None:
    """Take code out of the kernel."""
    attacker.call("delete_module", b"domward_canary", 0)


@attack(without=NO_CAPABILITY)
def load_another_kernel(attacker: Attacker) -> None:
    """Have another kernel run after the next panic."""
    attacker.call("kexec_load", 0, 0, None, 0)


@attack(without=NO_CAPABILITY)
def reboot_the_host(attacker: Attacker) -> None:
    """Have the right to reboot: asks for the harmless setting of Ctrl-Alt-Del."""
    attacker.call("reboot", 0xFEE1DEAD, 672274793, 0, None)


@attack(without=NO_CAPABILITY)
def rename_the_host(attacker: Attacker) -> None:
    """Give the host another name."""
    attacker.call("sethostname", b"hijacked", 8)


@attack(without=NO_CAPABILITY)
def set_the_clock(attacker: Attacker) -> None:
    """Set the host's clock: an hour on, which outlives certificates."""
    attacker.call("clock_settime", 0, struct.pack("qq", attacker.targets["an-hour-on"], 0))


@attack(without=NO_CAPABILITY)
def clear_the_kernel_log(attacker: Attacker) -> None:
    """Hide its traces in the kernel's log."""
    attacker.call("syslog", 5, None, 0)


@attack(without=NO_CAPABILITY)
def account_into_a_file(attacker: Attacker) -> None:
    """Have the kernel write into a file, by process accounting."""
    attacker.call("acct", attacker.path("public"))


@attack(without=NO_CAPABILITY)
def swap_to_a_file(attacker: Attacker) -> None:
    """Have other processes' memory written into a file of its choice."""
    attacker.call("swapon", attacker.path("public"), 0)


@attack(without=stop("mount-namespace", "ENOENT"))
def set_a_sysctl(attacker: Attacker) -> None:
    """Have the kernel start a program of its own at the next crash."""
    attacker.call("openat", -100, b"/proc/sys/kernel/core_pattern", 1)


@attack(without=stop("user", "ENOKEY"))
def read_a_key(attacker: Attacker) -> None:
    """Read a secret from the session keyring of whoever started domward."""
    key = attacker.call("keyctl", 10, -3, b"user", b"domward-canary", 0)
    buffer = ctypes.create_string_buffer(64)
    attacker.call("keyctl", 11, key, buffer, 64)
    if attacker.targets["secret"].encode() not in buffer.raw:
        raise Prevented("another key was read")


@attack(without=SUCCEEDS, gains="keys in a keyring of its own uid, counted against that uid's own quota")
def leave_a_key_behind(attacker: Attacker) -> None:
    """Keep memory of the kernel beyond its own end, as keys."""
    attacker.call("add_key", b"user", b"domward-left", b"x", 1, -4)


@attack(without=stop("rlimits", "EPERM", "ENOMEM"))
def lock_memory(attacker: Attacker) -> None:
    """Take memory that the host cannot swap out."""
    attacker.call("mlockall", 3)


@attack(without=NO_CAPABILITY)
def hang_up_the_terminal(attacker: Attacker) -> None:
    """Take the terminal away from whoever sits at it."""
    attacker.call("vhangup")
