# SPDX-License-Identifier: GPL-3.0-or-later
"""The arena, one for all attacks of a run: it ends with them, and no other test meets what it keeps alive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.arena import Arena
from support.hostile_host import hostile_host


@pytest.fixture(scope="package")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """Where attacks are run."""
    with hostile_host() as host:
        found = Arena(tmp_path_factory.mktemp("arena"), host)
        try:
            found.open()
            yield found
        finally:
            found.close()
