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
from domward.supervisor.report import doctor_json, doctor_text

KEYS = {"config", "usable", "kernel", "machine", "layers", "features", "helpers", "problem"}
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
    for feature in found["features"]:
        assert set(feature) == {"feature", "present", "without"}


def test_text() -> None:
    ran = domward("doctor")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"Linux {os.uname().release} on {os.uname().machine}"
    assert lines[-1] == "This host can confine helpers."
    assert "seccomp              verified" in lines


def test_without_root_nothing_is_claimed(everybodys: Installation) -> None:
    ran = everybodys.domward("doctor", "--json")
    assert "takes root" in ran.error("confinement-unavailable")
    found = ran.json()
    assert set(found) == KEYS
    assert found["usable"] is False
    assert found["problem"]["code"] == "confinement-unavailable"
    assert {layer["state"] for layer in found["layers"]} == {"unknown"}
    assert found["helpers"] == []


def test_commands_without_root_are_refused(everybodys: Installation) -> None:
    for arguments in (("run", "/dev/null"), ("inspect", "/dev/null"), ("doctor",)):
        assert "Run domward as root" in everybodys.domward(*arguments).error("confinement-unavailable")


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
