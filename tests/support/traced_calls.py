# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lines of the seccomp policies are used: helpers traced with strace(1), from the moment their filter is loaded.

`installed(folder)` puts a .pth file into this interpreter's site-packages while tests run; through it every launcher
goes on under ``strace -D -f``, which keeps its pid and follows the helpers that it makes. `collected(folder)` gives for
each kind of helper the lines of its policy that let some call through. A test does it for runs that use all that a
helper can do (tests/system/test_policies_in_use.py), and `make trace` for the whole suite.
"""

from __future__ import annotations

import contextlib
import os
import re
import sysconfig
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from domward.helpers.policies import policy_text
from domward.protocol.messages import HelperKind
from domward.protocol.seccomp import Condition, Rule, compile_filter, parse

MACHINE = os.uname().machine
NOT_SEEN, AT_TIMES = "not seen: ", "at times: "
_MARK = "DOMWARD_TRACED"
# Launchers in which a test planted something are left alone: what they do says nothing of a policy.
_PTH = (
    "import os, sys; exec(\"if any(word.endswith('start_launcher.py') for word in sys.orig_argv)"
    " and {mark!r} not in os.environ:\\n"
    " os.execve('/usr/bin/strace', ['strace', '-D', '-f', '-ff', '-qq', '-s0', '--pidns-translation',"
    " '-e', 'raw=!seccomp,execve,fork,vfork,clone', '-e', 'signal=none', '-o', {prefix!r} + str(os.getpid()),"
    " *sys.orig_argv],"
    " {{**os.environ, {mark!r}: '1'}})\")\n"
)
_LOADED = re.compile(r"seccomp\(SECCOMP_SET_MODE_FILTER, 0, \{len=(\d+), .*= 0$")
_CALL = re.compile(r"([a-z0-9_]+)\((.*?)\)\s+=|([a-z0-9_]+)\((.*?)(?:\)| <unfinished \.\.\.>)")
# Decoded, unlike the others: in raw form strace does not say which process of its own namespace the child is.
_CHILD = re.compile(r"(?:v?fork|clone)\(.* = \d+ /\* (\d+) in strace's PID NS \*/$")
_GRACE_SECONDS = 10.0


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Has launchers that start meanwhile traced; each process leaves a file in `folder`."""
    pth = Path(sysconfig.get_path("purelib")) / f"domward_traced_calls_{os.getpid()}.pth"
    pth.write_text(_PTH.format(mark=_MARK, prefix=f"{folder}/launcher-"))
    try:
        yield
    finally:
        pth.unlink()


def name_of(rule: Rule) -> str:
    """How a line is named: the call, and its conditions if it has any."""
    return " ".join((rule.call, *(_shown(condition) for condition in rule.conditions)))


def _shown(condition: Condition) -> str:
    return f"arg{condition.arg}&{condition.mask:#x}{'=' if condition.equal else '!'}={condition.value:#x}"


def rules_of(kind: HelperKind) -> tuple[Rule, ...]:
    """The policy of a kind."""
    return parse(policy_text(kind), kind.value)


def collected(folder: Path) -> dict[str, list[str]]:
    """The names of the lines that were used, by kind of helper, in the order of each policy."""
    lengths = {len(compile_filter(rules_of(kind), MACHINE)) // 8: kind for kind in HelperKind}
    assert len(lengths) == len(HelperKind), "two filters of one length cannot be told apart in a trace"
    used: dict[HelperKind, set[str]] = {kind: set() for kind in HelperKind}
    started = {child for path in folder.iterdir() for child in _children(path)}
    for path in folder.iterdir():
        if path not in started:
            _read(path, None, lengths, used)
    return {kind.value: [name for name in map(name_of, rules_of(kind)) if name in used[kind]] for kind in HelperKind}


def _children(path: Path) -> Iterator[Path]:
    """The traces of the processes that one started, but for helpers, which have a policy of their own."""
    for line in path.read_text(errors="replace").splitlines():
        if child := _CHILD.match(line):
            yield path.with_suffix(f".{child[1]}")


def _read(
    path: Path,
    kind: HelperKind | None,
    lengths: dict[int, HelperKind],
    used: dict[HelperKind, set[str]],
) -> None:
    """Adds what a process used that began under the policy of `kind`, if any, and what those used that it started."""
    rules = rules_of(kind) if kind is not None else ()
    for line in path.read_text(errors="replace").splitlines():
        loaded = _LOADED.match(line)
        if loaded and int(loaded[1]) in lengths:
            kind = lengths[int(loaded[1])]
            rules = rules_of(kind)
        elif kind is not None and (call := _CALL.match(line)):
            name, words = call[1] or call[3], call[2] if call[1] else call[4]
            arguments = [_number(word) for word in words.split(", ")] if words else []
            used[kind].update(name_of(rule) for rule in rules if rule.call == name and _holds(rule, arguments))
        child = _CHILD.match(line)
        if child and path.with_suffix(f".{child[1]}").exists():
            _read(path.with_suffix(f".{child[1]}"), kind, lengths, used)


def _number(word: str) -> int:
    try:
        return int(word, 0) & 2**64 - 1
    except ValueError:
        return 0


def _holds(rule: Rule, arguments: list[int]) -> bool:
    """Whether this line let a call with these arguments through."""
    if rule.errno:
        return False
    for condition in rule.conditions:
        if condition.arg >= len(arguments):
            return False
        if (arguments[condition.arg] & condition.mask == condition.value) is not condition.equal:
            return False
    return True


def settled(folder: Path) -> None:
    """Waits until strace has written all: its files are complete when each traced process's end is in them."""
    end = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < end and any(not _ended(path) for path in folder.iterdir()):
        time.sleep(0.02)


def _ended(path: Path) -> bool:
    last = path.read_text(errors="replace").rstrip().rpartition("\n")[2]
    return last.startswith(("+++", "exit_group("))


def objections(found: dict[str, list[str]], kinds: Collection[HelperKind] = tuple(HelperKind)) -> Iterator[str]:
    """Where what was used and what the policies of `kinds` say of themselves differ.

    A line that was not used must say why it is there all the same: its reason begins with NOT_SEEN, or with AT_TIMES
    where it depends on the run. One that was used must not be marked NOT_SEEN.
    """
    for kind in kinds:
        for rule in rules_of(kind):
            used = name_of(rule) in found[kind.value]
            if used and rule.reason.startswith(NOT_SEEN):
                yield f"{kind.value}: {name_of(rule)} is marked as not seen, and was used"
            marked = rule.reason.startswith((NOT_SEEN, AT_TIMES)) or rule.errno
            if not used and not marked:
                yield f"{kind.value}: {name_of(rule)} was not used, and does not say why it is allowed"
