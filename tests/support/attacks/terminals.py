# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks through the terminals that a helper holds, and on devices that it does not.

"console" is the terminal of the person who asked for the menu; it controls another session. The datacopier holds it.
"terminal" is the bootloader's own pty.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .attacker import Attacker
from .syscalls import (
    AT_FDCWD,
    F_SETFL,
    F_SETOWN,
    PTY_FLAGS,
    TCGETS,
    TCSETS,
    TIOCCONS,
    TIOCEXCL,
    TIOCLINUX,
    TIOCSCTTY,
    TIOCSETD,
    TIOCSTI,
    TIOCSWINSZ,
    TIOCVHANGUP,
)
from .table import add, attack, stop

COPIER = ("datacopier",)
READER = ("bootloader",)
NO_CAPABILITY = stop("capabilities", "EPERM")
SUCCEEDS = stop("nothing", "succeeded")
NOT_ITS_SESSION = stop("own session", "EPERM")
HARMED = "the person's terminal, as any program could that it is lent to, until they reset it"


@attack(without=NOT_ITS_SESSION, kinds=COPIER, peers=False)
def type_into_the_console(attacker: Attacker) -> None:
    """Have the person's shell run a command, by TIOCSTI."""
    attacker.call("ioctl", attacker.fd("keys"), TIOCSTI, b"x")


@attack(without=NOT_ITS_SESSION, kinds=COPIER, peers=False)
def steal_the_console(attacker: Attacker) -> None:
    """Make the person's terminal its own controlling terminal."""
    attacker.call("ioctl", attacker.fd("keys"), TIOCSCTTY, 0)


@attack(without=NOT_ITS_SESSION, kinds=COPIER, peers=False)
def steal_the_console_by_force(attacker: Attacker) -> None:
    """The same with the argument that takes it from another session."""
    attacker.call("ioctl", attacker.fd("keys"), TIOCSCTTY, 1)


@attack(without=SUCCEEDS, kinds=COPIER, peers=False, gains=HARMED)
def change_the_console(attacker: Attacker) -> None:
    """Switch the echo of the person's terminal off."""
    settings = attacker.buffer(64)
    attacker.call("ioctl", attacker.fd("keys"), TCGETS, settings)
    (local,) = struct.unpack_from("I", settings.raw, 12)
    changed = settings.raw[:12] + struct.pack("I", local & ~8) + settings.raw[16:]
    attacker.call("ioctl", attacker.fd("keys"), TCSETS, changed)


@attack(without=SUCCEEDS, kinds=COPIER, peers=False, gains=HARMED)
def resize_the_console(attacker: Attacker) -> None:
    """Tell the person's programs that their terminal has one row."""
    attacker.call("ioctl", attacker.fd("console"), TIOCSWINSZ, struct.pack("4H", 1, 1, 0, 0))


@attack(without=SUCCEEDS, kinds=COPIER, peers=False, gains=HARMED)
def lock_the_console(attacker: Attacker) -> None:
    """Keep the person from opening their terminal again."""
    attacker.call("ioctl", attacker.fd("console"), TIOCEXCL, 0)


@attack(without=SUCCEEDS, kinds=COPIER, peers=False, gains="one of the line disciplines of the kernel on that terminal")
def load_a_line_discipline(attacker: Attacker) -> None:
    """Put another line discipline, one that had bugs, on the person's terminal."""
    attacker.call("ioctl", attacker.fd("console"), TIOCSETD, struct.pack("i", 0))


@attack(without=SUCCEEDS, kinds=COPIER, peers=False, gains=HARMED)
def make_the_console_not_wait(attacker: Attacker) -> None:
    """Set O_NONBLOCK on the terminal that the person's shell shares."""
    attacker.call("fcntl", attacker.fd("keys"), F_SETFL, 0o4002)


@attack(without=stop("pid-namespace", "ESRCH"), kinds=COPIER, peers=False)
def signal_by_the_console(attacker: Attacker) -> None:
    """Have the kernel send signals to another process whenever a key comes."""
    attacker.call("fcntl", attacker.fd("keys"), F_SETOWN, attacker.targets["victim"])


@attack(without=stop("capabilities", "EPERM"), kinds=COPIER, peers=False)
def take_the_console_messages(attacker: Attacker) -> None:
    """Have the kernel's messages come to a terminal of its own."""
    attacker.call("ioctl", attacker.fd("console"), TIOCCONS, 0)


@attack(without=NO_CAPABILITY, kinds=COPIER, peers=False)
def hang_up_the_console(attacker: Attacker) -> None:
    """Hang up the person's terminal."""
    attacker.call("ioctl", attacker.fd("console"), TIOCVHANGUP, 0)


@attack(without=stop("kernel", "EINVAL", "ENOTTY", "EPERM"), kinds=COPIER, peers=False)
def paste_into_the_console(attacker: Attacker) -> None:
    """Paste a selection into a virtual console, by TIOCLINUX."""
    attacker.call("ioctl", attacker.fd("console"), TIOCLINUX, b"\x03")


@attack(without=NO_CAPABILITY, kinds=READER, peers=False)
def type_into_its_own_terminal(attacker: Attacker) -> None:
    """Type into the pty, for the supervisor's side to read."""
    attacker.call("ioctl", attacker.fd("terminal"), TIOCSTI, b"x")


@attack(without=SUCCEEDS, kinds=READER, peers=False, gains="its own pty, which goes with the operation")
def change_its_own_terminal(attacker: Attacker) -> None:
    """Have its pty answer for it, with echo and line editing."""
    settings = attacker.buffer(64)
    attacker.call("ioctl", attacker.fd("terminal"), TCGETS, settings)
    attacker.call("ioctl", attacker.fd("terminal"), TCSETS, settings.raw)


@attack(
    by={"pty": stop("rlimits", "EMFILE")},
    without={"pty": stop("rlimits", "EMFILE"), "": stop("mount-namespace", "ENOENT")},
)
def use_up_all_ptys(attacker: Attacker) -> None:
    """Open ptys until the host has none left."""
    for _ in range(64):
        attacker.call("openat", AT_FDCWD, b"/ptmx" if attacker.targets["own-root"] else b"/dev/ptmx", PTY_FLAGS)


@attack(without=SUCCEEDS, kinds=("pty",), peers=False, gains="its own pty, which the supervisor checks")
def type_into_a_pty_that_it_opened(attacker: Attacker) -> None:
    """Leave keys in a pty before it is handed over, by TIOCSTI."""
    master = attacker.call("openat", AT_FDCWD, b"/ptmx", PTY_FLAGS)
    attacker.call("ioctl", master, 0x40045431, struct.pack("i", 0))
    slave = attacker.call("ioctl", master, 0x5441, PTY_FLAGS)
    attacker.call("ioctl", slave, TIOCSCTTY, 0)
    attacker.call("ioctl", slave, TIOCSTI, b"x")


# --- devices ----------------------------------------------------------------------------------------------------

DEVICES = ("mem", "kvm", "fuse", "net/tun", "kmsg", "loop-control", "tty1")


def _open_device(path: str) -> Callable[[Attacker], None]:
    def work(attacker: Attacker) -> None:
        attacker.call("openat", AT_FDCWD, f"/dev/{path}".encode(), 2)

    return work


for _path in DEVICES:
    _wish = f"Use the device /dev/{_path}."
    add(_open_device(_path), f"open-device-{_path.replace('/', '-')}", _wish, stop("mount-namespace", "ENOENT"))


@attack(without={"pty": stop("user", "EACCES"), "": stop("mount-namespace", "EROFS")})
def make_a_device(attacker: Attacker) -> None:
    """Make a device node of the host's memory for itself."""
    attacker.call("mknodat", AT_FDCWD, b"/tmp-mem", 0o20666, (1 << 8) | 1)
