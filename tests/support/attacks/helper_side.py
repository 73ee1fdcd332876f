# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts attacks in place of the helpers' work: runs in the launcher of a test, and then in the helpers forked from it.

A helper gets its confinement, its channel and its fds for real; then, if the notebook says that its kind is the one
that a guest has taken over, it performs the ordered attack instead of its work. The bootloader helper otherwise does
nothing until its terminal is hung up, so that an attack of the datacopier has its time.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from domward.protocol import wire
from domward.protocol.channel import Channel
from domward.protocol.messages import Copy, HelperKind, InspectBoot, OpenPtys, ReadBoot

from .attacker import Attacker, Notebook, perform
from .everything import ATTACKS

_ORDERS = (OpenPtys, Copy, ReadBoot, InspectBoot)
_NAMES = {
    ReadBoot: ("disk", "kernel", "ramdisk", "terminal"),
    InspectBoot: ("disk",),
    Copy: ("master", "console", "keys", "master again", "log"),
    OpenPtys: (),
}
Work = Callable[[Channel], int]


class HelperAttacker(Attacker):
    """An attacker in a helper: he has its channel, and its order with all that came with it."""

    def __init__(self, notebook: Notebook, targets: dict[str, Any], channel: Channel) -> None:
        self.channel = channel
        received = channel.receive(_ORDERS)
        assert received is not None
        self.order = received.message
        names = _NAMES[type(self.order)]
        fds = {name: fd.fileno() for name, fd in zip(names, received.fds, strict=False)}
        self._kept = received
        super().__init__(notebook, targets, {**fds, "channel": channel.fileno()})

    def say(self, fields: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Sends a message of any fields, with any fds."""
        self.raw(wire.encode(fields), fds)

    def raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Sends any bytes, with any fds."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        self.channel._socket.sendmsg([data], rights)

    def wait(self) -> None:
        """Does nothing until its terminal is hung up, as a menu at which nobody presses a key."""
        waiting = select.poll()
        if "terminal" in self.fds:
            waiting.register(self.fds["terminal"], 0)
        waiting.poll()


def plant(run: dict[HelperKind, Work], path: str) -> None:
    """Puts attacks in place of the work in `run`, the launcher's table, as the notebook at `path` orders."""
    notebook = Notebook(path)
    for kind, real in tuple(run.items()):
        run[kind] = _work(kind, real, notebook)


def _work(kind: HelperKind, real: Work, notebook: Notebook) -> Work:
    def work(channel: Channel) -> int:
        order = notebook.wanted()
        if order["kind"] == kind.value:
            attacker = HelperAttacker(notebook, order["targets"], channel)
            perform(ATTACKS[order["attack"]].work, attacker, notebook)
            return 0
        if kind is HelperKind.BOOTLOADER:
            HelperAttacker(notebook, order["targets"], channel).wait()
            return 0
        return real(channel)

    return work
