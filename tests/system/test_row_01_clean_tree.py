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
SIDES = ("supervisor/", "helpers/", "protocol/")
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

    def tracked(self) -> set[str]:
        return set(self._run("git", "ls-files", "-z", folder=self.path).rstrip("\0").split("\0"))

    def modules(self) -> set[str]:
        """Every file that is to be installed, as it is named within the package `domward`."""
        sides = {p for p in self.tracked() if p.startswith(SIDES) and not p.endswith("/ruff.toml")}
        return sides | {"__init__.py", "py.typed"}

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
        of_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    scripts = {path.name for path in (clone.path / "packaging/scripts").iterdir()}
    data = {name for name in of_wheel if ".data/scripts/" in name}
    assert {name.rpartition("/")[2] for name in data} == scripts
    modules = clone.modules()
    assert of_wheel - data == {f"domward/{path}" for path in modules}
    with tarfile.open(source) as archive_of_source:
        of_source = {member.name.partition("/")[2] for member in archive_of_source if member.isfile()}
    made = {name for name in of_source if ".egg-info/" in name or name in ("PKG-INFO", "setup.cfg")}
    besides = {path for path in clone.tracked() if path.startswith(("docs/", "packaging/")) or "/" not in path}
    assert of_source - made == {f"src/domward/{path}" for path in modules} | (besides - {".gitignore"})


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
