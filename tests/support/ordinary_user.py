# SPDX-License-Identifier: GPL-3.0-or-later
"""An ordinary user's session: a uid of its own, with or without a range of uids in /etc/subuid.

The files of /etc that say so, and /run/user, are mounted for the command alone: nothing of the machine changes.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.installation import ORDINARY

FIRST_SUBUID, SUBUIDS = 500_000, 65_536
_MADE = ("nsswitch.conf", "login.defs", "ld.so.cache", "group", "alternatives")
# sh's own $0 is the folder that becomes /etc.
_SESSION = (
    'mount --bind "$0" /etc && mount -t tmpfs tmpfs /run/user && {session} '
    'exec setpriv --reuid {uid} --regid {uid} --clear-groups "$@"'
)
_LOGGED_IN = "mkdir /run/user/{uid} && chown {uid}:{uid} /run/user/{uid} && chmod 700 /run/user/{uid} &&"
# In a user namespace of its own, where it may say so, and again as itself.
_NO_NAMESPACES = 'echo 0 >"/proc/sys/user/max_$0_namespaces" && exec "$@"'


@dataclass(frozen=True)
class OrdinaryUser:
    """Words that run a command as this user: what `before` of `Installation.domward` takes, with uid=0."""

    etc: Path
    logged_in: bool = True

    @classmethod
    def made(
        cls, folder: Path, *, with_range: bool = True, logged_in: bool = True, home: str | Path = "/nonexistent"
    ) -> OrdinaryUser:
        """Makes what is to be /etc in `folder`. Skips the test where there is no newuidmap(1)."""
        if with_range and shutil.which("newuidmap") is None:
            pytest.skip("this machine has no newuidmap")
        Path("/run/user").mkdir(exist_ok=True)
        folder.mkdir()
        for name in _MADE:
            source = Path("/etc", name)
            if source.is_dir():
                shutil.copytree(source, folder / name, symlinks=True)
            elif source.exists():
                shutil.copyfile(source, folder / name)
        user = f"ordinary:x:{ORDINARY}:{ORDINARY}::{home}:/bin/sh\n"
        (folder / "passwd").write_text(Path("/etc/passwd").read_text() + user)
        for name in ("subuid", "subgid"):
            (folder / name).write_text(f"ordinary:{FIRST_SUBUID}:{SUBUIDS}\n" if with_range else "")
        return cls(folder, logged_in)

    @property
    def words(self) -> tuple[str, ...]:
        """The command that runs another as this user."""
        session = (_LOGGED_IN if self.logged_in else "").format(uid=ORDINARY)
        script = _SESSION.format(uid=ORDINARY, session=session)
        return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, os.fspath(self.etc))

    def without(self, kind: str) -> tuple[str, ...]:
        """As `words`, where no namespace of this kind ("user", "net", ...) can be made."""
        inside = ("unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", _NO_NAMESPACES, kind)
        return (*self.words, *inside)
