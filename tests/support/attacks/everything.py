# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole table of attacks, with every theme's module loaded."""

from __future__ import annotations

from . import budgets, files, network, privileges, processes, programs, protocol, resources, results, terminals
from .in_programs import expect
from .table import ATTACKS, Attack

THEMES = {
    "files": files,
    "processes": processes,
    "privileges": privileges,
    "network": network,
    "terminals": terminals,
    "resources": resources,
    "programs": programs,
    "budgets": budgets,
    "protocol": protocol,
    "results": results,
}

expect()

__all__ = ["ATTACKS", "THEMES", "Attack"]
