# SPDX-License-Identifier: GPL-3.0-or-later
"""What an attack in a helper runs on: beside system calls, the channel and the fds that came with the order."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Sequence
from typing import Any

from domward.protocol import wire
from domward.protocol.channel import Channel
from domward.protocol.messages import Copy, InspectBoot, OpenPtys, ReadBoot

from .attacker import Attacker, Notebook

_ORDERS = (OpenPtys, Copy, ReadBoot, InspectBoot)
_NAMES = {
    ReadBoot: ("disk", "kernel", "ramdisk", "terminal"),
    InspectBoot: ("disk",),
    Copy: ("master", "console", "keys", "master again", "log"),
    OpenPtys: (),
}


def send(channel: Channel, data: bytes, fds: Sequence[int]) -> None:
    """Sends any bytes on `channel`, with any fds."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    channel._socket.sendmsg([data], rights)


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
        send(self.channel, data, fds)

    def boot_read(self, **changes: object) -> dict[str, Any]:
        """The fields of a bootloader's answer for a kernel of four bytes, but for `changes`."""
        return {
            "type": "boot-read", "title": b"t", "args": b"a", "kernel_bytes": 4, "ramdisk_bytes": 0, "source": "s"
        } | changes  # fmt: skip

    def copied(self, **changes: object) -> dict[str, Any]:
        """The fields of a relay's answer, but for `changes`."""
        fields = {"outcome": "hangup", "side": "bootloader", "errno": 0, "to_console": 0, "to_bootloader": 0}
        return {"type": "copied", **fields, "logged": 0, "truncated": False} | changes

    def fill(self) -> None:
        """Writes the four bytes of a kernel."""
        self.call("write", self.fd("kernel"), b"1234", 4)

    def answer(self, **changes: object) -> None:
        """A bootloader's whole answer: a kernel, and what it says of it, but for `changes`."""
        self.fill()
        self.say(self.boot_read(**changes))

    def idle(self) -> None:
        """Does nothing, for ever."""
        waiting = select.poll()
        while True:
            with contextlib.suppress(InterruptedError):
                waiting.poll()

    def be_patient(self) -> None:
        """No attack: delivers a kernel when its terminal is hung up, as a menu at which nobody presses a key."""
        hang_up = select.poll()
        if "terminal" in self.fds:
            hang_up.register(self.fds["terminal"], 0)
        hang_up.poll()
        if "kernel" in self.fds:
            os.write(self.fds["kernel"], b"1234")
            self.say(self.boot_read())
