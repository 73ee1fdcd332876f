# SPDX-License-Identifier: GPL-3.0-or-later
"""The reviewed texts of helpers' seccomp policies, in the folder policy beside this module."""

from __future__ import annotations

import os

from domward.protocol.messages import HelperKind


def policy_text(kind: HelperKind) -> str:
    """The policy of a helper kind, as it was reviewed."""
    with open(os.path.join(os.path.dirname(__file__), "policy", f"{kind.value}.policy"), encoding="ascii") as file:
        return file.read()
