# SPDX-License-Identifier: GPL-3.0-or-later
"""The command on kernels that lack something: a refusal by name, the exception that was named, or a known fall-back.

Nothing here is told to domward beforehand: the kernel around it answers as one does that lacks the feature. Each time
the audit log tells the same as the command.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.commands import Ran, domward
from support.older_kernel import NAMESPACES, older_kernel

from domward.protocol.layers import LOST_WITHOUT, NAMESPACE_FILES, Layer

ALL = {layer.value for layer in Layer}
LAYER_OF = {name: layer for layer, name in NAMESPACE_FILES.items()}
# What is missing, and the layer that is lost with it.
LOST = [("landlock", Layer.LANDLOCK), ("seccomp", Layer.SECCOMP)] + [
    (f"{name}-namespaces", LAYER_OF[name]) for name in NAMESPACES if name != "mnt"
]


def run(disk: Path, feature: str, log: Path, *words: str) -> tuple[Ran, list[dict[str, Any]]]:
    """Runs without `feature`, and returns what the audit log tells besides."""
    ran = domward("run", disk, "--json", "--audit-log", log, *words, before=older_kernel(feature))
    return ran, [json.loads(line) for line in log.read_bytes().splitlines()]


@pytest.mark.parametrize(("feature", "layer"), LOST)
def test_what_is_missing_is_refused_by_name_and_the_refusal_recorded(
    feature: str, layer: Layer, disk: Path, tmp_path: Path
) -> None:
    ran, records = run(disk, feature, tmp_path / "audit.log")
    sentence = ran.error("confinement-unavailable")
    assert f"lacks {layer.value}: {LOST_WITHOUT[layer]}" in sentence
    assert f"name {layer.value} as optional" in sentence
    (refusal,) = (record for record in records if record["event"] == "refusal")
    assert refusal["outcome"] == "refused"
    assert refusal["detail"]["code"] == "confinement-unavailable"
    assert layer.value in refusal["detail"]["sentence"]
    assert not [record for record in records if record["event"] == "helper-started"]


@pytest.mark.parametrize(("feature", "layer"), LOST)
def test_what_is_missing_and_named_as_optional_is_left_out_and_recorded(
    feature: str, layer: Layer, disk: Path, tmp_path: Path
) -> None:
    ran, records = run(disk, feature, tmp_path / "audit.log", "--optional-layer", layer.value)
    for helper in ran.json()["helpers"]:
        assert set(helper["layers"]) == ALL - {layer.value}
    confined = [record["detail"] for record in records if record["event"] == "helper-started"]
    assert confined
    for detail in confined:
        assert layer.value not in detail["layers"]
    opened = next(record["detail"] for record in records if record["event"] == "supervisor-opened")
    assert opened["config"]["optional_layers"] == [layer.value]


def test_a_layer_that_there_is_not_is_an_error_of_usage_that_names_those_there_are(disk: Path) -> None:
    sentence = domward("run", disk, "--no-audit", "--optional-layer", "walls").error("usage")
    assert "walls is no layer" in sentence
    assert all(layer.value in sentence for layer in Layer)


def test_a_layer_that_is_there_is_put_on_also_where_it_is_optional(disk: Path) -> None:
    words = [word for layer in Layer for word in ("--optional-layer", layer.value)]
    for helper in domward("run", disk, "--no-audit", "--json", *words).json()["helpers"]:
        assert set(helper["layers"]) == ALL


@pytest.mark.parametrize("feature", ["mnt-namespaces", "close-range"])
def test_what_every_layer_needs_is_refused_whatever_is_optional(feature: str, disk: Path, tmp_path: Path) -> None:
    words = [word for layer in Layer for word in ("--optional-layer", layer.value)]
    ran, records = run(disk, feature, tmp_path / "audit.log", *words)
    step = {"mnt-namespaces": "mount-namespace", "close-range": "launcher-start"}[feature]
    assert f"failed at step '{step}'" in ran.error("confinement-failed")
    (refusal,) = (record for record in records if record["event"] == "refusal")
    assert (refusal["outcome"], refusal["detail"]["code"]) == ("refused", "confinement-failed")


@pytest.mark.parametrize("feature", ["so-passpidfd", "pidfd-get-info"])
def test_what_has_a_fall_back_costs_no_layer_and_the_doctor_says_what_it_costs(
    feature: str, disk: Path, tmp_path: Path
) -> None:
    ran, records = run(disk, feature, tmp_path / "audit.log")
    for helper in ran.json()["helpers"]:
        assert set(helper["layers"]) == ALL
    assert records[-1]["outcome"] == "ok"
    name = {"so-passpidfd": "so-passpidfd", "pidfd-get-info": "pidfd-exit-info"}[feature]
    doctor = domward("doctor", "--json", before=older_kernel(feature)).json()
    (absent,) = (found for found in doctor["features"] if found["feature"] == name)
    assert absent["present"] is False
    assert doctor["usable"] is True


@pytest.mark.parametrize(("feature", "layer"), [*LOST[:2], ("net-namespaces", Layer.NETWORK)])
def test_the_doctor_names_what_is_missing_and_what_that_costs(feature: str, layer: Layer) -> None:
    ran = domward("doctor", "--json", before=older_kernel(feature))
    found = ran.json()
    assert ran.code == 4
    missing = [one for one in found["layers"] if one["state"] == "missing"]
    assert [(one["layer"], one["lost_without"]) for one in missing] == [(layer.value, LOST_WITHOUT[layer])]
    assert found["usable"] is False
