# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks; a package, since that is what the scope of the arena needs to end with it."""
