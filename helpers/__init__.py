# SPDX-License-Identifier: GPL-3.0-or-later
"""The unprivileged side: the launcher and the helpers that it forks."""
