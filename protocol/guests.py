# SPDX-License-Identifier: GPL-3.0-or-later
"""What both sides of the control socket call the kinds of guest, how they end, and what is done then: xl.cfg(5)."""

from __future__ import annotations

import enum


class GuestType(enum.Enum):
    """`type`: the kinds of guest that are given a kernel."""

    PV = "pv"
    PVH = "pvh"


class Action(enum.Enum):
    """What on_poweroff, on_reboot and on_crash may ask for here."""

    DESTROY = "destroy"
    RESTART = "restart"
    PRESERVE = "preserve"


class Death(enum.Enum):
    """How a guest came to its end."""

    POWEROFF = "poweroff"  # it switched itself off
    REBOOT = "reboot"  # it wants to be started anew: its bootloader runs again
    CRASH = "crash"  # its kernel said so, or the hypervisor had to stop it
    DESTROYED = "destroyed"  # somebody took it away: its owner, or an administrator behind domward's back
