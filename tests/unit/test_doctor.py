# SPDX-License-Identifier: GPL-3.0-or-later
"""What the doctor concludes from a kernel's version and from the layers seen."""

from __future__ import annotations

import os

import pytest

from domward.protocol.errors import OperationFailed
from domward.protocol.layers import Layer
from domward.supervisor import doctor
from domward.supervisor.config import Config
from domward.supervisor.doctor import Diagnosis, LayerReport


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-30-amd64", (6, 1)),
        ("6.18-rc1", (6, 18)),
        ("5.10", (5, 10)),
        ("6.1+", (6, 1)),
        ("6.12.3+bpo-amd64", (6, 12)),
        ("somebody's own", (0, 0)),
    ],
)
def test_versions_of_kernels(release: str, version: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    system = os.uname()
    named = os.uname_result((system.sysname, system.nodename, release, system.version, system.machine))
    monkeypatch.setattr(os, "uname", lambda: named)
    assert doctor._release() == version


@pytest.mark.parametrize(
    ("state", "needed", "usable"),
    [("verified", True, True), ("tried", True, True), ("missing", False, True), ("missing", True, False)],
)
def test_a_host_is_usable_where_every_needed_layer_is_there(state: str, needed: bool, usable: bool) -> None:
    layer = LayerReport(Layer.SECCOMP, state, needed, "something")
    diagnosis = Diagnosis("6.1", "x86_64", (layer,), (), (), (), None)
    assert diagnosis.usable == usable
    assert usable or str(diagnosis.error) == "This host lacks seccomp."


def test_what_kept_helpers_from_starting_is_the_error() -> None:
    problem = OperationFailed("It did not work.")
    layer = LayerReport(Layer.SECCOMP, "missing", True, "something")
    assert Diagnosis("6.1", "x86_64", (layer,), (), (), (), problem).error is problem


def test_every_layer_is_unknown_where_no_helper_could_be_looked_at() -> None:
    config = Config()
    assert {doctor._layer(layer, [], config).state for layer in Layer} == {"unknown"}
