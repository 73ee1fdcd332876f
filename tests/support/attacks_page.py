# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/attacks.md: the table of attacks, made from what was seen in a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from support.arena import Arena, Outcome
from support.attacks.everything import ATTACKS, THEMES, Attack
from support.attacks.table import CHECKS, Stop
from support.peer_sandboxes import BWRAP

# What decides outcomes beside the kernel itself, where this host has it.
_SETTINGS = (
    "kernel/dmesg_restrict", "kernel/io_uring_disabled", "kernel/kptr_restrict", "kernel/perf_event_paranoid",
    "kernel/unprivileged_bpf_disabled", "kernel/unprivileged_userns_clone", "kernel/yama/ptrace_scope",
    "vm/unprivileged_userfaultfd",
)  # fmt: skip
COLUMNS = ("attack", "in", "stopped by", "without seccomp by", "pygrub --runas", "bwrap --unshare-all")
# What a refused call says about a sandbox, where nobody declares what it has.
MEANINGS = {
    "ENOENT": "no such path",
    "EROFS": "read-only",
    "ESRCH": "no such process",
    "EPERM": "no privilege",
    "EACCES": "no privilege",
    "EAGAIN": "limit",
    "EMFILE": "limit",
    "ENOMEM": "limit",
    "ENETUNREACH": "no network",
    "EADDRNOTAVAIL": "no network",
    "ECONNREFUSED": "no such service",
    "EAFNOSUPPORT": "not in this kernel",
    "ENOSYS": "not in this kernel",
    "EINVAL": "refused",
    "ENODEV": "no such device",
    "ENXIO": "no such device",
}


def page(arena: Arena, peers: Mapping[str, Mapping[str, str]]) -> str:
    """The whole page."""
    rows = [row for theme in THEMES for row in _theme(theme, arena, peers)]
    count = sum(len(attack.by) for attack in ATTACKS.values())
    return _HEAD.format(
        attacks=len(ATTACKS), rows=count, surroundings=surroundings(), bwrap=" ".join(BWRAP), checks=_list(CHECKS)
    ) + "\n".join([*rows, "", _TAIL, *_unstopped(), ""])


def surroundings() -> str:
    """The sentence of a page that says of which machines it is: another build or setting gives other outcomes."""
    system = os.uname()
    settings = [Path("/proc/sys", name) for name in _SETTINGS]
    facts = [system.release, system.version, Path("/etc/debian_version").read_text()]
    facts += [f"{setting} {setting.read_text()}" for setting in settings if setting.exists()]
    kernel = ".".join(system.release.split(".")[:2])
    return f"This page is of Linux {kernel}, build and settings {sha256(repr(facts).encode()).hexdigest()[:12]}."


def _list(checks: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}**: {text}." for name, text in checks.items())


def _theme(theme: str, arena: Arena, peers: Mapping[str, Mapping[str, str]]) -> list[str]:
    lines = ["", f"## {theme.capitalize()}", "", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    for attack in ATTACKS.values():
        if attack.theme == theme:
            lines += [_row(cells) for cells in _cells(attack, arena, peers)]
    return lines


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(attack: Attack, arena: Arena, peers: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """One row for all helpers in which the same happens."""
    together: dict[tuple[str, str], list[str]] = {}
    for kind, expected in attack.by.items():
        first = _seen(expected, arena.outcome(attack.name, kind, seccomp=True))
        second = "the same"
        if kind in attack.without:
            second = _seen(attack.without[kind], arena.outcome(attack.name, kind, seccomp=False))
        together.setdefault((first, second), []).append(kind)
    others = [_at_peer(found[attack.name]) if attack.peers else "-" for found in peers.values()]
    name = f"**{attack.name}**: {attack.wants}"
    return [[name, ", ".join(kinds), *both, *others] for both, kinds in together.items()]


def _seen(expected: Stop, outcome: Outcome) -> str:
    assert outcome.is_one_of(expected.shows), outcome.describe()
    shown = outcome.shows if outcome.shows in expected.shows else outcome.code
    if outcome.shows == "ENOSYS" and "ENOSYS" not in expected.shows:
        return "not in this kernel"
    if expected.by == "nothing" or (shown == "succeeded" and expected.by != "terminal filter"):
        return f"**nothing** ({shown})"
    return f"{expected.by} ({_WORDS.get(shown, shown)})"


def _at_peer(shows: str) -> str:
    if shows == "succeeded":
        return "**succeeded**"
    return f"{MEANINGS[shows]} ({shows})" if shows in MEANINGS else shows


def _unstopped() -> list[str]:
    """What succeeds, with seccomp and without it, and what it gains."""
    lines = []
    sides: tuple[tuple[str, Callable[[Attack], Mapping[str, Stop]]], ...] = (
        ("With every layer on:", lambda attack: attack.by),
        ("Where seccomp is missing, and was named optional:", lambda attack: attack.without),
    )
    for title, stops in sides:
        lines += ["", title, ""]
        for attack in ATTACKS.values():
            kinds = [kind for kind, expected in stops(attack).items() if expected.by == "nothing" and attack.gains]
            if kinds:
                lines.append(f"- **{attack.name}** ({', '.join(kinds)}): {attack.gains}.")
    return lines


_WORDS = {"SIGSYS": "killed", "SIGKILL": "killed"}
_HEAD = """# Attacks

{attacks} attacks run from inside domward's helpers, {rows} runs in all with each helper counted, as somebody would who
has taken the whole process over: its memory, its fds, its channel, and raw system calls. `tests/hostile` makes each of
them in real, confined helpers of a real operation, looks at the host before and after, and fails where one is not
stopped by what is named here or where this page says anything else than the run. What is compared from outside: canary
files, a process of root with a secret in its memory, the terminal of a person, services on loopback and on Unix
sockets, System V objects, keys, mounts, settings of the kernel, processes left behind.

`DOMWARD_WRITE_ATTACKS=1 pytest tests/hostile/test_attacks_page.py` writes this page anew.

{surroundings}

- **in**: the helper that was taken over. In `program`, the attacker is a bootloader program such as pygrub, of which it
  is always to be expected: it is any program, and may do what ordinary programs do.
- **stopped by**: a layer of the confinement (see SECURITY.md) or one of the checks below, and how that shows: `killed`
  is SIGSYS at that very call, `prevented` is that every call was let through and changed nothing; else the error that
  the attacker got, or how the operation ended.
- **without seccomp by**: the same attack where seccomp is missing and was named optional: what stands behind it.
- **pygrub --runas**: the same attack in pygrub 4.17 of Debian 12, where it parses the disk, after it has given up its
  privilege, in the place of its library libxenfsimage.
- **bwrap --unshare-all**: the same attack as a program in bubblewrap 0.8, run by root with
  `{bwrap} PROGRAM`, which shows it all
  files, as a bootloader that is any program of the host would need. Where a capability helped it, that is one in a
  user namespace.

{checks}
"""
_TAIL = """## What is not stopped

A row that says **nothing** is an attack that succeeds. Each is listed with what the attacker has from it."""
