# SPDX-License-Identifier: GPL-3.0-or-later
"""What the supervisor knows of the hypervisor: so far xenstore, for the life of the domains that operations are for.

Its handles are opened by the supervisor alone, after the launcher was exec'd, and are close-on-exec: no launcher and no
helper ever has one.
"""
