# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of subordinate ids, and what a user namespace's maps leave of the layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from domward.protocol.layers import Layer
from domward.supervisor import paths
from domward.supervisor.user_namespace import missing_layers, subordinate_ids

NAMES = {"1000", "anna"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("anna:100000:65536\n", (100000, 65536)),
        ("1000:100000:65536", (100000, 65536)),
        ("bert:1:65536\nanna:200000:1000\n", (200000, 1000)),
        ("anna:1:300\nanna:500000:4000\nanna:9:256\n", (500000, 4000)),
        ("", None),
        ("bert:100000:65536\n", None),
        ("anna:100000:255\n", None),
        ("anna:100000\nanna:1:2:3\nanna::\n#anna:1:999\n", None),
        ("anna:-5:65536\nanna:1:+999\nanna:0x10:999\nanna:1 :999\nanna:1:\u0663\u0663\u0663\n", None),
        ("anna:1:99999999999\n", None),
    ],
)
def test_the_largest_range_of_the_user_counts(text: str, found: tuple[int, int] | None) -> None:
    assert subordinate_ids(text, NAMES) == found


WHOLE = "0 0 4294967295\n"
OWN = "0 1000 1\n"
RANGE = OWN + "1 100000 65536\n"


@pytest.mark.parametrize(
    ("uids", "gids", "setgroups", "missing"),
    [
        (WHOLE, WHOLE, "allow", set()),
        (RANGE, RANGE, "allow", set()),
        (OWN, OWN, "deny", {Layer.USER, Layer.GROUPS}),
        (RANGE, OWN, "allow", {Layer.USER}),
        (OWN, RANGE, "allow", {Layer.USER}),
        ("1 100000 49151\n", RANGE, "allow", {Layer.USER}),  # one too few
        ("1 100000 49152\n", RANGE, "allow", set()),
        ("32770 100000 65536\n", RANGE, "allow", {Layer.USER}),  # begins one too late
        ("", "", "allow", {Layer.USER}),
    ],
)
def test_layers_that_a_namespace_cannot_give(
    uids: str, gids: str, setgroups: str, missing: set[Layer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("UID_MAP", uids), ("GID_MAP", gids), ("SETGROUPS", f"{setgroups}\n")):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(paths, name, tmp_path / name)
    assert missing_layers(32769, 16384) == missing
