# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole table of attacks, with every theme's module loaded."""

from __future__ import annotations

from . import budgets, files, network, privileges, processes, protocol, resources, results, terminals
from .table import ATTACKS, Attack

THEMES = {
    "files": files,
    "processes": processes,
    "privileges": privileges,
    "network": network,
    "terminals": terminals,
    "resources": resources,
    "budgets": budgets,
    "protocol": protocol,
    "results": results,
}

__all__ = ["ATTACKS", "THEMES", "Attack"]
