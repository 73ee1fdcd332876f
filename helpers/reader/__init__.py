# SPDX-License-Identifier: GPL-3.0-or-later
"""The built-in reader: volume, file system and boot configuration, each behind the protocols of `interface`.

Everything here runs confined, reads hostile bytes, and reports every fault as `DiskError`.
"""
