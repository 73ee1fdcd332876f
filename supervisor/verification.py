# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at a helper from outside, through /proc, before it gets anything of a guest's.

What the kernel shows is compared with what was asked for, layer by layer; the first difference ends the helper. Three
layers cannot be seen in /proc (securebits, the parent-death signal and Landlock): the launcher's code reads the first
two back and tries the third, in every helper, before the helper has seen anything, and stops where one does not hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from domward.protocol import limits
from domward.protocol.errors import ConfinementFailed
from domward.protocol.layers import NAMESPACE_FILES, Layer
from domward.protocol.messages import HelperKind, Spawn

from .paths import NULL_DEVICE, PROC

#: Layers that /proc does not show.
UNSEEN = frozenset({Layer.SECUREBITS, Layer.PARENT_DEATH, Layer.LANDLOCK})

_SECCOMP_FILTER = "2"
_STATUS_BYTES = 16 * limits.KIB


@dataclass(frozen=True, slots=True)
class Verified:
    """What was seen: the layers, and which of them the kernel itself confirmed."""

    pid: int
    uid: int
    layers: tuple[Layer, ...]
    seen: tuple[Layer, ...]


def verify(pid: int, request: Spawn, claimed: tuple[Layer, ...], required: frozenset[Layer]) -> Verified:
    """Checks the helper `pid` against its `request`. Raises ConfinementFailed with the layer that differs.

    `claimed` is what the helper says it has, `required` what it must have. The caller holds the pidfd of `pid`, so
    the number cannot have passed to another process.
    """
    helper = f"{request.kind.value} {pid}"
    absent = required - set(claimed)
    if absent:
        raise _differs(min(absent, key=lambda layer: layer.value), "the helper does not have it", helper)
    try:
        process = psutil.Process(pid)
        status = _read_status(pid)
        seen = []
        for layer in claimed:
            if layer in UNSEEN:
                continue
            problem = _CHECKS[layer](process, status, request)
            if problem:
                raise _differs(layer, problem, helper)
            seen.append(layer)
        extra = _unexpected_fds(pid)
    except (OSError, psutil.Error) as error:
        raise ConfinementFailed(
            f"A helper's confinement could not be looked at: {error}.", step="verify", helper=helper
        ) from error
    if extra:
        raise ConfinementFailed(f"A helper has fds that it was not given: {extra}.", step="fds", helper=helper)
    if process.ppid() != os.getpid():
        raise ConfinementFailed("A helper is not a child of the supervisor.", step="parent", helper=helper)
    return Verified(pid, request.uid, claimed, tuple(seen))


def _differs(layer: Layer, problem: str, helper: str) -> ConfinementFailed:
    return ConfinementFailed(
        f"A helper's confinement did not verify at layer {layer.value!r}: {problem}.", step=layer.value, helper=helper
    )


def _read_status(pid: int) -> dict[str, str]:
    with open(f"{PROC}/{pid}/status", "rb") as file:
        lines = file.read(_STATUS_BYTES).decode("ascii", "replace").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _user(process: psutil.Process, status: dict[str, str], request: Spawn) -> str:
    uids, gids = status.get("Uid", "").split(), status.get("Gid", "").split()
    if uids != [str(request.uid)] * 4 or gids != [str(request.gid)] * 4:
        return f"its uids are {uids} and its gids {gids}"
    return "" if process.num_threads() == 1 else "it has more than one thread"


def _groups(_process: psutil.Process, status: dict[str, str], _request: Spawn) -> str:
    return f"its groups are {status['Groups']}" if status.get("Groups", "?") else ""


def _namespace(layer: Layer) -> Callable[[psutil.Process, dict[str, str], Spawn], str]:
    name = NAMESPACE_FILES[layer]

    def check(process: psutil.Process, _status: dict[str, str], _request: Spawn) -> str:
        theirs, ours = (os.readlink(f"{PROC}/{pid}/ns/{name}") for pid in (process.pid, os.getpid()))
        return "it shares the supervisor's" if theirs == ours else ""

    return check


def _root(process: psutil.Process, status: dict[str, str], request: Spawn) -> str:
    problem = _namespace(Layer.MOUNT)(process, status, request)
    if problem:
        return problem
    root = f"{PROC}/{process.pid}/root"
    expected = {"ptmx", "pts"} if request.kind is HelperKind.PTY else set()
    found = set(os.listdir(root))
    return f"its root holds {sorted(found)}" if found != expected else ""


def _pid_namespace(process: psutil.Process, status: dict[str, str], request: Spawn) -> str:
    if status.get("NSpid", "").split()[-1:] != ["1"]:
        return "it is not the first process of its namespace"
    return _namespace(Layer.PID)(process, status, request)


def _rlimits(process: psutil.Process, _status: dict[str, str], request: Spawn) -> str:
    # /proc/PID/limits and not prlimit(2), which asks for CAP_SYS_RESOURCE even to look.
    with open(f"{PROC}/{process.pid}/limits", "rb") as file:
        lines = file.read(_STATUS_BYTES).decode("ascii", "replace").splitlines()
    for title, value in (
        ("Max address space", request.address_space),
        ("Max cpu time", request.cpu_seconds),
        ("Max file size", request.file_bytes),
        ("Max open files", limits.HELPER_FDS),
        ("Max processes", 0),
        ("Max core file size", 0),
        ("Max locked memory", 0),
        ("Max msgqueue size", 0),
    ):
        found = [line.removeprefix(title).split()[:2] for line in lines if line.startswith(title)]
        if found != [[str(value)] * 2]:
            return f"{title.lower()} is {found} and not {value}"
    return ""


def _capabilities(_process: psutil.Process, status: dict[str, str], _request: Spawn) -> str:
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(status.get(name, "1"), 16) != 0:
            return f"{name} is {status.get(name)}"
    return ""


def _no_new_privs(_process: psutil.Process, status: dict[str, str], _request: Spawn) -> str:
    return "" if status.get("NoNewPrivs") == "1" else "it is not set"


def _dumpable(process: psutil.Process, _status: dict[str, str], request: Spawn) -> str:
    owner = os.stat(f"{PROC}/{process.pid}/status").st_uid  # proc(5): root's where it is not dumpable
    return "it could be traced" if owner == request.uid else ""


def _seccomp(_process: psutil.Process, status: dict[str, str], _request: Spawn) -> str:
    return "" if status.get("Seccomp") == _SECCOMP_FILTER else f"its mode is {status.get('Seccomp')}"


def _unexpected_fds(pid: int) -> list[str]:
    """What a helper has beside /dev/null and its one channel."""
    folder = f"{PROC}/{pid}/fd"
    targets = {number: os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}
    sockets = [target for target in targets.values() if target.startswith("socket:")]
    others = [
        target
        for number, target in targets.items()
        if not target.startswith("socket:") and not (target.startswith(NULL_DEVICE) and number in "012")
    ]
    return others + sockets[1:]


_CHECKS: dict[Layer, Callable[[psutil.Process, dict[str, str], Spawn], str]] = {
    Layer.USER: _user,
    Layer.GROUPS: _groups,
    Layer.MOUNT: _root,
    Layer.PID: _pid_namespace,
    Layer.NETWORK: _namespace(Layer.NETWORK),
    Layer.IPC: _namespace(Layer.IPC),
    Layer.UTS: _namespace(Layer.UTS),
    Layer.CGROUP: _namespace(Layer.CGROUP),
    Layer.RLIMITS: _rlimits,
    Layer.CAPABILITIES: _capabilities,
    Layer.NO_NEW_PRIVS: _no_new_privs,
    Layer.DUMPABLE: _dumpable,
    Layer.SECCOMP: _seccomp,
}
