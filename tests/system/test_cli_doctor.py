# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward doctor` as root, without root, and where a layer is missing."""

from __future__ import annotations

import asyncio
import os

from support.commands import domward
from support.installation import Installation

from domward.protocol.layers import LOST_WITHOUT, Layer
from domward.supervisor.config import Config
from domward.supervisor.doctor import diagnose
from domward.supervisor.privileges import CONFINING
from domward.supervisor.report import doctor_json, doctor_text

KEYS = {"config", "usable", "kernel", "machine", "layers", "processes", "features", "helpers", "problem"}
FEATURES = ["landlock-abi-6", "so-passpidfd", "pidfd-exit-info", "memfd-noexec-seal", "mount-setattr", "close-range",
    "user-namespaces", "cgroup-v2-delegated", "cgroup-limits", "cgroup-kill"]  # fmt: skip
TRIED = {"securebits", "parent-death-signal", "landlock"}


def test_every_layer_is_there() -> None:
    ran = domward("doctor", "--json")
    found = ran.json()
    assert (ran.code, ran.err) == (0, "")
    assert set(found) == KEYS
    assert found["usable"] is True
    assert found["problem"] is None
    assert (found["kernel"], found["machine"]) == (os.uname().release, os.uname().machine)
    assert found["helpers"] == ["pty", "datacopier", "bootloader", "program"]
    assert [layer["layer"] for layer in found["layers"]] == [layer.value for layer in Layer]
    for layer in found["layers"]:
        assert set(layer) == {"layer", "state", "needed", "lost_without"}
        assert layer["needed"] is True
        assert layer["lost_without"] == LOST_WITHOUT[Layer(layer["layer"])]
        if layer["layer"] != "landlock":
            assert layer["state"] == ("tried" if layer["layer"] in TRIED else "verified")
    assert [feature["feature"] for feature in found["features"]] == FEATURES
    for feature in found["features"]:
        assert set(feature) == {"feature", "present", "without"}
    supervisor, launcher = found["processes"]
    for process in (supervisor, launcher):
        assert set(process) == {"process", "state", "capabilities", "no_new_privs", "calls_refused"}
        assert (process["state"], process["no_new_privs"], process["calls_refused"]) == ("cut", True, True)
    assert launcher["capabilities"] == ["cap_setgid", "cap_setuid", "cap_setpcap", "cap_sys_admin"]
    assert set(supervisor["capabilities"]) == {f"cap_{kept.name.lower()}" for kept in CONFINING}


def test_text() -> None:
    ran = domward("doctor")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"Linux {os.uname().release} on {os.uname().machine}"
    assert lines[-1] == "This host can confine helpers."
    assert "seccomp              verified" in lines


def test_a_program_with_a_supervisor_in_it_is_whole_and_its_launcher_is_not() -> None:
    supervisor, launcher = asyncio.run(diagnose(Config())).processes
    assert (supervisor.name, supervisor.state) == ("supervisor", "whole")
    assert "cap_sys_boot" in supervisor.capabilities
    assert (launcher.name, launcher.state) == ("launcher", "cut")


def test_help_needs_no_root(everybodys: Installation) -> None:
    assert everybodys.domward("--help").code == 0


def test_a_layer_that_this_host_lacks() -> None:
    diagnosis = asyncio.run(diagnose(Config(absent_layers=frozenset({Layer.LANDLOCK}))))
    assert not diagnosis.usable
    states = {layer["layer"]: layer["state"] for layer in doctor_json(diagnosis)["layers"]}
    assert [name for name, state in states.items() if state == "missing"] == ["landlock"]
    lines = [*doctor_text(diagnosis)]
    assert f"landlock             missing  without it, {LOST_WITHOUT[Layer.LANDLOCK]}" in lines
    assert lines[-1] == "This host cannot confine helpers as configured."


def test_a_missing_layer_that_is_optional() -> None:
    landlock = frozenset({Layer.LANDLOCK})
    assert asyncio.run(diagnose(Config(absent_layers=landlock, optional_layers=landlock))).usable
