# SPDX-License-Identifier: GPL-3.0-or-later
"""Life cycles as function tables over (state, event): every change of state of an operation or a helper is a cell here.

An operation::

    new --start--> running --body-ended--> ending --released--> done
     `---cancel------^  (a body that is cancelled before its first step never runs)

A helper::

    starting --verified--> idle --ordered-*--> opening | copying | reading | inspecting | running --answer--> answered
        `------------------- death, from every state -----------------------------------------------------> dead

Every cell is filled: what an operation does not take is REFUSE (the caller's fault), NOTHING (too late to matter) or
IMPOSSIBLE; what a helper does not take is None, a violation. tests/unit/test_life_cycle.py walks all of them.
"""

from __future__ import annotations

import enum

from .helper_states import HelperState


class OperationState(enum.Enum):
    """Where an operation is."""

    NEW = "new"
    RUNNING = "running"
    ENDING = "ending"
    DONE = "done"


class OperationEvent(enum.Enum):
    """What can happen to an operation."""

    START = "start"
    CANCEL = "cancel"
    BODY_ENDED = "body-ended"
    RELEASED = "released"


class Reaction(enum.Enum):
    """What an operation does about an event."""

    RUN = "run"  # make the task of its body
    RUN_CANCELLED = "run-cancelled"  # the same, with the cancel already asked for
    INTERRUPT = "interrupt"  # end the body at its await
    RELEASE = "release"  # release its scope
    COMPLETE = "complete"  # let waiters see the completion
    NOTHING = "nothing"  # too late to matter
    REFUSE = "refuse"  # UsageError for the caller
    IMPOSSIBLE = "impossible"  # a step of its own task's that cannot come then: a defect


_NEW, _RUNNING, _ENDING, _DONE = OperationState

OPERATION: dict[OperationState, dict[OperationEvent, tuple[Reaction, OperationState]]] = {
    _NEW: {
        OperationEvent.START: (Reaction.RUN, _RUNNING),
        OperationEvent.CANCEL: (Reaction.RUN_CANCELLED, _RUNNING),
        OperationEvent.BODY_ENDED: (Reaction.IMPOSSIBLE, _NEW),
        OperationEvent.RELEASED: (Reaction.IMPOSSIBLE, _NEW),
    },
    _RUNNING: {
        OperationEvent.START: (Reaction.REFUSE, _RUNNING),
        OperationEvent.CANCEL: (Reaction.INTERRUPT, _RUNNING),
        OperationEvent.BODY_ENDED: (Reaction.RELEASE, _ENDING),
        OperationEvent.RELEASED: (Reaction.IMPOSSIBLE, _RUNNING),
    },
    _ENDING: {
        OperationEvent.START: (Reaction.REFUSE, _ENDING),
        OperationEvent.CANCEL: (Reaction.NOTHING, _ENDING),
        OperationEvent.BODY_ENDED: (Reaction.IMPOSSIBLE, _ENDING),
        OperationEvent.RELEASED: (Reaction.COMPLETE, _DONE),
    },
    _DONE: {
        OperationEvent.START: (Reaction.REFUSE, _DONE),
        OperationEvent.CANCEL: (Reaction.NOTHING, _DONE),
        OperationEvent.BODY_ENDED: (Reaction.IMPOSSIBLE, _DONE),
        OperationEvent.RELEASED: (Reaction.IMPOSSIBLE, _DONE),
    },
}


class HelperEvent(enum.Enum):
    """What can happen to a helper, as the supervisor sees it."""

    __hash__ = object.__hash__  # each member is one object; that of Enum is Python code that looks at its name

    VERIFIED = "verified"  # its confinement was looked at and is as asked for
    ORDERED_OPENING = "ordered-opening"
    ORDERED_COPYING = "ordered-copying"
    ORDERED_READING = "ordered-reading"
    ORDERED_INSPECTING = "ordered-inspecting"
    ORDERED_RUNNING = "ordered-running"
    ANSWER = "answer"  # one of helper_states.ANSWERS came
    DEATH = "death"


#: The event of giving a helper the work after which it is in that state.
ORDERS: dict[HelperState, HelperEvent] = {
    HelperState.OPENING: HelperEvent.ORDERED_OPENING,
    HelperState.COPYING: HelperEvent.ORDERED_COPYING,
    HelperState.READING: HelperEvent.ORDERED_READING,
    HelperState.INSPECTING: HelperEvent.ORDERED_INSPECTING,
    HelperState.RUNNING: HelperEvent.ORDERED_RUNNING,
}

_NO_ORDER: dict[HelperEvent, HelperState | None] = dict.fromkeys(ORDERS.values())


_AT_WORK: dict[HelperEvent, HelperState | None] = {
    HelperEvent.VERIFIED: None,
    **_NO_ORDER,
    HelperEvent.ANSWER: HelperState.ANSWERED,
    HelperEvent.DEATH: HelperState.DEAD,
}


#: (state, event) -> the state after it; None where the event may not happen in that state.
HELPER: dict[HelperState, dict[HelperEvent, HelperState | None]] = {
    HelperState.STARTING: {
        HelperEvent.VERIFIED: HelperState.IDLE,
        **_NO_ORDER,
        HelperEvent.ANSWER: None,  # a step that failed is told by `start`, and then it dies
        HelperEvent.DEATH: HelperState.DEAD,
    },
    HelperState.IDLE: {
        HelperEvent.VERIFIED: None,
        **{event: state for state, event in ORDERS.items()},
        HelperEvent.ANSWER: None,
        HelperEvent.DEATH: HelperState.DEAD,
    },
    **dict.fromkeys(ORDERS, _AT_WORK),
    HelperState.ANSWERED: {
        HelperEvent.VERIFIED: None,
        **_NO_ORDER,
        HelperEvent.ANSWER: None,
        HelperEvent.DEATH: HelperState.DEAD,
    },
    HelperState.DEAD: {
        HelperEvent.VERIFIED: None,
        **_NO_ORDER,
        HelperEvent.ANSWER: None,
        HelperEvent.DEATH: HelperState.DEAD,  # `close` is idempotent
    },
}
