# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may import what (DESIGN section 3), for every way of writing an import that ruff's banned-api does not resolve.

helpers/ never imports supervisor/, supervisor/ never imports helpers/, protocol/ imports neither; raw calls (ctypes,
prctl) sit in kernel.py of a side and nowhere else. Relative imports and import_module("...") with a name written
out are resolved as Python does.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

SIDES = ("helpers", "supervisor", "protocol")
FORBIDDEN = {
    "helpers": ("domward.supervisor",),
    "supervisor": ("domward.helpers",),
    "protocol": ("domward.supervisor", "domward.helpers"),
}
RAW_CALLS = ("ctypes", "prctl", "_ctypes", "_prctl", "cffi")
IMPORTERS = ("import_module", "__import__", "resolve_name")


def violations(source: str, path: Path) -> list[str]:
    """One line for each forbidden import in `source`, the module at `path` relative to the repository."""
    side = path.parts[0]
    inside = ("domward", *path.with_suffix("").parts)
    package = ".".join(inside[:-1])
    found = []
    for line, name in _imported(ast.parse(source), package):
        if name.startswith("."):
            found.append(f"{path}:{line}: {name} leads out of domward")
        if any(_within(name, banned) for banned in FORBIDDEN[side]):
            found.append(f"{path}:{line}: {side}/ must not import {name}")
        if any(_within(name, raw) for raw in RAW_CALLS) and path.parts[1:] != ("kernel.py",):
            found.append(f"{path}:{line}: {name} is for kernel.py alone")
    return found


def _within(name: str, banned: str) -> bool:
    return name == banned or name.startswith(banned + ".")


def _imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything that the module may import, names taken from a package included."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield node.lineno, alias.name
            case ast.ImportFrom():
                base = _resolved("." * node.level + (node.module or ""), package)
                for alias in node.names:
                    yield node.lineno, f"{base}.{alias.name}"
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(str(name)), *_]):
                if called in IMPORTERS:
                    yield node.lineno, _resolved(name, package)


def _resolved(name: str, package: str) -> str:
    """The absolute name; one that leads out of the package stays relative."""
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:
        return name
