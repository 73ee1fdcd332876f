# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts attacks in place of the helpers' work: runs in the launcher of a test, and then in the helpers forked from it.

A helper gets its confinement, its channel and its fds for real; then, if the notebook says that its kind is the one
that a guest has taken over, it performs the ordered attack instead of its work. The bootloader helper otherwise
answers when its terminal is hung up, so that an attack of the datacopier has its time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from domward.protocol.channel import Channel
from domward.protocol.messages import HelperKind, Spawn

from .attacker import Notebook, perform
from .everything import ATTACKS
from .helper_attacker import HelperAttacker, send

Work = Callable[[Channel], int]


def plant(run: dict[HelperKind, Work], path: str) -> None:
    """Puts attacks in place of the work in `run`, the launcher's table, as the notebook at `path` orders."""
    notebook = Notebook(path)
    for kind, real in tuple(run.items()):
        if kind is not HelperKind.PROGRAM:  # there, the attacker is the program itself
            run[kind] = _work(kind, real, notebook)


def plant_before_the_work(launcher: ModuleType, path: str) -> None:
    """Has helpers of the ordered kind send the ordered datagram in place of their first message, or right after it."""
    notebook = Notebook(path)
    confine, work, channel_of = launcher.confine, launcher._work, launcher._channel_of
    channels: list[Channel] = []

    def remembered(number: int, name: str, max_fds: int) -> Channel:
        channels.append(channel_of(number, name, max_fds))
        return channels[-1]

    def confined(request: Spawn, *rest: object) -> object:
        layers = confine(request, *rest)
        _send_if(notebook.wanted(), request.kind, "starting", channels[-1])
        return layers

    def working(kind: HelperKind, channel: Channel) -> int:
        _send_if(notebook.wanted(), kind, "idle", channel)
        code: int = work(kind, channel)
        return code

    launcher.confine, launcher._work, launcher._channel_of = confined, working, remembered


def _send_if(order: dict[str, Any], kind: HelperKind, when: str, channel: Channel) -> None:
    """Sends the ordered datagram, with an fd, if it is for a helper of `kind` at this time."""
    if order["kind"] == kind.value and order.get("when") == when:
        send(channel, bytes.fromhex(order["datagram"]), [0])


def _out_of_state(order: dict[str, Any], kind: HelperKind, notebook: Notebook, channel: Channel) -> int:
    attacker = HelperAttacker(notebook, {}, channel)
    if order["when"] == "answered":
        attacker.answer()
    _send_if(order | {"when": "now"}, kind, "now", channel)
    return 0


def _work(kind: HelperKind, real: Work, notebook: Notebook) -> Work:
    def work(channel: Channel) -> int:
        order = notebook.wanted()
        if order["kind"] == kind.value and "when" in order:
            return _out_of_state(order, kind, notebook, channel)
        if order["kind"] == kind.value:
            attacker = HelperAttacker(notebook, order["targets"], channel)
            perform(ATTACKS[order["attack"]].work, attacker, notebook)
            return 0
        if kind is HelperKind.BOOTLOADER:
            HelperAttacker(notebook, order.get("targets", {}), channel).be_patient()
            return 0
        return real(channel)

    return work
