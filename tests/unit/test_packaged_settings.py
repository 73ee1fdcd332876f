# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings file that the packages install: every key, as a comment, with the default that holds without it."""

from __future__ import annotations

import re
from pathlib import Path

from domward.supervisor.settings import KEYS, load

PACKAGED = Path(__file__).parents[2] / "packaging/domward.toml"


def test_it_changes_nothing() -> None:
    assert load(PACKAGED, None).values == load(PACKAGED.with_name("none"), None).values


def test_each_comment_that_is_a_key_gives_its_default(tmp_path: Path) -> None:
    uncommented = tmp_path / "domward.toml"
    uncommented.write_text(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", PACKAGED.read_text()))
    settings = load(uncommented, None)
    assert settings.values == load(PACKAGED, None).values
    given = re.findall(r"(?m)^([a-z_]+) = ", uncommented.read_text())
    assert given == [key.name for key in KEYS]
