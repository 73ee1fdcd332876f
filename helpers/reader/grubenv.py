# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB's environment block: the small file in which GRUB keeps variables from one boot to the next."""

from __future__ import annotations

import re

from domward.protocol import limits

from .config_budget import ConfigBudget

SIGNATURE = b"# GRUB Environment Block\n"

_LINE = re.compile(rb"((?:[^\\\n]|\\.)*+)\n", re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


def parse_environment(content: bytes, budget: ConfigBudget) -> dict[bytes, bytes]:
    """The variables in `content`; empty where it lacks the signature, as `load_env` then fails.

    A line is NAME=VALUE; a backslash keeps the byte after it, a newline included; lines that start with `#` are
    padding or remarks (GRUB manual, "Environment block"). DiskError(BUDGET) where there are too many.
    """
    variables: dict[bytes, bytes] = {}
    if not content.startswith(SIGNATURE):
        return variables
    position = len(SIGNATURE)
    while line := _LINE.match(content, position):
        position = line.end()
        budget.step()
        untrusted_name, equals, untrusted_value = line[1].partition(b"=")
        if equals and untrusted_name and not untrusted_name.startswith(b"#"):
            if len(variables) >= limits.CONFIG_VARIABLES:
                break
            variables[untrusted_name] = _ESCAPE.sub(rb"\1", untrusted_value)
    return variables
