# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on the host's files, by every way that leads to one."""

from __future__ import annotations

import ctypes
import struct

from .attacker import Attacker, Prevented
from .syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    MS_BIND,
    MS_REC,
    O_CREAT,
    O_DIRECTORY,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    PTY_FLAGS,
)
from .table import SECCOMP, attack, stop

NO_PATH = stop("mount-namespace", "ENOENT")
NO_WRITING = {"pty": stop("user", "EACCES"), "": stop("mount-namespace", "EROFS")}
NO_CAPABILITY = stop("capabilities", "EPERM")
NOT_OWNER = stop("user", "EPERM", "EACCES")
BOOTLOADER = ("bootloader",)

# The smallest program: an ELF file whose code is write(1, "ran\n", 4); exit_group(77).
PROGRAM = (
    b"\x7fELF\x02\x01\x01" + bytes(9)
    + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 0x1000, 0x1000, 0x1000)
    + bytes.fromhex("bf01000000 488d3518000000 ba04000000 b801000000 0f05 bf4d000000 b8e7000000 0f05")
    + b"ran\n"
)  # fmt: skip


def _must_hold_the_secret(attacker: Attacker, fd: int) -> None:
    buffer = ctypes.create_string_buffer(256)
    attacker.call("read", fd, buffer, 256)
    if attacker.targets["secret"].encode() not in buffer.raw:
        raise Prevented("another file of that name was read")


@attack(without=NO_PATH)
def read_a_file(attacker: Attacker) -> None:
    """Read a file of the host that everybody may read."""
    _must_hold_the_secret(attacker, attacker.call("openat", AT_FDCWD, attacker.path("public"), O_RDONLY))


@attack(without=NO_PATH)
def read_a_private_file(attacker: Attacker) -> None:
    """Read a file of the host that only root may read."""
    _must_hold_the_secret(attacker, attacker.call("openat", AT_FDCWD, attacker.path("private"), O_RDONLY))


@attack(without=NO_PATH)
def write_a_file(attacker: Attacker) -> None:
    """Change a file of the host that everybody may write."""
    attacker.call("write", attacker.call("openat", AT_FDCWD, attacker.path("public"), O_WRONLY), b"changed", 7)


@attack(without=NO_PATH)
def open_with_the_old_call(attacker: Attacker) -> None:
    """Read a file through open, which filters forget."""
    _must_hold_the_secret(attacker, attacker.call("open", attacker.path("public"), O_RDONLY))


@attack(without=NO_PATH)
def open_with_the_new_call(attacker: Attacker) -> None:
    """Read a file through openat2, whose flags a filter cannot see."""
    how = struct.pack("QQQ", O_RDONLY, 0, 0)
    _must_hold_the_secret(attacker, attacker.call("openat2", AT_FDCWD, attacker.path("public"), how, len(how)))


@attack(by={"pty": NO_PATH}, without=NO_PATH)
def open_with_the_flags_of_a_pty(attacker: Attacker) -> None:
    """Change a file by opening it just as the pty helper may open a terminal."""
    attacker.call("write", attacker.call("openat", AT_FDCWD, attacker.path("public"), PTY_FLAGS), b"changed", 7)


@attack(by={"pty": stop("user", "EACCES")}, without={"pty": stop("user", "EACCES"), "": NO_PATH}, peers=False)
def open_another_terminal(attacker: Attacker) -> None:
    """Open the terminal of a person on this host through devpts."""
    attacker.call("openat", AT_FDCWD, f"/pts/{attacker.targets['pts']}".encode(), PTY_FLAGS)


@attack(without=stop("capabilities", "EPERM"))
def open_by_handle(attacker: Attacker) -> None:
    """Read a file by its number in the file system, as the Docker escape of 2014 did."""
    kind, handle = attacker.targets["handle"]
    data = bytes.fromhex(handle)
    mount = attacker.fds.get("disk", 0)
    packed = struct.pack("Ii", len(data), kind) + data
    _must_hold_the_secret(attacker, attacker.call("open_by_handle_at", mount, packed, O_RDONLY))


@attack(without=NO_PATH)
def read_through_the_root_of_another(attacker: Attacker) -> None:
    """Read a file through /proc/PID/root of a process of the host."""
    path = f"/proc/{attacker.targets['victim']}/root".encode() + attacker.path("public")
    _must_hold_the_secret(attacker, attacker.call("openat", AT_FDCWD, path, O_RDONLY))


@attack(without=NO_PATH)
def climb_out(attacker: Attacker) -> None:
    """Leave the root by "..", enough of them."""
    path = b"../" * 20 + attacker.path("public")[1:]
    _must_hold_the_secret(attacker, attacker.call("openat", AT_FDCWD, path, O_RDONLY))


@attack(without=NO_CAPABILITY)
def chroot_and_climb_out(attacker: Attacker) -> None:
    """Leave the root by the second chroot, which leaves the working folder outside."""
    attacker.call("chroot", b".")


@attack(without=NO_CAPABILITY)
def pivot_back(attacker: Attacker) -> None:
    """Bring the old root back by pivot_root."""
    attacker.call("pivot_root", b".", b".")


@attack(without=NO_CAPABILITY)
def mount_a_file_system(attacker: Attacker) -> None:
    """Mount a proc file system to look through."""
    attacker.call("mount", b"proc", b"/", b"proc", 0, None)


@attack(without=NO_CAPABILITY)
def bind_the_root(attacker: Attacker) -> None:
    """Mount what is already there once more, without its read-only flag."""
    attacker.call("mount", b"/", b"/", None, MS_BIND | MS_REC, None)


@attack(without=NO_CAPABILITY)
def uncover_the_root(attacker: Attacker) -> None:
    """Unmount the empty root and see what is below."""
    attacker.call("umount2", b"/", 2)


@attack(without=NO_CAPABILITY)
def mount_with_the_new_calls(attacker: Attacker) -> None:
    """Mount through fsopen, which filters forget."""
    attacker.call("fsopen", b"tmpfs", 0)


@attack(without=NO_CAPABILITY)
def clone_the_tree(attacker: Attacker) -> None:
    """Take a detached copy of the mounts with open_tree."""
    attacker.call("open_tree", AT_FDCWD, b"/", 1)


@attack(without=NO_CAPABILITY)
def make_a_mount_writable(attacker: Attacker) -> None:
    """Take the read-only flag off a mount with mount_setattr."""
    attacker.call("mount_setattr", AT_FDCWD, b"/", 0, struct.pack("QQQQ", 0, 1, 0, 0), 32)


@attack(without=NO_WRITING)
def make_a_symlink(attacker: Attacker) -> None:
    """Leave a symbolic link for a program of the host to follow."""
    attacker.call("symlinkat", attacker.path("private"), AT_FDCWD, b"/link")


@attack(without=NO_WRITING)
def make_a_folder(attacker: Attacker) -> None:
    """Make a folder to put things into."""
    attacker.call("mkdir", b"/folder", 0o777)


@attack(without=NO_WRITING)
def make_a_file(attacker: Attacker) -> None:
    """Make a file to keep things in."""
    attacker.call("openat", AT_FDCWD, b"/file", O_RDWR | O_CREAT, 0o777)


@attack(without=NO_PATH)
def link_a_file(attacker: Attacker) -> None:
    """Give a file of the host a second name."""
    attacker.call("linkat", AT_FDCWD, attacker.path("public"), AT_FDCWD, attacker.path("second"), 0)


@attack(without=NO_PATH)
def remove_a_file(attacker: Attacker) -> None:
    """Remove a file of the host."""
    attacker.call("unlinkat", AT_FDCWD, attacker.path("public"), 0)


@attack(without=NO_PATH)
def rename_a_file(attacker: Attacker) -> None:
    """Put another file in the place of one."""
    attacker.call("renameat2", AT_FDCWD, attacker.path("public"), AT_FDCWD, attacker.path("moved"), 0)


@attack(without=NO_PATH)
def truncate_a_file(attacker: Attacker) -> None:
    """Empty a file by its path."""
    attacker.call("truncate", attacker.path("public"), 0)


@attack(without=NO_PATH)
def change_the_mode_of_a_file(attacker: Attacker) -> None:
    """Open a private file to everybody."""
    attacker.call("fchmodat", AT_FDCWD, attacker.path("private"), 0o666)


@attack(without=NO_PATH)
def look_whether_a_file_is_there(attacker: Attacker) -> None:
    """Learn which files the host has, by stat."""
    attacker.call("newfstatat", AT_FDCWD, attacker.path("public"), ctypes.create_string_buffer(256), 0)


@attack(without=NO_PATH)
def look_with_statx(attacker: Attacker) -> None:
    """Learn which files the host has, by statx."""
    attacker.call("statx", AT_FDCWD, attacker.path("public"), 0, 0x7FF, ctypes.create_string_buffer(256))


@attack(without=NO_PATH)
def list_a_folder(attacker: Attacker) -> None:
    """Learn which files the host has, by listing a folder."""
    folder = attacker.call("openat", AT_FDCWD, attacker.targets["canaries"].encode(), O_RDONLY | O_DIRECTORY)
    attacker.call("getdents64", folder, ctypes.create_string_buffer(4096), 4096)


@attack(without=NO_PATH)
def set_an_attribute(attacker: Attacker) -> None:
    """Leave an extended attribute on a file of the host."""
    attacker.call("setxattr", attacker.path("public"), b"user.mark", b"x", 1, 0)


@attack(without=NO_PATH, gains="a program of /usr in the same confinement, as every shell script runs one")
def run_a_program(attacker: Attacker) -> None:
    """Run a program of the host."""
    attacker.expect_end(0)
    attacker.call("execve", b"/bin/true", (ctypes.c_char_p * 2)(b"true", None), None)


@attack(
    without={"pty": stop("rlimits", "EFBIG"), "": stop("nothing", "succeeded")},
    gains="another program in the same confinement: no new privilege (no-new-privs, empty capability sets)",
)
def run_a_program_from_memory(attacker: Attacker) -> None:
    """Run a program that never was a file, from a memfd."""
    program = attacker.call("memfd_create", b"program", 0)
    attacker.call("write", program, PROGRAM, len(PROGRAM))
    attacker.expect_end(77)
    attacker.call("execveat", program, b"", (ctypes.c_char_p * 2)(b"program", None), None, AT_EMPTY_PATH)


@attack(
    without=stop("nothing", "succeeded"),
    gains="code of its own, which it can have by return-oriented programming as well",
)
def run_code_of_its_own(attacker: Attacker) -> None:
    """Map machine code of its own making."""
    attacker.call("mmap", 0, 4096, 7, 0x22, -1, 0)


@attack(without=stop("landlock", "EPERM"))
def mount_in_a_namespace_of_its_own(attacker: Attacker) -> None:
    """Become root in a new user namespace, and mount there."""
    attacker.call("unshare", 0x10000000 | 0x20000)
    attacker.call("mount", b"none", b"/", b"tmpfs", 0, None)


# --- the fds that it was given ----------------------------------------------------------------------------------


@attack(by=stop("open mode", "EBADF"), without=stop("open mode", "EBADF"), kinds=BOOTLOADER, peers=False)
def write_to_the_disk(attacker: Attacker) -> None:
    """Change the guest's disk through the fd that it was given."""
    attacker.call("write", attacker.fd("disk"), b"changed", 7)


@attack(without=stop("open mode", "EBADF"), kinds=BOOTLOADER, peers=False)
def write_to_the_disk_at_a_place(attacker: Attacker) -> None:
    """Change the guest's disk by pwrite."""
    attacker.call("pwrite64", attacker.fd("disk"), b"changed", 7, 0)


@attack(
    by=stop("open mode", "EINVAL", "EBADF"), without=stop("open mode", "EINVAL", "EBADF"), kinds=BOOTLOADER, peers=False
)
def cut_the_disk(attacker: Attacker) -> None:
    """Empty the guest's disk by ftruncate."""
    attacker.call("ftruncate", attacker.fd("disk"), 0)


@attack(by=stop("open mode", "EBADF"), without=stop("open mode", "EBADF"), kinds=BOOTLOADER, peers=False)
def copy_to_the_disk(attacker: Attacker) -> None:
    """Change the guest's disk with sendfile the wrong way round."""
    attacker.call("sendfile", attacker.fd("disk"), attacker.fd("disk"), None, 4096)


@attack(without=stop("open mode", "EBADF"), kinds=BOOTLOADER, peers=False)
def punch_a_hole_into_the_disk(attacker: Attacker) -> None:
    """Change the guest's disk by fallocate."""
    attacker.call("fallocate", attacker.fd("disk"), 3, 0, 4096)


@attack(without=NO_PATH, kinds=BOOTLOADER, peers=False)
def reopen_the_disk_for_writing(attacker: Attacker) -> None:
    """Turn the read-only fd into another through /proc/self/fd."""
    attacker.call("openat", AT_FDCWD, b"/proc/self/fd/%d" % attacker.fd("disk"), O_RDWR)


@attack(without=stop("mount-namespace", "ENOTDIR"), kinds=BOOTLOADER, peers=False)
def open_beside_the_disk(attacker: Attacker) -> None:
    """Take the disk's fd for a folder, and open a file beside it."""
    attacker.call("openat", attacker.fd("disk"), b"../public", O_RDONLY)


@attack(without=NOT_OWNER, kinds=BOOTLOADER, peers=False)
def change_the_mode_of_the_disk(attacker: Attacker) -> None:
    """Open the guest's disk to everybody by fchmod."""
    attacker.call("fchmod", attacker.fd("disk"), 0o666)


@attack(without=NOT_OWNER, kinds=BOOTLOADER, peers=False)
def change_the_owner_of_the_disk(attacker: Attacker) -> None:
    """Make the guest's disk its own by fchown."""
    attacker.call("fchown", attacker.fd("disk"), attacker.targets["uid"], -1)


@attack(without=stop("user", "EACCES", "EPERM"), kinds=BOOTLOADER, peers=False)
def make_the_disk_immutable(attacker: Attacker) -> None:
    """Keep everybody from changing the guest's disk, by the file system's flags."""
    attacker.call("ioctl", attacker.fd("disk"), 0x40086602, struct.pack("l", 0x10))


@attack(without=NOT_OWNER, kinds=BOOTLOADER, peers=False)
def lease_the_disk(attacker: Attacker) -> None:
    """Make everybody who opens the guest's disk wait, by a lease."""
    attacker.call("fcntl", attacker.fd("disk"), 1024, 1)


@attack(
    without=stop("nothing", "succeeded"),
    kinds=BOOTLOADER,
    peers=False,
    gains="a lock on the image that ends with the operation: others who lock it wait until then",
)
def lock_the_disk(attacker: Attacker) -> None:
    """Make everybody who locks the guest's disk wait, by flock."""
    attacker.call("flock", attacker.fd("disk"), 2 | 4)


@attack(by=SECCOMP, without=stop("capabilities", "EPERM"))
def watch_all_files(attacker: Attacker) -> None:
    """Be asked before anybody opens a file, by fanotify."""
    attacker.call("fanotify_init", 4, 0)


@attack(without=stop("mount-namespace", "ENOENT"))
def watch_a_file(attacker: Attacker) -> None:
    """Learn who uses a file, by O_PATH and a name's fd."""
    attacker.call("openat", AT_FDCWD, attacker.path("public"), O_PATH)
