# SPDX-License-Identifier: GPL-3.0-or-later
"""Every message that there is, in every state of a helper that does not take it: a violation, and nothing is kept.

The states and what they take are the supervisor's own table; the messages are well formed, and an fd comes with each.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.arena import Arena

from domward.protocol import messages, wire
from domward.protocol.errors import ProtocolViolation
from domward.protocol.schema import Message
from domward.supervisor.helper_states import ALLOWED, HelperState

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus" / "protocol"
CLASSES = [
    kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message) and kind.NAME
]
#: state -> the helper that gets into it, and when in its life. A program's helper never runs code that is not ours.
PLACES = {
    HelperState.STARTING: ("bootloader", "starting"),
    HelperState.IDLE: ("bootloader", "idle"),
    HelperState.OPENING: ("pty", "working"),
    HelperState.COPYING: ("datacopier", "working"),
    HelperState.READING: ("bootloader", "working"),
    HelperState.INSPECTING: ("bootloader", "inspecting"),
    HelperState.ANSWERED: ("bootloader", "answered"),
}


def datagram(kind: type[Message]) -> bytes:
    """A whole message where the corpus has one of the class; else its name, which is what is looked at first."""
    path = CORPUS / f"valid-{kind.NAME}.bin"
    return path.read_bytes() if path.exists() else wire.encode({wire.type_key: kind.NAME})


def test_every_state_but_death_and_the_work_of_programs_is_here() -> None:
    assert set(HelperState) - set(PLACES) <= {HelperState.DEAD, HelperState.RUNNING}
    assert len(CLASSES) > 20


@pytest.mark.parametrize("state", PLACES)
def test_a_message_that_the_state_does_not_take_is_a_violation(state: HelperState, arena: Arena) -> None:
    helper, when = PLACES[state]
    wrong = [kind for kind in CLASSES if kind not in ALLOWED[state]]
    assert wrong
    for kind in wrong:
        error = arena.say_out_of_state(helper, when, datagram(kind))
        assert isinstance(error, ProtocolViolation), (kind.NAME, error)
        assert kind.NAME in error.sentence
