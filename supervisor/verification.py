# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at launchers and helpers from outside, through /proc, before they get anything of a guest's.

What the kernel shows is compared with what was asked for, layer by layer; the first difference ends the helper. Three
layers cannot be seen in /proc (securebits, the parent-death signal and Landlock): the launcher's code reads the first
two back and tries the third, in every helper, before the helper has seen anything, and stops where one does not hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

from domward.protocol import limits
from domward.protocol.errors import ConfinementFailed
from domward.protocol.layers import NAMESPACE_FILES, Layer
from domward.protocol.messages import HelperKind, Spawn
from domward.protocol.privileges import LAUNCHER_KEEPS, capability_bits, capability_names
from domward.protocol.records import frozen

from .paths import NULL_DEVICE, PROC, PROGRAM_MOUNTS, PROGRAM_MOUNTS_OF_SOME

#: Layers that /proc does not show.
UNSEEN = frozenset({Layer.SECUREBITS, Layer.PARENT_DEATH, Layer.LANDLOCK})

_VIEW = (b"ro", b"nodev")
_MOUNTS_BYTES = 64 * limits.KIB

_SECCOMP_FILTER = "2"
_STATUS_BYTES = 16 * limits.KIB
_STATUS_LINE = re.compile(r"^([A-Za-z_]+):[ \t]*([^\n]*)", re.MULTILINE)
_LIMIT_NAME = 26  # characters: the column of names in /proc/PID/limits


@frozen
class Privileges:
    """What /proc shows of a process's privileges: sets of capabilities as bits, and how many seccomp filters it has."""

    effective: int
    permitted: int
    inheritable: int
    bounding: int
    ambient: int
    no_new_privs: bool
    filters: int

    @classmethod
    def of(cls, pid: int) -> Privileges:
        """Those of `pid`. Raises OSError."""
        return cls.shown(_read_status(pid))

    @classmethod
    def shown(cls, status: Mapping[str, str]) -> Privileges:
        """Those that a status file of /proc shows."""

        def capabilities(name: str) -> int:
            return int(status.get(name, "f" * 16), 16)  # what is not shown counts as all of them

        return cls(
            effective=capabilities("CapEff"),
            permitted=capabilities("CapPrm"),
            inheritable=capabilities("CapInh"),
            bounding=capabilities("CapBnd"),
            ambient=capabilities("CapAmb"),
            no_new_privs=status.get("NoNewPrivs") == "1",
            filters=_filters(status),
        )

    @property
    def most(self) -> int:
        """Every capability that is in any of the sets."""
        return self.effective | self.permitted | self.inheritable | self.bounding | self.ambient


def _filters(status: Mapping[str, str]) -> int:
    return int(status.get("Seccomp_filters", "0")) if status.get("Seccomp") == _SECCOMP_FILTER else 0


def verify_launcher(pid: int, *, seccomp: bool) -> Privileges:
    """Checks that the launcher `pid` gave its privileges up; `seccomp` says whether this kernel has filters.

    The caller holds its pidfd. Raises ConfinementFailed.
    """
    try:
        seen = Privileges.of(pid)
    except OSError as error:
        raise ConfinementFailed(f"The launcher could not be looked at: {error}.", step="verify") from error
    kept = capability_bits(LAUNCHER_KEEPS)
    problem = ""
    if seen.most & ~kept or seen.inheritable or seen.ambient:
        problem = f"it holds {', '.join(capability_names(seen.most))}"
    elif not seen.no_new_privs:
        problem = "it can gain privileges by executing a program"
    elif seccomp and seen.filters == 0:
        problem = "it has no seccomp filter"
    if problem:
        raise ConfinementFailed(
            f"The launcher's privileges did not verify: {problem}.",
            step="launcher-privileges",
            helper=f"launcher {pid}",
        )
    return seen


@frozen
class Verified:
    """What was seen: the layers, and which of them the kernel itself confirmed."""

    pid: int
    uid: int
    layers: tuple[Layer, ...]
    seen: tuple[Layer, ...]


@frozen
class _Helper:
    """What is looked at: the process, its status in /proc, what was asked for, and its launcher's own filters."""

    pid: int
    status: Mapping[str, str]
    request: Spawn
    inherited_filters: int


def verify(
    pid: int, request: Spawn, claimed: tuple[Layer, ...], required: frozenset[Layer], inherited_filters: int
) -> Verified:
    """Checks the helper `pid` against its `request`. Raises ConfinementFailed with the layer that differs.

    `claimed` is what the helper says it has, `required` what it must have, and `inherited_filters` how many seccomp
    filters it has from its launcher. The caller holds the pidfd of `pid`, so the number cannot have passed to another
    process.
    """
    helper = f"{request.kind.value} {pid}"
    absent = required - set(claimed)
    if absent:
        raise _differs(min(absent, key=lambda layer: layer.value), "the helper does not have it", helper)
    try:
        looked_at = _Helper(pid, _read_status(pid), request, inherited_filters)
        seen = []
        for layer in claimed:
            if layer in UNSEEN:
                continue
            problem = _CHECKS[layer](looked_at)
            if problem:
                raise _differs(layer, problem, helper)
            seen.append(layer)
        extra = _unexpected_fds(pid)
    except OSError as error:
        raise ConfinementFailed(
            f"A helper's confinement could not be looked at: {error}.", step="verify", helper=helper
        ) from error
    if extra:
        raise ConfinementFailed(f"A helper has fds that it was not given: {extra}.", step="fds", helper=helper)
    if looked_at.status.get("PPid") != str(os.getpid()):
        raise ConfinementFailed("A helper is not a child of the supervisor.", step="parent", helper=helper)
    return Verified(pid, request.uid, claimed, tuple(seen))


def _differs(layer: Layer, problem: str, helper: str) -> ConfinementFailed:
    return ConfinementFailed(
        f"A helper's confinement did not verify at layer {layer.value!r}: {problem}.", step=layer.value, helper=helper
    )


def _read_status(pid: int) -> dict[str, str]:
    return dict(_STATUS_LINE.findall(_read(pid, "status").decode("ascii", "replace")))


def _read(pid: int, name: str) -> bytes:
    """A short file of /proc, in one read; open() asks the kernel more about it than there is in it."""
    number = os.open(f"{PROC}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(number, _STATUS_BYTES)
    finally:
        os.close(number)


def _user(helper: _Helper) -> str:
    uids, gids = helper.status.get("Uid", "").split(), helper.status.get("Gid", "").split()
    if uids != [str(helper.request.uid)] * 4 or gids != [str(helper.request.gid)] * 4:
        return f"its uids are {uids} and its gids {gids}"
    return "" if helper.status.get("Threads") == "1" else "it has more than one thread"


def _groups(helper: _Helper) -> str:
    return f"its groups are {helper.status['Groups']}" if helper.status.get("Groups", "?") else ""


def _namespace(layer: Layer) -> Callable[[_Helper], str]:
    name = NAMESPACE_FILES[layer]

    def check(helper: _Helper) -> str:
        theirs, ours = (os.readlink(f"{PROC}/{pid}/ns/{name}") for pid in (helper.pid, os.getpid()))
        return "it shares the supervisor's" if theirs == ours else ""

    return check


def _root(helper: _Helper) -> str:
    problem = _namespace(Layer.MOUNT)(helper)
    if problem:
        return problem
    if helper.request.kind is HelperKind.PROGRAM:
        return _mounts(helper.pid)
    root = f"{PROC}/{helper.pid}/root"
    expected = {"ptmx", "pts"} if helper.request.kind is HelperKind.PTY else set()
    found = set(os.listdir(root))
    return f"its root holds {sorted(found)}" if found != expected else ""


def _mounts(pid: int) -> str:
    """What is wrong with the mounts of a program's helper (helpers/program_root)."""
    with open(f"{PROC}/{pid}/mountinfo", "rb") as file:
        lines = [line.split() for line in file.read(_MOUNTS_BYTES).splitlines()]
    found = {line[4].decode(): {*line[5].split(b",")} for line in lines}
    if not PROGRAM_MOUNTS.keys() <= found.keys() <= PROGRAM_MOUNTS.keys() | PROGRAM_MOUNTS_OF_SOME:
        return f"its mounts are {sorted(found)}"
    for place, options in found.items():
        wanted = {b"nosuid", *PROGRAM_MOUNTS.get(place, _VIEW)}
        if wanted - options:
            return f"{place} is mounted without {b','.join(sorted(wanted - options)).decode()}"
    return ""


def _pid_namespace(helper: _Helper) -> str:
    if helper.status.get("NSpid", "").split()[-1:] != ["1"]:
        return "it is not the first process of its namespace"
    return _namespace(Layer.PID)(helper)


def _rlimits(helper: _Helper) -> str:
    # /proc/PID/limits and not prlimit(2), which asks for CAP_SYS_RESOURCE even to look.
    lines = _read(helper.pid, "limits").decode("ascii", "replace").splitlines()
    shown = {line[:_LIMIT_NAME].rstrip(): line[_LIMIT_NAME:].split()[:2] for line in lines}
    for title, value in (
        ("Max address space", helper.request.address_space),
        ("Max cpu time", helper.request.cpu_seconds),
        ("Max file size", helper.request.file_bytes),
        ("Max open files", limits.HELPER_FDS),
        ("Max processes", helper.request.processes),
        ("Max core file size", 0),
        ("Max locked memory", 0),
        ("Max msgqueue size", 0),
    ):
        found = shown.get(title)
        if found != [str(value)] * 2:
            return f"{title.lower()} is {found} and not {value}"
    return ""


def _capabilities(helper: _Helper) -> str:
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(helper.status.get(name, "1"), 16) != 0:
            return f"{name} is {helper.status.get(name)}"
    return ""


def _no_new_privs(helper: _Helper) -> str:
    return "" if helper.status.get("NoNewPrivs") == "1" else "it is not set"


def _dumpable(helper: _Helper) -> str:
    owner = os.stat(f"{PROC}/{helper.pid}/status").st_uid  # proc(5): root's where it is not dumpable
    return "it could be traced" if owner == helper.request.uid else ""


def _seccomp(helper: _Helper) -> str:
    # By number: a helper without a filter of its own would still show its launcher's.
    filters = _filters(helper.status)
    return "" if filters > helper.inherited_filters else f"it has {filters} filters, as its launcher"


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


_CHECKS: dict[Layer, Callable[[_Helper], str]] = {
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


def verify_emulator(pid: int, uid: int, without: frozenset[Layer]) -> None:
    """Checks that the guest's emulator `pid`, which runs already, has `uid` and what /proc shows of its layers.

    Those are the layers of `helpers/emulator` but for the ones in `without`. The caller holds its pidfd. Raises
    ConfinementFailed.
    """
    problem = ""
    try:
        status, ours = _read_status(pid), Privileges.of(os.getpid())
        shown = Privileges.shown(status)
        for layer in (Layer.NETWORK, Layer.IPC, Layer.UTS, Layer.CGROUP):
            theirs, own = (os.readlink(f"{PROC}/{number}/ns/{NAMESPACE_FILES[layer]}") for number in (pid, os.getpid()))
            if theirs == own and layer not in without:
                problem = f"it shares the supervisor's {layer.value}"
    except OSError as error:
        problem = f"it could not be looked at: {error.strerror}"
    else:
        if status.get("Uid", "").split() != [str(uid)] * 4 or status.get("Gid", "").split() != [str(uid)] * 4:
            problem = f"its uids are {status.get('Uid')} and its gids {status.get('Gid')}"
        elif shown.most and Layer.CAPABILITIES not in without:
            problem = f"it holds {', '.join(capability_names(shown.most))}"
        elif not shown.no_new_privs and Layer.NO_NEW_PRIVS not in without:
            problem = "it can gain privileges by executing a program"
        elif shown.filters <= ours.filters and Layer.SECCOMP not in without:
            problem = "it has no seccomp filter of its own"
    if problem:
        raise ConfinementFailed(
            f"The confinement of a guest's emulator did not verify: {problem}.", step="emulator", helper=f"qemu {pid}"
        )
