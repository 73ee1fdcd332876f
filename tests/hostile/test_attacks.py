# SPDX-License-Identifier: GPL-3.0-or-later
"""Every attack of the table, in every helper that it makes sense in: stopped by what the table says, with no effect.

Without seccomp the same attack must be stopped by the next layer, or the table says what it gains.
"""

from __future__ import annotations

import pytest
from support.arena import Arena
from support.attacks.everything import ATTACKS, Attack
from support.attacks.table import CHECKS, Stop

from domward.protocol.layers import Layer

ATTACK = pytest.mark.parametrize("name", ATTACKS)


def problems(attack: Attack, stops: dict[str, Stop], arena: Arena, *, seccomp: bool) -> list[str]:
    found = []
    for kind, expected in stops.items():
        outcome = arena.outcome(attack.name, kind, seccomp=seccomp)
        if not outcome.is_one_of(expected.shows):
            found.append(f"{kind}: {outcome.describe()}, and not one of {sorted(expected.shows)}")
        if expected.by != "nothing":
            found += [f"{kind}: {line}" for line in outcome.differences]
    return found


@ATTACK
def test_an_attack_is_stopped_by_what_the_table_says_and_has_no_effect(name: str, arena: Arena) -> None:
    assert problems(ATTACKS[name], dict(ATTACKS[name].by), arena, seccomp=True) == []


@ATTACK
def test_without_seccomp_the_next_layer_stops_it(name: str, arena: Arena) -> None:
    assert problems(ATTACKS[name], dict(ATTACKS[name].without), arena, seccomp=False) == []


@ATTACK
def test_an_attack_names_what_is_known_and_says_what_its_success_would_gain(name: str) -> None:
    attack = ATTACKS[name]
    known = {layer.value for layer in Layer} | CHECKS.keys()
    assert {expected.by for expected in (*attack.by.values(), *attack.without.values())} <= known
    may_succeed = any("succeeded" in expected.shows for expected in attack.without.values())
    assert bool(attack.gains) == may_succeed
    assert all("succeeded" not in expected.shows for expected in attack.by.values())
    assert attack.wants
