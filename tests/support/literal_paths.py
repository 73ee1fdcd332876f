# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds absolute paths that are written out in code, and everything that takes a path from the environment."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_PATH = re.compile(r"/(?:[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]*)*)?\Z|.*/(?:proc|dev|run|var|sys|tmp|etc|usr|home|root)\b")
_ASKS = {
    "environ", "environb", "getenv", "getenvb", "putenv", "expanduser", "expandvars", "gettempdir", "gettempdirb",
    "mkdtemp", "mkstemp", "home", "get_exec_path", "execvp", "execvpe", "execlp", "spawnvp", "posix_spawnp", "which",
    "getcwdu", "getlogin",
}  # fmt: skip
_ASKING_MODULES = {"tempfile", "shutil", "getpass", "subprocess", "site", "sysconfig"}


def paths_written_out(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each string, docstrings aside, that is an absolute path or begins with one.

    What follows a value within an f-string goes on from there, and is no path by itself.
    """
    tree = ast.parse(source)
    not_looked_at = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    not_looked_at |= {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values[1:]
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in not_looked_at:
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if len(text) > 0 and _PATH.match(text):
                yield node.lineno, text


def environment_asked(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of each use of something that looks into the environment, or knows folders of its own."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in _ASKS:
                yield node.lineno, name
            case ast.Import(names=names):
                yield from ((node.lineno, one.name) for one in names if one.name.split(".")[0] in _ASKING_MODULES)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                if module.split(".")[0] in _ASKING_MODULES:
                    yield node.lineno, module
                yield from ((node.lineno, one.name) for one in names if one.name in _ASKS)
            case _:
                continue


def modules(repository: Path, *sides: str) -> list[Path]:
    """Every module of `sides`."""
    return sorted(path for side in sides for path in (repository / side).rglob("*.py"))
