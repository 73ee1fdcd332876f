# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes an ordinary user's process root of a user namespace of its own, so that it can confine helpers.

For the `domward` command, before it starts anything. What the process may do to the host stays what the user may do;
inside the namespace it has the capabilities that confining takes. By cases:

===========================================  ==========================================================================
newuidmap(1), /etc/subuid and /etc/subgid    helpers get uids of the user's own range: every layer is there
none of them                                 only the user's uid exists inside: helpers run as the user, so that the
                                             layers `user` and `groups` are missing; refused unless they are optional
no user namespace for this user              ConfinementUnavailable
===========================================  ==========================================================================

Of the range, the third quarter is used: containers of the same user give their processes the uids at both ends.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from domward.protocol.errors import ConfinementUnavailable, OperationFailed
from domward.protocol.layers import Layer
from domward.protocol.records import frozen
from domward.protocol.typed import TypedDict

from . import kernel, paths

_LEAST_UIDS = 256  # uids: a smaller range has no quarter that is worth it
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_MOST_UIDS = 65_536  # uids: what a user usually gets


class Settings(TypedDict, total=False):
    """What `Config` takes of it."""

    uid_base: int
    uid_count: int
    state_directory: Path


@frozen
class Entered:
    """Who the process was before, and what it has inside; `uid_count` 0 where there is no uid for helpers."""

    uid: int
    gid: int
    uid_base: int
    uid_count: int
    state_directory: Path


_entered: Entered | None = None
_problem: ConfinementUnavailable | OperationFailed | None = None


def enter() -> None:
    """Makes this process, which must have one thread, root of a user namespace. Only once; does nothing for root.

    Raises ConfinementUnavailable, OperationFailed; then `settings` will raise the same.
    """
    global _entered, _problem
    if os.geteuid() == 0:
        return
    try:
        _entered = _enter()
    except (ConfinementUnavailable, OperationFailed) as error:
        _problem = error
        raise


def settings() -> Settings:
    """What a configuration must have here; empty for root. Raises what `enter` has raised."""
    if _problem is not None:
        raise _problem
    if _entered is None:
        return {}
    found: Settings = {"state_directory": _entered.state_directory}
    if _entered.uid_count:
        found |= {"uid_base": _entered.uid_base, "uid_count": _entered.uid_count}
    return found


def allowed() -> bool:
    """Whether this kernel has user namespaces, and any may be made here; what else may forbid it shows when trying."""
    try:
        return paths.USER_NAMESPACE.exists() and int(_read(paths.MOST_USER_NAMESPACES)) > 0
    except FileNotFoundError:  # before Linux 4.9 there is no limit
        return paths.USER_NAMESPACE.exists()


def entered() -> bool:
    """Whether this process is an ordinary user's, in a user namespace that `enter` made."""
    return _entered is not None


def caller() -> tuple[int, int]:
    """The uid and gid by which the host knows this process."""
    return (os.getuid(), os.getgid()) if _entered is None else (_entered.uid, _entered.gid)


def missing_layers(uid_base: int, uid_count: int) -> frozenset[Layer]:
    """The layers that this process's user namespace cannot give to helpers with these uids, and gids."""
    found = set()
    if not all(_holds(_read(name), uid_base, uid_count) for name in (paths.UID_MAP, paths.GID_MAP)):
        found.add(Layer.USER)
    if _read(paths.SETGROUPS).strip() == "deny":
        found.add(Layer.GROUPS)
    return frozenset(found)


def _holds(mapping: str, base: int, count: int) -> bool:
    """Whether one line of an id map has all ids from `base` on."""
    rows = [[int(word) for word in line.split()] for line in mapping.splitlines()]
    return any(first <= base and base + count <= first + length for first, _outside, length in rows)


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii")


def _enter() -> Entered:
    uid, gid = os.getuid(), os.getgid()
    directory = _state_directory(uid)
    names = {str(uid), *_name_of(uid)}
    uids, gids = (subordinate_ids(_if_there(path), names) for path in (paths.SUBUID, paths.SUBGID))
    tools = os.access(paths.NEWUIDMAP, os.X_OK) and os.access(paths.NEWGIDMAP, os.X_OK)
    if uids is None or gids is None or not tools:
        _unshare()
        try:
            paths.SETGROUPS.write_text("deny")
            paths.UID_MAP.write_text(f"0 {uid} 1")
            paths.GID_MAP.write_text(f"0 {gid} 1")
        except OSError as error:
            raise _unavailable(f"its ids could not be set: {error.strerror}") from error
        return Entered(uid, gid, 0, 0, directory)
    count = min(uids[1], gids[1], _MOST_UIDS)
    _map_ranges((uid, uids[0]), (gid, gids[0]), count)
    return Entered(uid, gid, 1 + count // 2, count // 4, directory)


def subordinate_ids(text: str, names: Iterable[str]) -> tuple[int, int] | None:
    """(first, count) of the largest range that `text`, a subuid(5) file, gives to one of `names`."""
    ranges = [
        (int(words[2]), int(words[1]))
        for words in (line.split(":") for line in text.splitlines())
        if len(words) == 3 and words[0] in names and _NUMBER.fullmatch(words[1]) and _NUMBER.fullmatch(words[2])
    ]
    count, first = max(ranges, default=(0, 0))
    return (first, count) if count >= _LEAST_UIDS else None


def _unshare() -> None:
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
    except OSError as error:
        raise _unavailable(f"the kernel refuses it: {error.strerror}") from error


def _unavailable(reason: str) -> ConfinementUnavailable:
    return ConfinementUnavailable(
        f"Confining helpers takes root, or a user namespace, and {reason}.",
        advice="Run domward as root, or allow user namespaces (see sysctl user.max_user_namespaces).",
    )


def _map_ranges(uids: tuple[int, int], gids: tuple[int, int], count: int) -> None:
    """Unshares, and has newuidmap and newgidmap map 0 to the caller and the ids from 1 on to the range.

    They must run outside the new namespace, where set-uid programs work: in a child that is forked before.
    """
    ready, go = os.pipe()
    commands = [
        (tool, [str(tool), str(os.getpid()), *map(str, (0, own, 1, 1, first, count))])
        for tool, (own, first) in ((paths.NEWUIDMAP, uids), (paths.NEWGIDMAP, gids))
    ]
    pid = os.fork()
    if pid == 0:
        _mapping_child(ready, go, commands)
    os.close(ready)
    try:
        try:
            _unshare()
            os.write(go, b"+")
        finally:
            os.close(go)
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise _unavailable("newuidmap or newgidmap refused the range of subuid or subgid")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _mapping_child(ready: int, go: int, commands: list[tuple[Path, list[str]]]) -> None:
    """Waits for the namespace, runs `commands`, and ends with 0 where all did."""
    code = 1
    try:
        os.close(go)
        if os.read(ready, 1):
            quiet = [(os.POSIX_SPAWN_OPEN, number, paths.NULL_DEVICE, os.O_RDWR, 0) for number in (0, 1, 2)]
            children = (os.posix_spawn(tool, words, {}, file_actions=quiet) for tool, words in commands)
            code = 0 if all(os.waitpid(child, 0)[1] == 0 for child in children) else 1
    finally:
        os._exit(code)


def _state_directory(uid: int) -> Path:
    """A folder that this user alone can write, made if it is missing: below that of the login session, or in /tmp."""
    session = paths.USER_SESSIONS / str(uid)
    directory = paths.TEMPORARY / f"domward-{uid}"
    try:
        with contextlib.suppress(FileNotFoundError):
            found = session.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == uid:
                directory = session / "domward"
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise OperationFailed(f"The folder {directory} cannot be made: {error.strerror}.") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OperationFailed(f"The folder {directory} is not this user's alone.", advice="Have it removed.")
    return directory


def _name_of(uid: int) -> tuple[str, ...]:
    try:
        return (pwd.getpwuid(uid).pw_name,)
    except KeyError:
        return ()


def _if_there(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
