# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log: who asked for what, what ran with which confinement, what came of it, in a chain of hashes.

`trail` is what operations use; `log` and `writer` put records on the disk; `verify`, `show` and
`report_page` read them. Nothing is imported here: a run loads only what writes.
"""
