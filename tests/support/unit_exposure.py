# SPDX-License-Identifier: GPL-3.0-or-later
"""What `systemd-analyze security` holds against a unit, and what docs/administration.md says to it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_REASON = re.compile(r"`([^`]+)` \(([0-9.]+)\)")
_FIGURE = re.compile(r"\*\*([0-9.]+)\*\*")


def exposures(analysis: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Name and weight of each exposure in the JSON form of the analysis."""
    return {one["name"]: float(one["exposure"]) for one in analysis if one["exposure"] and float(one["exposure"]) > 0}


def documented(page: str) -> dict[str, float]:
    """Name and weight of each exposure for which `page` gives a reason."""
    return {name: float(weight) for name, weight in _REASON.findall(page)}


def figure(page: str) -> float:
    """The overall figure that `page` gives."""
    found = _FIGURE.search(page)
    assert found is not None
    return float(found[1])
