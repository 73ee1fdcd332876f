# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 01: a build, a test run, lint, types and a package build leave `git status` clean, in a clone of this tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BUILD = "from setuptools import build_meta; build_meta.build_sdist('dist'); build_meta.build_wheel('dist')"
TESTS = ("tests/unit/test_protocol_wire.py", "tests/unit/test_leases.py")


class Clone:
    """A clone of what is committed here, in which programs can be run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clone"
        (folder / "gitconfig").write_text("[safe]\n\tdirectory = *\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "PYTHONPATH": str(self.path / "src"),
            "LC_ALL": "C.UTF-8",
        }
        self._run("git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, self.path, folder=folder)

    def _run(self, *command: str | Path, folder: Path) -> str:
        done = subprocess.run(command, cwd=folder, env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, *words: str) -> str:
        return self._run(sys.executable, *words, folder=self.path)

    def status(self) -> str:
        return self._run("git", "status", "--porcelain", folder=self.path)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this machine has no git history of the tree")
    return Clone(tmp_path)


def test_row_01_wheel_and_source_package_leave_the_tree_clean_and_are_whole(clone: Clone) -> None:
    clone.python("-c", BUILD)
    assert clone.status() == ""
    (wheel,) = (clone.path / "dist").glob("*.whl")
    (source,) = (clone.path / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for side in ("supervisor", "helpers", "protocol"):
        for path in (REPOSITORY / side).rglob("*"):
            tracked = (clone.path / path.relative_to(REPOSITORY)).exists()
            if tracked and path.suffix in (".py", ".policy"):
                assert f"domward/{path.relative_to(REPOSITORY)}" in names
    assert not any(name.startswith(("tests/", "supervisor/", "helpers/", "protocol/")) for name in names)
    with tarfile.open(source) as archive_of_source:
        assert any(name.endswith("/pyproject.toml") for name in archive_of_source.getnames())


def test_row_01_a_test_run_with_coverage_lint_and_types_leave_the_tree_clean(clone: Clone) -> None:
    clone.python("-m", "coverage", "run", "-m", "pytest", "-q", *TESTS)
    assert clone.status() == ""
    clone.python("-m", "ruff", "check", "--quiet", "protocol")
    clone.python("-m", "mypy", "protocol/limits.py")
    assert clone.status() == ""
    assert any(path.name == "__pycache__" for path in (clone.path / "protocol").iterdir())  # it did run here


def test_row_01_litter_would_be_seen(clone: Clone) -> None:
    (clone.path / "protocol" / "left.txt").touch()
    assert clone.status() == "?? protocol/left.txt\n"
