# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of attacks: what each is called, which helpers it runs in, and what is expected to stop it there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

#: What stops an attack and is no layer of the confinement.
CHECKS = {
    "program's contract": "what a program leaves is checked before anything is copied, and no link is followed",
    "open mode": "the fd was opened for reading only",
    "own session": "the terminal belongs to another session, and the helper has none",
    "protocol check": "the supervisor takes none but the messages and fds that this state allows",
    "result check": "the supervisor seals, measures and hashes a result once its helper is dead",
    "terminal filter": "the relay lets nothing through to a person's terminal but what draws",
    "budget": "the operation's limits of time and size",
    "reaping": "the supervisor ends its helpers by SIGKILL, through their pidfds",
    "kernel": "the kernel refuses this of anybody",
    "host setting": "a setting of this host's kernel",
    "nothing": "it succeeds, and is listed as such",
}


#: An attack takes an Attacker; one that no peer runs may ask for a HelperAttacker.
Work = Callable[[Any], None]


class Stop(NamedTuple):
    """What stops an attack: a layer (its value in protocol/layers) or one of CHECKS, and how that shows.

    `shows` are names of errnos, "SIGSYS" for a process killed at the call, "prevented" where every call was let
    through to no effect, or "succeeded".
    """

    by: str
    shows: frozenset[str]


def stop(by: str, *shows: str) -> Stop:
    """As `Stop`."""
    return Stop(by, frozenset(shows))


SECCOMP = stop("seccomp", "SIGSYS")
ALL = ("pty", "datacopier", "bootloader")


@dataclass(frozen=True)
class Attack:
    """One attack. `by` and `without` say for each helper kind what stops it, with seccomp and without.

    `gains` says what an attack that succeeds without seccomp gives the attacker. `peers` says whether it makes sense,
    and does no harm, inside pygrub and bubblewrap.
    """

    name: str
    theme: str
    wants: str
    work: Work
    by: dict[str, Stop]
    without: dict[str, Stop]
    gains: str
    peers: bool

    @property
    def takes_its_time(self) -> bool:
        """Whether only the operation's time-out ends it."""
        return any("timed-out" in expected.shows for expected in self.by.values())


ATTACKS: dict[str, Attack] = {}


def attack(
    *,
    without: Stop | Mapping[str, Stop] | None,
    by: Stop | Mapping[str, Stop] = SECCOMP,
    kinds: tuple[str, ...] = ALL,
    peers: bool = True,
    gains: str = "",
) -> Callable[[Work], Work]:
    """Registers a function as an attack, named and described by the function's own name and docstring.

    Where `by` or `without` is a mapping, the key "" stands for the kinds that it does not name. `without` None says
    that seccomp has no part in it, so that nothing is to be seen without it.
    """

    def register(work: Work) -> Work:
        add(work, work.__name__.replace("_", "-"), work.__doc__ or "", without, by, kinds, peers, gains)
        return work

    return register


def add(
    work: Work,
    name: str,
    wants: str,
    without: Stop | Mapping[str, Stop] | None,
    by: Stop | Mapping[str, Stop] = SECCOMP,
    kinds: tuple[str, ...] = ALL,
    peers: bool = True,
    gains: str = "",
) -> None:
    """Registers an attack whose name and wish are not those of one function: one of a family."""
    assert name not in ATTACKS, name
    theme = work.__module__.rpartition(".")[2]
    ATTACKS[name] = Attack(
        name,
        theme,
        wants.strip().splitlines()[0].rstrip("."),
        work,
        _each(by, kinds, SECCOMP),
        _each(without, kinds),
        gains,
        peers,
    )


def _each(
    given: Stop | Mapping[str, Stop] | None, kinds: tuple[str, ...], default: Stop | None = None
) -> dict[str, Stop]:
    if given is None:
        return {}
    if isinstance(given, Stop):
        return dict.fromkeys(kinds, given)
    return {kind: given.get(kind) or given.get("") or default or given[kind] for kind in kinds}
