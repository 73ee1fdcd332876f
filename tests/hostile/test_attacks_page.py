# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/attacks.md says what a run shows, in domward's helpers and in the peers.

DOMWARD_WRITE_ATTACKS=1 writes the page from the run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench.peers import unpacked_pygrub
from support.arena import Arena
from support.attacks_page import page, surroundings
from support.debian_kernel import cache_folder
from support.peer_sandboxes import Peers

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"


def test_the_page_of_attacks_is_what_the_run_shows(arena: Arena, tmp_path: Path) -> None:
    write = os.environ.get("DOMWARD_WRITE_ATTACKS") == "1"
    if not write and surroundings() not in PAGE.read_text():
        pytest.skip(f"this machine has no page of its own: {surroundings()}")
    for folder in (tmp_path, *tmp_path.parents[:2]):  # what a peer runs as another user, it must be able to reach
        folder.chmod(0o755)
    peers = Peers(tmp_path, arena.host, unpacked_pygrub(cache_folder()))
    try:
        seen = {name: peers.outcomes(name) for name in peers.names}
    finally:
        peers.close()
    made = page(arena, seen)
    if write:
        PAGE.write_text(made)
    different = [line for line in made.splitlines() if line not in PAGE.read_text().splitlines()]
    assert not different, "docs/attacks.md does not say:\n" + "\n".join(different)
    assert PAGE.read_text() == made
