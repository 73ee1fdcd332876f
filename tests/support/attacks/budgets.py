# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on an operation's time, and on the log and the terminal that it writes to."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from .table import attack, stop

if TYPE_CHECKING:  # it needs domward, which the peers' interpreters do not have
    from .helper_attacker import HelperAttacker

READER, COPIER = ("bootloader",), ("datacopier",)
UNSTOPPED = stop("nothing", "succeeded")
LATE = stop("budget", "timed-out")


@attack(by=LATE, without=None, peers=False)
def never_answer(attacker: HelperAttacker) -> None:
    """Have the operation wait for ever."""
    attacker.idle()


@attack(by=LATE, without=None, kinds=READER, peers=False)
def answer_half(attacker: HelperAttacker) -> None:
    """Begin an answer, and say nothing more."""
    attacker.say({"type": "progress", "step": "kernel"})
    attacker.idle()


@attack(by=stop("rlimits", "SIGKILL"), without=None, peers=False)
def compute_for_ever(attacker: HelperAttacker) -> None:
    """Keep a processor busy for ever."""
    while attacker is not None:
        pass


@attack(by=LATE, without=None, peers=False)
def ignore_term(attacker: HelperAttacker) -> None:
    """Outlive the polite signal, by changing the handler's code in its own memory."""
    handler = signal.getsignal(signal.SIGTERM)
    handler.__code__ = (lambda _number, _frame: None).__code__  # type: ignore[union-attr]  # it is a function
    attacker.idle()


@attack(by=LATE, without=None, kinds=READER, peers=False)
def write_to_the_terminal_for_ever(attacker: HelperAttacker) -> None:
    """Fill the log and the person's terminal."""
    while True:
        attacker.again("write", attacker.fd("terminal"), b"flood " * 1000, 6000)


@attack(by=stop("rlimits", "EFBIG"), without=None, kinds=COPIER, peers=False)
def fill_the_log(attacker: HelperAttacker) -> None:
    """Fill the host's disk through the log."""
    data = bytes(1 << 20)
    attacker.repeat(64, "write", attacker.fd("log"), data, len(data))


@attack(by=stop("terminal filter", "helper-died"), without=None, kinds=READER, peers=False)
def drive_the_terminal(attacker: HelperAttacker) -> None:
    """Have the person's terminal answer, rename itself, and fill the clipboard, by escape sequences."""
    for sequence in (b"\x1b[6n", b"\x1b]0;x\x07", b"\x1b]52;c;eA==\x07", b"\x1bP+q\x1b\\", b"\x9b6n", b"\x1b[?1049h"):
        attacker.call("write", attacker.fd("terminal"), sequence, len(sequence))
    attacker.call("write", attacker.fd("terminal"), b"shown", 5)


@attack(
    by=UNSTOPPED,
    without=None,
    kinds=COPIER,
    gains="any byte on the terminal of whoever asked for a menu, from a relay that was itself taken over",
    peers=False,
)
def drive_the_terminal_directly(attacker: HelperAttacker) -> None:
    """Drive the person's terminal from the relay itself, which stands behind its own filter."""
    attacker.call("write", attacker.fd("console"), b"\x1b]0;x\x07", 6)


@attack(
    by=UNSTOPPED,
    without=None,
    kinds=COPIER,
    gains="the choice of an entry of that guest's own menu, from a relay that was itself taken over",
    peers=False,
)
def press_keys(attacker: HelperAttacker) -> None:
    """Choose from the menu in the person's place."""
    attacker.call("write", attacker.fd("master"), b"\r", 1)
