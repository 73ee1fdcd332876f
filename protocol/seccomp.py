# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiles a reviewed policy text into the bytes of a seccomp filter.

A policy has one system call a line, with the reason after two dashes::

    read                                    -- the channel and the disk
    mmap if arg2 & PROT_EXEC == 0           -- memory, never executable
    ioctl if arg1 == TIOCGPTN               -- the pty's number
    ioctl -> ENOTTY                         -- nothing else

Several lines for one call are alternatives; `and` joins conditions of one line. A condition is `argN == VALUE` or
`argN & MASK == VALUE`, or one of them with `!=`, on all 64 bits. `-> ERROR` refuses the call with that error where no
other line allows it.

A helper's policy lists what it may call: all else kills the process. The policy of the privileged processes lists what
they may not: that fails with EPERM. A call of another architecture, x32 too, kills in either case. The file is data:
it is reviewed, linted and counted, and this module is all that reads it. A call that a machine does not have (poll on
aarch64, where ppoll stands in) is left out of its filter.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterable

from .errors import UsageError
from .records import frozen
from .syscall_numbers import AUDIT_ARCHITECTURES, NUMBERS

#: Names that conditions may use, from the kernel's headers; the same on every machine that NUMBERS knows.
CONSTANTS = {
    "PROT_EXEC": 0x4,
    "MAP_ANONYMOUS": 0x20,
    "MAP_HUGETLB": 0x40000,
    "O_RDWR_NOCTTY_CLOEXEC": 0x80102,
    "AT_EMPTY_PATH": 0x1000,
    "F_GETFL": 3,
    "F_DUPFD_CLOEXEC": 1030,
    "F_DUPFD": 0,
    "F_GETFD": 1,
    "F_SETFD": 2,
    "F_SETFL": 4,
    "F_GETLK": 5,
    "F_SETLK": 6,
    "F_SETLKW": 7,
    # NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; PARENT, PTRACE
    "CLONE_FORBIDDEN": 0x7E020000 | 0x8000 | 0x2000,
    "PR_SET_PDEATHSIG": 1,
    "PR_SET_NAME": 15,
    "PR_GET_NAME": 16,
    "FIONREAD": 0x541B,
    "FIONBIO": 0x5421,
    "FIOCLEX": 0x5451,
    "FIONCLEX": 0x5450,
    "BLKGETSIZE": 0x1260,
    "BLKSSZGET": 0x1268,
    "BLKGETSIZE64": 0x80081272,
    "TCGETS": 0x5401,
    "TCSETS": 0x5402,
    "TCSETSW": 0x5403,
    "TCSETSF": 0x5404,
    "TCSBRK": 0x5409,
    "TCFLSH": 0x540B,
    "TCGETS2": 0x802C542A,
    "TCSETS2": 0x402C542B,
    "TCSETSW2": 0x402C542C,
    "TCSETSF2": 0x402C542D,
    "TIOCSCTTY": 0x540E,
    "TIOCGPGRP": 0x540F,
    "TIOCSPGRP": 0x5410,
    "TIOCOUTQ": 0x5411,
    "TIOCGWINSZ": 0x5413,
    "TIOCGSID": 0x5429,
    "TIOCSWINSZ": 0x5414,
    "TIOCSPTLCK": 0x40045431,
    "TIOCGPTPEER": 0x5441,
    "TIOCSTI": 0x5412,
    "TIOCLINUX": 0x541C,
}

_LINE = re.compile(
    r"(?P<call>[a-z0-9_]+)(?: if (?P<conditions>[^-]+?))?(?: -> (?P<error>E[A-Z0-9]+))?\s+-- (?P<reason>\S.*)"
)
_CONDITION = re.compile(r"arg(?P<arg>[0-5])(?: & (?P<mask>\w+))? (?P<sign>[=!]=) (?P<value>\w+)")

_LD_ABS, _AND, _JEQ, _JGE, _RET = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_FARTHEST_JUMP = 255  # instructions
_X32_BIT = 0x40000000


@frozen
class Condition:
    """`args[arg] & mask == value`, on 64 bits; the opposite where not `equal`."""

    arg: int
    mask: int
    value: int
    equal: bool = True


@frozen
class Rule:
    """One line of a policy: allowed where all `conditions` hold, or refused with `errno` where that is not 0."""

    call: str
    conditions: tuple[Condition, ...]
    reason: str
    errno: int = 0


def parse(policy: str, name: str) -> tuple[Rule, ...]:
    """The rules of a policy text. Raises UsageError with the line that cannot be understood."""
    rules = []
    for place, line in enumerate(policy.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise UsageError(f"{name}, line {place}: not of the form CALL [if CONDITIONS] [-> ERROR] -- REASON.")
        if match["call"] not in NUMBERS["x86_64"]:
            raise UsageError(f"{name}, line {place}: the system call {match['call']} is not in the table of numbers.")
        where = f"{name}, line {place}"
        conditions = tuple(_condition(part, where) for part in (match["conditions"] or "").split(" and ") if part)
        rules.append(Rule(match["call"], conditions, match["reason"], _error(match["error"], conditions, where)))
    return tuple(rules)


def _error(name: str | None, conditions: tuple[Condition, ...], where: str) -> int:
    if name is None:
        return 0
    if conditions:
        raise UsageError(f"{where}: a line that refuses has no conditions: it is for what no other line allows.")
    number = getattr(errno, name, None)
    if not isinstance(number, int):
        raise UsageError(f"{where}: there is no error {name}.")
    return number


def _condition(text: str, where: str) -> Condition:
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{where}: the condition {text!r} is not of the form argN [& MASK] ==|!= VALUE.")
    mask = _value(match["mask"], where) if match["mask"] else 2**64 - 1
    value = _value(match["value"], where)
    if value & ~mask:
        raise UsageError(f"{where}: the condition {text!r} can never hold.")
    return Condition(int(match["arg"]), mask, value, match["sign"] == "==")


def _value(word: str, where: str) -> int:
    if word in CONSTANTS:
        return CONSTANTS[word]
    try:
        number = int(word, 0)
    except ValueError:
        raise UsageError(f"{where}: {word} is neither a number nor a known constant.") from None
    if number >= 2**64:
        raise UsageError(f"{where}: {word} does not fit an argument's 64 bits.")
    return number


def lint(rules: Iterable[Rule]) -> list[str]:
    """What a reviewer would object to: a call listed twice without conditions, or both with and without them."""
    objections = []
    seen: dict[str, list[Rule]] = {}
    for rule in rules:
        earlier = seen.setdefault(rule.call, [])
        if any(_pointless(other, rule) for other in earlier):
            objections.append(f"{rule.call} is listed again, and one of its lines makes the other pointless.")
        earlier.append(rule)
    return objections


def _pointless(one: Rule, other: Rule) -> bool:
    if bool(one.errno) != bool(other.errno):
        allowing = other if one.errno else one
        return not allowing.conditions
    return not one.conditions or not other.conditions or one.conditions == other.conditions


def reachable(rules: Iterable[Rule]) -> frozenset[str]:
    """The system calls that a policy lets through at all."""
    return frozenset(rule.call for rule in rules if not rule.errno)


def compile_filter(rules: Iterable[Rule], machine: str) -> bytes:
    """The filter that lets through what `rules` list and kills for all else, for `machine` ("x86_64" or "aarch64").

    It is an array of struct sock_filter. Raises UsageError.
    """
    return _compile(rules, machine, listed=_ALLOW, other=_KILL_PROCESS)


def compile_denials(rules: Iterable[Rule], machine: str) -> bytes:
    """As `compile_filter`, the other way round: what `rules` list fails with EPERM, and all else passes."""
    return _compile(rules, machine, listed=_ERRNO | errno.EPERM, other=_ALLOW)


def _compile(rules: Iterable[Rule], machine: str, listed: int, other: int) -> bytes:
    if machine not in NUMBERS:
        raise UsageError(f"There are no system call numbers for {machine}.")
    alternatives: dict[str, list[tuple[Condition, ...]]] = {}
    otherwise: dict[str, int] = {}
    for rule in rules:
        choices = alternatives.setdefault(rule.call, [])
        if rule.errno:
            otherwise[rule.call] = _ERRNO | rule.errno
        else:
            choices.append(rule.conditions)
    code = [
        _instruction(_LD_ABS, 4),
        _instruction(_JEQ, AUDIT_ARCHITECTURES[machine], 1, 0),
        _instruction(_RET, _KILL_PROCESS),
        _instruction(_LD_ABS, 0),
    ]
    if machine == "x86_64":
        code += [_instruction(_JGE, _X32_BIT, 0, 1), _instruction(_RET, _KILL_PROCESS)]
    for call, choices in alternatives.items():
        if call not in NUMBERS[machine]:
            continue
        block = [step for conditions in choices for step in _alternative(conditions, listed)]
        if not choices or choices[-1]:
            block.append(_instruction(_RET, otherwise.get(call, other)))
        if len(block) > _FARTHEST_JUMP:
            raise UsageError(f"The system call {call} has too many alternatives.")
        code.append(_instruction(_JEQ, NUMBERS[machine][call], 0, len(block)))
        code += block
    code.append(_instruction(_RET, other))
    return b"".join(code)


def _alternative(conditions: tuple[Condition, ...], action: int) -> list[bytes]:
    """Ends with `action` where all conditions hold; falls through where one does not."""
    steps: list[bytes] = [_instruction(_RET, action)]
    for condition in reversed(conditions):
        if condition.equal:
            steps = _half(condition, 0, 0, len(steps)) + steps
            steps = _half(condition, 1, 0, len(steps)) + steps
        else:  # one half that differs is enough
            low = _half(condition, 0, len(steps), 0)
            steps = _half(condition, 1, 0, len(low)) + low + steps
    return steps


def _half(condition: Condition, half: int, if_equal: int, if_not: int) -> list[bytes]:
    """Compares the lower (0) or upper (1) 32 bits, and jumps over so many instructions."""
    mask = condition.mask >> 32 * half & 0xFFFFFFFF
    value = condition.value >> 32 * half & 0xFFFFFFFF
    steps = [_instruction(_LD_ABS, 16 + 8 * condition.arg + 4 * half)]
    if mask != 0xFFFFFFFF:
        steps.append(_instruction(_AND, mask))
    return [*steps, _instruction(_JEQ, value, if_equal, if_not)]


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
