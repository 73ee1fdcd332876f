# SPDX-License-Identifier: GPL-3.0-or-later
"""The attacks that also run where domward's own code is not: in a bootloader program and in the peers."""

from __future__ import annotations

from . import files, network, privileges, processes, programs, resources, terminals
from .table import ATTACKS

__all__ = ["ATTACKS", "files", "network", "privileges", "processes", "programs", "resources", "terminals"]
