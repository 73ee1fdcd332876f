# SPDX-License-Identifier: GPL-3.0-or-later
"""Every attack of the table, in every helper that it makes sense in: stopped by what the table says, with no effect.

Without seccomp the same attack must be stopped by the next layer, or the table says what it gains.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from support.arena import Arena
from support.attacks.everything import ATTACKS, Attack
from support.attacks.table import CHECKS, Stop

from domward.protocol.layers import Layer


def problems(attack: Attack, stops: Mapping[str, Stop], arena: Arena, *, seccomp: bool) -> list[str]:
    """Where the attack did not end as expected, or the host shows an effect."""
    found = []
    for kind, expected in stops.items():
        outcome = arena.outcome(attack.name, kind, seccomp=seccomp)
        where = f"{kind}{'' if seccomp else ', without seccomp'}"
        if not outcome.is_one_of(expected.shows):
            found.append(f"{where}: {outcome.describe()}, and not one of {sorted(expected.shows)}")
        if expected.by != "nothing":
            found += [f"{where}: {line}" for line in outcome.differences]
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_stopped_by_what_the_table_says_and_has_no_effect(name: str, arena: Arena) -> None:
    attack = ATTACKS[name]
    found = problems(attack, attack.by, arena, seccomp=True) + problems(attack, attack.without, arena, seccomp=False)
    assert not found, "\n".join(found)


def test_the_table_names_what_is_known_and_says_what_a_success_would_gain() -> None:
    known = {layer.value for layer in Layer} | CHECKS.keys()
    for attack in ATTACKS.values():
        stops = (*attack.by.values(), *attack.without.values())
        assert {expected.by for expected in stops} <= known, attack.name
        assert bool(attack.gains) == any("succeeded" in expected.shows for expected in stops), attack.name
        assert attack.wants, attack.name


def test_there_are_attacks_enough_for_every_kind_of_helper() -> None:
    assert len(ATTACKS) >= 200
    for kind in ("pty", "datacopier", "bootloader", "program"):
        assert sum(kind in attack.by for attack in ATTACKS.values()) >= 140, kind
