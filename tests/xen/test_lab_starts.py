# SPDX-License-Identifier: GPL-3.0-or-later
"""What dom0 is given, once it is on its way; `conftest.py` says why this comes before all other tests."""

from __future__ import annotations

import pytest
from support.xen_lab import Booting

from domward import __version__


@pytest.mark.xen
def test_dom0_gets_the_wheel_of_this_tree_and_all_that_it_needs(booting: Booting) -> None:
    wheels = {path.name.split("-")[0]: path.name.split("-")[1] for path in (booting.share / "wheels").iterdir()}
    assert wheels["domward"] == __version__
    assert wheels.keys() >= {"msgpack", "psutil", "python_prctl", "setproctitle"}
    assert (booting.share / "run").stat().st_mode & 0o111
