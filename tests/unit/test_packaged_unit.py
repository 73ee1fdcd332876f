# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit of the service grants what the supervisor names as needed, and nothing more."""

from __future__ import annotations

import re
from pathlib import Path

from domward.supervisor.paths import AUDIT_LOG, CONTROL_SOCKET
from domward.supervisor.privileges import RUNNING_PROGRAMS

PACKAGING = Path(__file__).parents[2] / "packaging"
NEEDED = {f"CAP_{capability.name}" for capability in RUNNING_PROGRAMS}


def test_the_unit_keeps_the_capabilities_that_are_needed() -> None:
    unit = (PACKAGING / "systemd/domwardd.service").read_text()
    granted = [name for line in re.findall(r"(?m)^CapabilityBoundingSet=(.*)$", unit) for name in line.split()]
    assert sorted(granted) == sorted(NEEDED)


def test_the_apparmor_profile_keeps_the_same() -> None:
    profile = (PACKAGING / "apparmor/usr.sbin.domwardd").read_text()
    granted = re.findall(r"(?m)^  capability ([a-z_]+),$", profile)
    assert sorted(f"CAP_{name.upper()}" for name in granted) == sorted(NEEDED)


def test_the_unit_and_its_socket_agree_with_the_daemon() -> None:
    socket = (PACKAGING / "systemd/domwardd.socket").read_text()
    assert f"ListenSequentialPacket={CONTROL_SOCKET}\n" in socket
    assert f"\nReadWritePaths={AUDIT_LOG.parent}\n" in (PACKAGING / "systemd/domwardd.service").read_text()
