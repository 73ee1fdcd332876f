# SPDX-License-Identifier: GPL-3.0-or-later
"""The folders import each other only as DESIGN section 3 allows: the tree obeys, and each rule is seen to fire."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.folder_rules import SIDES, violations

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("side", SIDES)
def test_the_tree_obeys(side: str) -> None:
    modules = sorted((REPOSITORY / side).rglob("*.py"))
    assert modules
    found = [line for path in modules for line in violations(path.read_text(), path.relative_to(REPOSITORY))]
    assert found == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("helpers/x.py", "import domward.supervisor"),
        ("helpers/x.py", "import domward.supervisor.cli as c"),
        ("helpers/x.py", "from domward import supervisor"),
        ("helpers/x.py", "from domward.supervisor.cli import main"),
        ("helpers/x.py", "from ..supervisor import cli"),
        ("helpers/x.py", "from .. import supervisor"),
        ("helpers/reader/x.py", "from ...supervisor import cli"),
        ("helpers/reader/x.py", "from ... import supervisor"),
        ("helpers/reader/x.py", "from .... import anything"),
        ("helpers/x.py", "def f():\n    import domward.supervisor"),
        ("helpers/x.py", "importlib.import_module('domward.supervisor.cli')"),
        ("helpers/x.py", "import_module('..supervisor', __package__)"),
        ("helpers/x.py", "__import__('domward.supervisor')"),
        ("supervisor/x.py", "from domward.helpers import launcher"),
        ("supervisor/x.py", "from ..helpers.launcher import main"),
        ("protocol/x.py", "from domward.helpers import launcher"),
        ("protocol/x.py", "from ..supervisor import cli"),
        ("helpers/x.py", "import ctypes"),
        ("helpers/x.py", "from prctl import set_name"),
        ("helpers/reader/kernel.py", "import ctypes"),
        ("supervisor/x.py", "import ctypes.util"),
        ("protocol/kernel.py", "import domward.supervisor"),
    ],
)
def test_a_forbidden_import_is_found(path: str, line: str) -> None:
    assert len(violations(line, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("helpers/reader/x.py", "from ..kernel import clone"),
        ("helpers/reader/x.py", "from . import image"),
        ("helpers/x.py", "from domward.protocol import channel"),
        ("helpers/kernel.py", "import ctypes, prctl"),
        ("supervisor/x.py", "LAUNCHER = 'domward.helpers.launcher'"),
        ("supervisor/kernel.py", "import ctypes"),
    ],
)
def test_an_allowed_import_is_not_found(path: str, line: str) -> None:
    assert violations(line, Path(path)) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("helpers/x.py", "from domward.supervisor.cli import main"),
        ("helpers/reader/x.py", "from domward import supervisor"),
        ("helpers/x.py", "import ctypes"),
        ("supervisor/x.py", "import domward.helpers.launcher"),
        ("supervisor/x.py", "import prctl"),
        ("protocol/x.py", "from domward.helpers import launcher"),
        ("protocol/x.py", "from domward.supervisor import cli"),
    ],
)
def test_ruff_refuses_a_forbidden_import(path: str, line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251", "--stdin-filename", path, "-"],
        input=line + "\n",
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "TID251" in done.stdout
