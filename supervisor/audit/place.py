# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the audit log is when nobody says: this host's for root, and one below the home folder for anybody else."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from domward.protocol.errors import AuditUnavailable

from .. import paths, user_namespace

_BELOW_HOME = (".local", "state", "domward")
_FOLDER_MODE = 0o700


def default_log() -> Path:
    """The log of runs by this process's user; of the home folder, what the password database says counts.

    Its folders are made where they are missing and can be. Raises AuditUnavailable for a user without a home.
    """
    uid, _gid = user_namespace.caller()
    if uid == 0:
        return paths.AUDIT_LOG
    try:
        folder = Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        raise AuditUnavailable(
            f"User {uid} is in no password database and so has no place for an audit log.",
            advice="Name one with --audit-log.",
        ) from None
    for name in _BELOW_HOME:
        folder /= name
        with contextlib.suppress(OSError):  # the log says what is wrong when it is opened
            os.mkdir(folder, _FOLDER_MODE)
    return folder / paths.AUDIT_LOG.name
