# SPDX-License-Identifier: GPL-3.0-or-later
"""domward: a privilege-separated supervisor for a Xen dom0.

The library's entry points are in :mod:`domward.supervisor`. This module imports nothing, so that
a helper process which imports `domward.helpers` never loads a line of the privileged side.
"""

__version__ = "0.1.0"
